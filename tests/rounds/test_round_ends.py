"""What the ends of rounds set off, through the loops that run them in both APIs."""

import itertools
import logging
import math
from contextlib import suppress

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.common import parameters_to_ndarrays

from flwr_byz.history import Checkpoint
from flwr_byz.serverapp.strategy import guarded
from tests.support.answering_grid import AnsweringGrid, Stop, mean, model
from tests.support.strategies import KINDS, nearby, ran, strategy

ALL = pytest.mark.parametrize(("api", "kind"), KINDS)


def arrays_of(aggregate):
    if hasattr(aggregate, "tensors"):
        return parameters_to_ndarrays(aggregate)
    return aggregate.to_numpy_ndarrays()


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def nearest(metrics):
    """The model of round 2 is the best by this."""
    return -abs(metrics["server"]["mean"] - 0.2)


@ALL
def test_a_round_s_end_is_reported_the_best_model_kept_and_training_stopped(api, kind, tmp_path):
    """All of it after a restart, too: it is after round 3 that the first server ends."""
    ends, models = [], {}

    def end(server_round, arrays, metrics):
        ends.append(server_round)
        models[server_round] = arrays_of(arrays)
        assert set(metrics) == {"train", "evaluate", "server"}
        assert metrics["train"]["byz-clients"] == 11
        assert metrics["server"]["mean"] == pytest.approx(mean(models[server_round]))

    options = {
        "on_round_end": end,
        "best_by": nearest,
        "stop_when": lambda server_round, metrics: metrics["server"]["mean"] > 0.45,
        "checkpoints": tmp_path,
    }
    assert set(ran(api, kind, 3, **options).asked) == {1, 2, 3}
    final = ran(api, kind, 9, **options)
    assert set(final.asked) == {4, 5}
    assert ends == [1, 2, 3, 4, 5]
    assert equal(models[5], final.arrays)
    best = Checkpoint.read(tmp_path / "best.npz")
    assert best.server_round == 2
    assert equal(best.arrays.values(), models[2])
    again = ran(api, kind, 9, **options)
    assert again.asked == {}
    assert equal(again.arrays, final.arrays)


@ALL
def test_a_user_s_function_that_fails_is_logged_and_ends_nothing(api, kind, tmp_path, caplog):
    def missing(*arguments):
        return arguments[-1]["train"]["a metric that clients left out"]

    hooks = dict.fromkeys(("on_round_end", "stop_when", "best_by"), missing)
    final = ran(api, kind, 2, checkpoints=tmp_path, **hooks).arrays
    assert equal(final, ran(api, kind, 2).arrays)
    assert all(f"{option} failed: KeyError" in caplog.text for option in hooks)


@pytest.mark.parametrize("write", range(1, 9))
def test_a_kill_at_any_write_loses_no_best_model(tmp_path, monkeypatch, write):
    options = {"best_by": nearest, "checkpoints": tmp_path}
    numbers, write_file = itertools.count(1), Checkpoint.write

    def killed(checkpoint, path):
        if next(numbers) == write:
            raise Stop
        write_file(checkpoint, path)

    monkeypatch.setattr(Checkpoint, "write", killed)
    with suppress(Stop):
        ran("message", "Hardened", 4, **options)
    ran("message", "Hardened", 4, **options)
    best = Checkpoint.read(tmp_path / "best.npz")
    assert best.server_round == 2
    assert equal(best.arrays.values(), ran("message", "Hardened", 2).arrays)


@pytest.mark.parametrize("api", ["message", "classic"])
def test_on_round_end_gets_what_clients_evaluate(api):
    ends = []
    options = {"on_round_end": lambda *end: ends.append(end[-1]["evaluate"])}
    ran(api, "Hardened", 2, num_nodes=5, fraction_evaluate=1.0, **options)
    assert len(ends) == 2
    assert all(np.isfinite(metrics["loss"]) for metrics in ends)
    assert all(metrics["byz-clients"] == 5 for metrics in ends)


def test_a_value_that_is_no_number_is_never_the_best(tmp_path):
    values = iter([1.0, math.nan, 2.0, -math.inf, 1.5])
    ran("message", "Hardened", 5, best_by=lambda _: next(values), checkpoints=tmp_path)
    assert Checkpoint.read(tmp_path / "best.npz").server_round == 3


# Other loops. -----------------------------------------------------------------------------------


def test_a_loop_that_is_not_start_is_named_once_with_what_cannot_act_there(tmp_path, caplog):
    """A run that was broken off before it is not taken for it."""
    guarded._warn_once.cache_clear()
    hooks = {"on_round_end": print, "stop_when": lambda *_: False}
    hardened = strategy("message", "Hardened", checkpoints=tmp_path, **hooks)()

    def broken(*_):
        raise Stop

    with pytest.raises(Stop):
        hardened.start(AnsweringGrid(5, broken), model(), 1)
    assert "the loop that runs" not in caplog.text
    arrays, grid = model(), AnsweringGrid(5, nearby)
    for server_round in (1, 2):
        sent = list(hardened.configure_train(server_round, arrays, ConfigRecord(), grid))
        arrays, _ = hardened.aggregate_train(server_round, grid.send_and_receive(sent))
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    lines = [line for line in lines if "the loop that runs is not Hardened.start" in line]
    assert len(lines) == 2
    assert "may take any size" in lines[0]
    assert lines[1].endswith("no use of checkpoints, on_round_end, stop_when")
    caplog.clear()
    guarded._warn_once.cache_clear()
    ran("message", "Hardened", 2, on_round_end=print)
    assert "the loop that runs" not in caplog.text
