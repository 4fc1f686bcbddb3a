"""The package as it is installed: what it holds, what it needs, what it says."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import ray

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {"README.md": README} | {
    page.name: page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")
}
EXAMPLES = [
    pytest.param(example, id=f"{name}-{number}")
    for name, text in PAGES.items()
    for number, example in enumerate(re.findall(r"```python\n(.*?)```", text, re.S))
]


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"flwr_byz", "flwr_byz-0.1.0.dist-info"}
    assert {"flwr_byz/py.typed", "flwr_byz/theory/calibration.jsonl"} <= set(names)


@pytest.mark.parametrize(
    ("module", "strangers"),
    [
        ("flwr_byz.aggregation", ["flwr", "torch", "ray", "scipy"]),
        ("flwr_byz.attacks", ["flwr", "torch", "ray", "scipy"]),
        ("flwr_byz.theory", ["flwr", "torch", "ray", "scipy", "matplotlib"]),
        ("flwr_byz.cli", ["flwr", "torch", "ray", "scipy", "matplotlib"]),
        ("flwr_byz.redteam.command", ["flwr", "torch", "ray", "scipy", "matplotlib"]),
        ("flwr_byz.serverapp.strategy", ["torch", "ray", "scipy", "matplotlib"]),
        ("flwr_byz.server.strategy", ["torch", "ray", "scipy", "matplotlib"]),
        ("clients.app", ["torch", "ray", "sklearn", "datasets", "matplotlib"]),
        ("simulations.server_app", ["torch", "ray", "sklearn", "datasets", "matplotlib"]),
    ],
)
def test_a_module_needs_no_more_than_it_should(module, strangers):
    code = f"import {module}, sys; print([m for m in {strangers} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_of_the_docs_runs(example):
    try:
        exec(compile(example, "example", "exec"), {})
    finally:
        ray.shutdown()


def test_the_files_that_the_readme_names_are_there():
    for name in re.findall(r"\]\((?!http|#)([^)]+)\)", README):
        assert (ROOT / name).exists(), name
