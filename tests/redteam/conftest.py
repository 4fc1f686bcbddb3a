"""What the tests of watched trainings share."""

import pytest

from flwr_byz import json_lines
from flwr_byz.redteam import training
from flwr_byz.redteam.flower_app import FlowerApp
from flwr_byz.redteam.pilot import Pilot
from flwr_byz.redteam.runs import NO_ATTACK, Run


class Watched(training.WatchedTraining):
    def events(self, kind):
        return [e for e in json_lines.read(self.run.folder / "events.jsonl") if e["event"] == kind]

    def measured(self, source):
        return {e["round"]: e["values"] for e in self.events("metrics") if e["source"] == source}


class WatchedPilot(Pilot, Watched):
    pass


@pytest.fixture
def watch(tmp_path, monkeypatch):
    """Return what watches the trainings of a run; the loops are as they were afterwards."""

    def watch(attack=NO_ATTACK, strategy="own", num_rounds=2):
        monkeypatch.undo()
        monkeypatch.setattr(training, "setattr", monkeypatch.setattr, raising=False)
        run = Run(
            FlowerApp(tmp_path, "a:b", "a:c"), {}, 7, 2, num_rounds, 0, tmp_path, attack, strategy
        )
        watched = WatchedPilot(run) if strategy == "pilot" else Watched(run)
        watched.run.folder.mkdir(parents=True)
        watched.partitions = {node: 10 - node for node in range(7)}
        watched.watch()
        return watched

    return watch
