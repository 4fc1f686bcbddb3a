"""The package as it is installed: what it holds, what it needs, what it says."""

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
import ray
from packaging.specifiers import SpecifierSet

import flwr_byz

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FOLDERS = ("flwr_byz", "tests", "clients", "simulations", "trial", "benchmarks", "examples")


def text(path):
    return (ROOT / path).read_text(encoding="utf-8")


def blocks(language):
    """Return the blocks of code of the docs in a language, each with the name of its page."""
    code = re.compile(rf"```{language}\n(.*?)```", re.S)
    return [(page.name, block) for page in PAGES for block in code.findall(text(page))]


def test_the_version_is_the_same_everywhere():
    citation = re.search(r"^version: (.*)$", text("CITATION.cff"), re.M)[1]
    changelog = re.search(r"^## \[(\d.*)\]", text("CHANGELOG.md"), re.M)[1]
    assert {flwr_byz.__version__, citation, changelog} == {PROJECT["version"]}


def test_the_wheel_holds_the_package_alone_and_the_sdist_what_its_tests_need(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    metadata = f"flwr_byz-{PROJECT['version']}.dist-info"
    assert {name.split("/")[0] for name in names} == {"flwr_byz", metadata}
    assert "flwr_byz/py.typed" in names
    with tarfile.open(sdist) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"pyproject.toml", "README.md", "CHANGELOG.md", "CITATION.cff", "Makefile"} <= names
    sources = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    assert {path.relative_to(ROOT).as_posix() for path in sources} <= names


def test_the_package_declares_what_it_imports_and_nothing_else():
    nodes = [n for p in (ROOT / "flwr_byz").rglob("*.py") for n in ast.walk(ast.parse(text(p)))]
    imported = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    imported |= {n.module for n in nodes if isinstance(n, ast.ImportFrom) and not n.level}
    modules = {name.partition(".")[0] for name in imported}
    extras = [need for needs in PROJECT["optional-dependencies"].values() for need in needs]
    declared = {re.match(r"[\w-]+(\[\w+\])?", need)[0] for need in PROJECT["dependencies"] + extras}
    names = {"protobuf": "google", "flwr[simulation]": "ray"}
    needs = {names.get(need, need) for need in declared if not need.startswith("flwr-byz")}
    assert modules - sys.stdlib_module_names - {"flwr_byz"} == needs


def test_every_pinned_version_takes_the_oldest_python_the_package_promises():
    oldest = PROJECT["requires-python"].removeprefix(">=") + ".0"
    refused = []
    for name, version in re.findall(r"^([^#\s]+)==(\S+)$", text("constraints.txt"), re.M):
        try:
            pinned = metadata(name)
        except PackageNotFoundError:  # what another platform or another make target installs
            continue
        takes = SpecifierSet(pinned.get("Requires-Python", ""))
        if pinned["Version"].split("+")[0] == version and oldest not in takes:
            refused.append(f"{name}=={version} needs Python {takes}")
    assert not refused


HEAVY = "torch ray scipy matplotlib"
SIZES = "num_clients=10_000, num_byzantine=2000, samples_per_client=50, dim=1000"
PLAN = f"from flwr_byz.theory import plan; plan({SIZES})"


@pytest.mark.parametrize(
    ("statements", "strangers"),
    [
        (f"from flwr_byz import aggregation, attacks, cli; {PLAN}", f"flwr {HEAVY}"),
        ("import flwr_byz.redteam.command, flwr_byz.redteam.advise", f"flwr {HEAVY}"),
        ("import flwr_byz.serverapp.strategy, flwr_byz.server.strategy", HEAVY),
        ("import clients.app, simulations.server_app", "torch ray sklearn datasets matplotlib"),
    ],
)
def test_modules_need_no_more_than_they_should(statements, strangers):
    code = f"{statements}; import sys; print(sys.modules.keys() & {set(strangers.split())})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


@pytest.mark.parametrize(("page", "snippet"), blocks("python"))
def test_a_snippet_of_the_docs_runs(page, snippet):
    try:
        exec(compile(snippet, page, "exec"), {})
    finally:
        ray.shutdown()


def test_commands_that_run_an_app_name_its_nodes():
    run = re.compile(r"^flwr run (?:.*\\\n)*.*", re.M)
    commands = [command for _, block in blocks(r"\w*") for command in run.findall(block)]
    assert commands
    for command in commands:  # of a simulation, or of a deployment to devices
        named = re.search(r"num-supernodes=\d+|^flwr run \. \w+.*\bnum-clients=\d+", command)
        assert named, command


def test_links_name_files_that_are_there_and_those_of_the_readme_are_absolute():
    home = PROJECT["urls"]["Source"]
    raw = home.replace("github.com", "raw.githubusercontent.com")
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)", text(page)):
            own = re.match(rf"{home}/(blob|tree)/main/(.*)|{raw}/(main)/(.*)", link)
            if own:
                kind, path = filter(None, own.groups())
                assert (ROOT / path).is_dir() == (kind == "tree"), (page.name, link)
            if own or not link.startswith("https://"):
                assert (ROOT / path if own else page.parent / link).exists(), (page.name, link)
            assert page.name != "README.md" or link.startswith("https://"), link
