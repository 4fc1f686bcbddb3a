"""The package as it is installed: what it holds, what it needs, what it says."""

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import ray

import flwr_byz

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGES = {"README.md": README} | {
    page.name: page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")
}
EXAMPLES = [
    pytest.param(example, id=f"{name}-{number}")
    for name, text in PAGES.items()
    for number, example in enumerate(re.findall(r"```python\n(.*?)```", text, re.S))
]


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert flwr_byz.__version__ == PROJECT["version"]
    assert re.search(r"^version: (.*)$", citation, re.M)[1] == PROJECT["version"]
    assert re.search(r"^## \[(\d.*)\]", changelog, re.M)[1] == PROJECT["version"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def test_the_wheel_holds_the_package_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    metadata = f"flwr_byz-{PROJECT['version']}.dist-info"
    assert {name.split("/")[0] for name in names} == {"flwr_byz", metadata}
    assert {"flwr_byz/py.typed", "flwr_byz/theory/calibration.jsonl"} <= set(names)


def test_the_sdist_holds_what_its_tests_need(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"pyproject.toml", "README.md", "CHANGELOG.md", "CITATION.cff", "Makefile"} <= names
    for folder in [
        "flwr_byz",
        "tests",
        "clients",
        "simulations",
        "trial",
        "benchmarks",
        "examples",
    ]:
        sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*.py")}
        assert sources <= names


def imported(source):
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def test_the_package_declares_what_it_imports_and_nothing_else():
    modules = {name for source in (ROOT / "flwr_byz").rglob("*.py") for name in imported(source)}
    extras = [need for needs in PROJECT["optional-dependencies"].values() for need in needs]
    declared = {re.match(r"[\w-]+(\[\w+\])?", need)[0] for need in PROJECT["dependencies"] + extras}
    names = {"protobuf": "google", "flwr[simulation]": "ray"}
    needs = {names.get(need, need) for need in declared if not need.startswith("flwr-byz")}
    assert modules - sys.stdlib_module_names - {"flwr_byz"} == needs


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


def test_commands_that_run_an_app_name_its_nodes():
    blocks = [b for text in PAGES.values() for b in re.findall(r"```\w*\n(.*?)```", text, re.S)]
    commands = [c for b in blocks for c in re.findall(r"^flwr run (?:.*\\\n)*.*", b, re.M)]
    assert commands
    for command in commands:  # of a simulation, or of a deployment to devices
        named = re.search(r"num-supernodes=\d+|^flwr run \. \w+.*\bnum-clients=\d+", command)
        assert named, command


def test_links_of_the_readme_are_absolute_and_name_files_that_are_there():
    home = PROJECT["urls"]["Source"]
    raw = home.replace("github.com", "raw.githubusercontent.com")
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert all(link.startswith("https://") for link in links), links
    for link in links:
        if path := re.match(rf"{home}/(?:blob|tree)/main/(.*)|{raw}/main/(.*)", link):
            named = ROOT / (path[1] or path[2])
            assert named.is_dir() if "/tree/" in link else named.is_file(), link


def test_relative_links_name_files_that_are_there():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert (page.parent / link).exists(), (page.name, link)
