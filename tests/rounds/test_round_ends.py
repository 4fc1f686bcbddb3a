"""What the ends of rounds set off, through the loops that run them in both APIs."""

import itertools
import math
from contextlib import suppress
from unittest.mock import Mock

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord
from flwr.common import parameters_to_ndarrays

from flwr_byz.history import Checkpoint
from flwr_byz.serverapp.strategy import guarded
from tests.support.answering_grid import AnsweringGrid, Stop, mean, model
from tests.support.strategies import KINDS, nearby, ran, strategy

ALL = pytest.mark.parametrize(("api", "kind"), KINDS)


def exact(arrays):
    return [array.tobytes() for array in arrays]


def nearest(metrics):
    """The model of round 2 is the best by this."""
    return -abs(metrics["server"]["mean"] - 0.2)


@ALL
def test_a_round_s_end_is_reported_the_best_model_kept_and_training_stopped(api, kind, tmp_path):
    """All of it after a restart, too: it is after round 3 that the first server ends."""
    opened = parameters_to_ndarrays if api == "classic" else ArrayRecord.to_numpy_ndarrays
    ends, models = [], {}

    def end(server_round, arrays, metrics):
        ends.append(server_round)
        models[server_round] = opened(arrays)
        assert set(metrics) == {"train", "evaluate", "server"}
        assert metrics["train"]["byz-clients"] == metrics["evaluate"]["byz-clients"] == 11
        assert np.isfinite(metrics["evaluate"]["loss"])
        assert metrics["server"]["mean"] == pytest.approx(mean(models[server_round]))

    options = {"on_round_end": end, "best_by": nearest, "checkpoints": tmp_path}
    options["stop_when"] = lambda server_round, metrics: metrics["server"]["mean"] > 0.45
    options["fraction_evaluate"] = 1.0
    assert set(ran(api, kind, 3, **options).asked) == {1, 2, 3}
    final = ran(api, kind, 9, **options)
    assert set(final.asked) == {4, 5}
    assert ends == [1, 2, 3, 4, 5]
    assert exact(models[5]) == exact(final.arrays)
    best = Checkpoint.read(tmp_path / "best.npz")
    assert (best.server_round, exact(best.arrays.values())) == (2, exact(models[2]))
    again = ran(api, kind, 9, **options)
    assert (again.asked, exact(again.arrays)) == ({}, exact(final.arrays))


@ALL
def test_a_user_s_function_that_fails_is_logged_and_ends_nothing(api, kind, tmp_path, caplog):
    def missing(*arguments):
        return arguments[-1]["train"]["a metric that clients left out"]

    hooks = dict.fromkeys(("on_round_end", "stop_when", "best_by"), missing)
    final = ran(api, kind, 2, checkpoints=tmp_path, **hooks).arrays
    assert exact(final) == exact(ran(api, kind, 2).arrays)
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
    expected = ran("message", "Hardened", 2).arrays
    assert (best.server_round, exact(best.arrays.values())) == (2, exact(expected))


def test_a_value_that_is_no_number_is_never_the_best(tmp_path):
    values = iter([1.0, math.nan, 2.0, -math.inf, 1.5])
    ran("message", "Hardened", 5, best_by=lambda _: next(values), checkpoints=tmp_path)
    assert Checkpoint.read(tmp_path / "best.npz").server_round == 3


def test_a_loop_is_that_of_start_until_it_ends_or_is_broken_off(tmp_path, caplog):
    guarded._warn_once.cache_clear()
    hooks = {"on_round_end": print, "stop_when": lambda *_: False}
    hardened = strategy("message", "Hardened", checkpoints=tmp_path, **hooks)()
    with pytest.raises(Stop):
        hardened.start(AnsweringGrid(5, Mock(side_effect=Stop)), model(), 1)
    assert "the loop that runs" not in caplog.text
    grid = AnsweringGrid(5, nearby)
    sent = hardened.configure_train(1, model(), ConfigRecord(), grid)
    hardened.aggregate_train(1, grid.send_and_receive(sent))
    loop = "the loop that runs is not Hardened.start: "
    assert loop + "replies may take any size" in caplog.text
    assert loop + "no use of checkpoints, on_round_end, stop_when" in caplog.text
