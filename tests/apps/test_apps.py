"""Apps in the layout of Flower's quickstarts: FedAvg and GeometricMedianOfMeans, attacked."""

import json
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from flwr_byz import audit

ROOT = Path(__file__).parents[2]
# The quickstart, and what other apps have in the place of some of its files.
APPS = {
    "quickstart-message": [],
    "client-mods": [],
    "own-start": ["own-start"],
    "own-loop": ["own-loop"],
    "sklearn-classic": ["sklearn-classic"],
    "pytorch-cnn": ["pytorch-cnn"],
    "lora-adapter": ["pytorch-cnn", "lora-adapter"],
}
NUM_NODES, NUM_ROUNDS = 6, 2
ATTACK = "ByzantineMod(attacks.SignFlip(scale=10), when=attacks.Fixed({2, 5}))"
MODS = "LocalDpMod(2.0, sensitivity=0.01, epsilon=5.0, delta=1e-5), fixedclipping_mod"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run every app four times, in one simulation: the folders, by app, swapped and attacked."""
    parent, folders = tmp_path_factory.mktemp("apps"), {}
    for name, swapped, attacked in product(APPS, (False, True), (False, True)):
        end = "-attacked" * attacked + "-waiting" * (swapped and not attacked)
        folders[name, swapped, attacked] = folder = parent / f"{name}{'-swapped' * swapped}{end}"
        make(name, folder)
        if swapped:
            swap(folder)
        if attacked:
            attack(folder)
    command = [sys.executable, "-m", "tests.support.simulated_apps", str(NUM_NODES)]
    with (
        open(parent / "output.txt", "wb") as output,
        subprocess.Popen(
            [*command, *map(str, folders.values())], cwd=ROOT, stdout=output, stderr=output
        ) as process,
    ):
        try:
            process.wait(timeout=600)
        finally:
            process.kill()
    return folders


def make(name, folder):
    shutil.copytree(ROOT / "tests/apps/quickstart-message", folder)
    shutil.rmtree(folder / "quickstart_message" / "__pycache__", ignore_errors=True)
    for overlay in APPS[name]:
        for path in (ROOT / "tests/apps" / overlay).glob("*.py"):
            shutil.copy(path, folder / "quickstart_message")
    change_a_line(folder, "num-server-rounds = 3", f"num-server-rounds = {NUM_ROUNDS}")
    if name == "client-mods":  # those for privacy are made for training
        imports = "from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod\n"
        change_a_line(folder, r"^app = ClientApp\(\)$", f"{imports}app = ClientApp(mods=[{MODS}])")
        change_a_line(folder, '{"lr": c', '{"clipping_norm": 2.0, "lr": c')
        change_a_line(folder, "fraction-evaluate = 1.0", "fraction-evaluate = 0.0")


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
    """Change the one line of an app in which the pattern is found."""
    paths = [folder / "pyproject.toml", *folder.glob("*/*.py")]
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    changed = {path: re.subn(pattern, replacement, texts[path], flags=re.M) for path in paths}
    ((path, (text, times)),) = [(path, new) for path, new in changed.items() if new[1]]
    assert times == 1
    path.write_text(text, encoding="utf-8")


def loss(folder):
    """Return the loss of the final model."""
    assert (folder / "ended.txt").exists(), failure(folder)
    return json.loads((folder / "metrics.json").read_text())["loss"]


def failure(folder):
    """Return why an app did not end: its server's exception, or where it or Ray stopped."""
    paths = folder / "error.txt", folder / "log.txt", folder.parent / "output.txt"
    return next(path.read_text(encoding="utf-8")[-3000:] for path in paths if path.exists())


@pytest.mark.slow
@pytest.mark.parametrize("name", APPS)
def test_an_app_with_its_strategy_swapped_trains_as_well_as_before_and_under_attack(runs, name):
    limit = 1.5 * loss(runs[name, False, False])
    assert not loss(runs[name, False, True]) < limit  # FedAvg does not withstand the attack
    for attacked in (False, True):
        folder = runs[name, True, attacked]
        assert loss(folder) < limit
        rounds = audit.read(folder / "audit.jsonl")
        assert len(rounds) == NUM_ROUNDS
        assert not any(each["kept"] for each in rounds)
        replies = [client["reply"] for each in rounds for client in each["clients"].values()]
        assert replies == ["used"] * NUM_NODES * len(rounds)


@pytest.mark.slow
@pytest.mark.parametrize("name", APPS)
def test_an_app_with_too_few_nodes_logs_how_many_it_waits_for(runs, name):
    log = (runs[name, True, False] / "log.txt").read_text(encoding="utf-8")
    assert "num_byzantine=2 needs 2q + 1 = 5 nodes, 2 are connected" in log
    assert "--federation-config num-supernodes=10" in log
