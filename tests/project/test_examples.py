"""The examples, run on nodes in this process."""

import logging
import re
import sys
from unittest.mock import Mock

import numpy as np
import pytest

from examples import app, log_metrics, resume_and_stop, save_models
from flwr_byz import audit
from flwr_byz.history import Checkpoint
from tests.support.app_grid import AppGrid, context


def run(server_app, **run_config):
    server = context(0, app.NUM_CLIENTS)
    server.run_config.update(run_config)
    grid = AppGrid(app.client_app, app.NUM_CLIENTS)
    server_app(grid, server)
    return grid


def test_models_are_saved_after_each_round(tmp_path):
    run(save_models.server_app, folder=str(tmp_path / "models"))
    saved = sorted((tmp_path / "models").iterdir())
    first, second, third = (np.linalg.norm(np.load(path)["weights"] - 1) for path in saved)
    assert third < second < first < np.sqrt(app.DIM)


TRACKERS = {  # by module, the function that logs
    "torch.utils.tensorboard": lambda module: module.SummaryWriter().add_scalar,
    "wandb": lambda module: module.init(project="flwr-byz").log,
    "mlflow": lambda module: module.log_metrics,
}


@pytest.mark.parametrize("name", TRACKERS)
def test_metrics_are_logged_to_a_tracker(name, monkeypatch):
    module, rounds = Mock(), {}
    monkeypatch.setitem(sys.modules, name, module)
    run(log_metrics.server_app, tracker=name.rpartition(".")[2])
    for given, named in TRACKERS[name](module).call_args_list:
        *metrics, server_round = *given, *named.values()
        rounds.setdefault(server_round, {}).update(metrics[0] if named else [metrics])
    assert list(rounds) == [1, 2, 3]
    losses = [metrics["evaluate/loss"] for metrics in rounds.values()]
    assert losses[2] < losses[1] < losses[0]
    assert all(metrics["train/byz-clients"] == app.NUM_CLIENTS for metrics in rounds.values())


def test_a_training_goes_on_excludes_its_attackers_and_ends_with_the_best_model(tmp_path, caplog):
    caplog.set_level(logging.INFO, "flwr")
    options = {"folder": str(tmp_path), "num-server-rounds": 5}
    run(resume_and_stop.server_app, **options)
    assert len(audit.read(tmp_path / "audit.jsonl")) == 5
    grid = run(resume_and_stop.server_app, folder=str(tmp_path))
    (last,) = map(int, re.findall(r"stop_when ends training after round (\d+)", caplog.text))
    rounds = audit.read(tmp_path / "audit.jsonl")
    assert [each["round"] for each in rounds] == list(range(1, last + 1))
    assert not {"2", "7"} & set(rounds[5]["clients"])
    assert grid.num_pushed == sum(2 * len(each["clients"]) for each in rounds[5:])
    best = Checkpoint.read(tmp_path / "checkpoints" / "best.npz")
    np.testing.assert_allclose(best.arrays["weights"], 1, atol=0.05)
    assert best.rounds["evaluate"][best.server_round]["loss"] == min(
        metrics["loss"] for metrics in best.rounds["evaluate"].values()
    )
