"""Apps in the layout of Flower's quickstarts: FedAvg and GeometricMedianOfMeans, attacked."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from flwr_byz import audit
from flwr_byz.redteam.flower_app import FlowerApp
from tests.support.app_grid import AppGrid, context

HERE = Path(__file__).parent
# The quickstart, and what other apps have in the place of some of its files.
APPS = {
    "quickstart-message": [],
    "own-start": ["own-start"],
    "sklearn-classic": ["sklearn-classic"],
    "pytorch-cnn": ["pytorch-cnn"],
    "lora-adapter": ["pytorch-cnn", "lora-adapter"],
}
NUM_NODES, NUM_ROUNDS = 6, 2
ATTACK = "ByzantineMod(attacks.SignFlip(scale=10), when=attacks.Fixed({2, 5}))"


def make(name, folder):
    shutil.copytree(HERE / "quickstart-message", folder)
    shutil.rmtree(folder / "quickstart_message" / "__pycache__", ignore_errors=True)
    for overlay in APPS[name]:
        for path in (HERE / overlay).glob("*.py"):
            shutil.copy(path, folder / "quickstart_message")
    change_a_line(folder, "num-server-rounds = 3", f"num-server-rounds = {NUM_ROUNDS}")
    return folder


def swap(folder):
    """Import another strategy in FedAvg's place, and state how many clients may be Byzantine."""
    robust = r"\1_byz\2 import GeometricMedianOfMeans as FedAvg"
    change_a_line(folder, r"(from flwr)(\.\w+\.strategy) import FedAvg$", robust)
    change_a_line(folder, r" strategy = \w+\(", r'\g<0>num_byzantine=2, audit="audit.jsonl", ')


def attack(folder):
    """Let two of the clients attack: another line in the client app, with its imports."""
    imports = "from flwr_byz import attacks\nfrom flwr_byz.clientapp.mod import ByzantineMod\n"
    attacked = rf"{imports}app = ClientApp(mods=[{ATTACK}], \1)"
    change_a_line(folder, r"^app = ClientApp\((client_fn=.*)?\)$", attacked)


def change_a_line(folder, pattern, replacement):
    """Change the one line of an app in which the pattern is found."""
    paths = [folder / "pyproject.toml", *folder.glob("*/*.py")]
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    changed = {path: re.subn(pattern, replacement, texts[path], flags=re.M) for path in paths}
    ((path, (text, times)),) = [(path, new) for path, new in changed.items() if new[1]]
    assert times == 1
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def run(monkeypatch):
    """Return what runs the app in a folder from a fresh import, for the loss of its final model."""

    def run(folder):
        for module in [name for name in sys.modules if name.split(".")[0] == "quickstart_message"]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.chdir(folder)
        app = FlowerApp.read(folder)
        grid, server = AppGrid(app.load(app.clientapp), NUM_NODES), context(0, NUM_NODES)
        for each in (server, *grid.contexts.values()):
            each.run_config = dict(app.config)
        app.load(app.serverapp)(grid, server)
        return json.loads((folder / "metrics.json").read_text())["loss"]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", APPS)
def test_an_app_with_its_strategy_swapped_trains_as_well_as_before_and_under_attack(
    run, name, tmp_path
):
    clean, attacked, swapped, both = (make(name, tmp_path / f"app-{i}") for i in range(4))
    for folder in (attacked, both):
        attack(folder)
    for folder in (swapped, both):
        swap(folder)
    limit = 1.5 * run(clean)
    assert not run(attacked) < limit  # FedAvg does not withstand the attack
    assert run(swapped) < limit
    assert run(both) < limit
    for folder in (swapped, both):
        rounds = audit.read(folder / "audit.jsonl")
        assert len(rounds) == NUM_ROUNDS
        assert not any(each["kept"] for each in rounds)
        replies = [client["reply"] for each in rounds for client in each["clients"].values()]
        assert replies == ["used"] * NUM_NODES * len(rounds)
