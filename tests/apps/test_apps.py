"""Apps in the layout of Flower's quickstarts: FedAvg and GeometricMedianOfMeans, attacked."""

import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from flwr_byz import audit, json_lines

ROOT = Path(__file__).parents[2]
APPS = ROOT / "tests" / "apps"
NAMES = [
    "quickstart-message",
    "sklearn-classic",
    "pytorch-cnn",
    "own-start",
    "own-loop",
    "client-mods",
    "lora-adapter",
]
NUM_NODES = 10
ATTACK = "ByzantineMod(attacks.SignFlip(scale=10), when=attacks.Fixed({2, 7}))"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run every app four times, in one simulation: the folders, by app, swapped and attacked."""
    parent, folders = tmp_path_factory.mktemp("apps"), {}
    for name, swapped, attacked in product(NAMES, (False, True), (False, True)):
        folder = parent / f"{name}{'-swapped' * swapped}{'-attacked' * attacked}"
        folders[name, swapped, attacked] = copy(name, folder)
        if swapped:
            swap(folder)
        if attacked:
            attack(folder)
    run("tests.support.simulated_apps", NUM_NODES, *folders.values())
    return folders


@pytest.fixture(scope="module")
def waiting(tmp_path_factory):
    """Start every app with its strategy swapped where two nodes are connected: the folders."""
    parent = tmp_path_factory.mktemp("waiting")
    folders = {name: copy(name, parent / name) for name in NAMES}
    for folder in folders.values():
        swap(folder)
    run("tests.support.waiting_apps", *folders.values())
    return folders


def copy(name, folder):
    return shutil.copytree(APPS / name, folder, ignore=shutil.ignore_patterns("__pycache__"))


def run(module, *arguments):
    """Run a module in a process of its own; its output lies beside the folders of the apps."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    with (
        open(arguments[-1].parent / "output.txt", "wb") as output,
        subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output) as process,
    ):
        try:
            process.wait(timeout=600)
        finally:
            process.kill()


def swap(folder):
    """Import another strategy in FedAvg's place, and say how many clients may be Byzantine."""
    robust = r"\1_byz\2 import GeometricMedianOfMeans as FedAvg"
    change_a_line(folder, r"(from flwr)(\.\w+\.strategy) import FedAvg$", robust)
    change_a_line(folder, r" strategy = \w+\(", r'\g<0>num_byzantine=2, audit="audit.jsonl", ')


def attack(folder):
    """Let two of the clients attack: another line in the client app, with its imports."""
    imports = "from flwr_byz import attacks\nfrom flwr_byz.clientapp.mod import ByzantineMod\n"
    attacked = rf"{imports}app = ClientApp(mods=[{ATTACK}, \2], \1)"
    change_a_line(folder, r"^app = ClientApp\((client_fn=.*)?(?:mods=\[(.*)\])?\)$", attacked)


def change_a_line(folder, pattern, replacement):
    """Change the one line of an app's code in which the pattern is found."""
    texts = {path: path.read_text(encoding="utf-8") for path in folder.glob("*/*.py")}
    changed = {
        path: re.subn(pattern, replacement, text, flags=re.M) for path, text in texts.items()
    }
    ((path, (text, times)),) = [(path, new) for path, new in changed.items() if new[1]]
    assert times == 1
    path.write_text(text, encoding="utf-8")


def last_loss(folder):
    """Return the loss of the final model."""
    assert (folder / "ended.txt").exists(), failure(folder)
    if (folder / "metrics.jsonl").exists():
        return list(json_lines.read(folder / "metrics.jsonl"))[-1]["loss"]
    (task,) = folder.glob("*/task.py")
    app = runpy.run_path(str(task))
    with np.load(folder / "final_model.npz") as model:
        return app["test"](model["arr_0"], app["load_data"](0, 1)[1])[0]


def failure(folder):
    """Return why an app did not end: its server's exception, or where it or Ray stopped."""
    paths = folder / "error.txt", folder / "log.txt", folder.parent / "output.txt"
    return next(path.read_text(encoding="utf-8")[-3000:] for path in paths if path.exists())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_app_with_its_strategy_swapped_trains_as_well_as_before_and_under_attack(runs, name):
    limit = 1.25 * last_loss(runs[name, False, False])
    assert not last_loss(runs[name, False, True]) < limit  # FedAvg does not withstand the attack
    for attacked in (False, True):
        folder = runs[name, True, attacked]
        assert last_loss(folder) < limit
        rounds = audit.read(folder / "audit.jsonl")
        assert len(rounds) == num_rounds(folder)
        assert not any(each["kept"] for each in rounds)
        replies = [client["reply"] for each in rounds for client in each["clients"].values()]
        assert replies == ["used"] * NUM_NODES * len(rounds)


def num_rounds(folder):
    with open(folder / "pyproject.toml", "rb") as file:
        return tomllib.load(file)["tool"]["flwr"]["app"]["config"]["num-server-rounds"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_app_with_too_few_nodes_logs_how_many_it_waits_for(waiting, name):
    log = (waiting[name] / "log.txt").read_text(encoding="utf-8")
    assert "num_byzantine=2 needs 2q + 1 = 5 nodes, 2 are connected" in log
    assert "--federation-config num-supernodes=10" in log
