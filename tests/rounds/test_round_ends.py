"""What the ends of rounds set off, through the loops that run them in both APIs."""

import itertools
import logging
import math
from contextlib import suppress

import numpy as np
import pytest
from flwr.app import ConfigRecord, MetricRecord
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import Server, SimpleClientManager
from flwr.server import strategy as classic
from flwr.serverapp import strategy as message

from flwr_byz.history import Checkpoint
from flwr_byz.server.strategy import GeometricMedianOfMeans as ClassicGMoM
from flwr_byz.server.strategy import Hardened as ClassicHardened
from flwr_byz.server.strategy import robust as classic_robust
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans, Hardened, guarded, robust
from tests.rounds.test_history import Client, Stop
from tests.support.answering_grid import AnsweringGrid, model

M, Q = 11, 2


def drift(client, server_round, arrays):
    rng = np.random.default_rng([client, server_round])
    return [(a + 0.1 + 0.01 * rng.normal(size=a.shape)).astype(a.dtype) for a in arrays]


MESSAGE = {
    "Hardened": lambda **o: Hardened(message.FedMedian(fraction_evaluate=0.0), **o),
    "GeometricMedianOfMeans": lambda **o: GeometricMedianOfMeans(fraction_evaluate=0.0, **o),
    "robust": lambda **o: robust(message.FedProx, proximal_mu=0.1, fraction_evaluate=0.0, **o),
}
INITIAL = {"initial_parameters": ndarrays_to_parameters(model().to_numpy_ndarrays())}
CLASSIC = {
    "Hardened": lambda evaluate, **o: ClassicHardened(
        classic.FedMedian(fraction_evaluate=0.0, evaluate_fn=evaluate, **INITIAL), **o
    ),
    "GeometricMedianOfMeans": lambda evaluate, **o: ClassicGMoM(
        fraction_evaluate=0.0, evaluate_fn=evaluate, **INITIAL, **o
    ),
    "robust": lambda evaluate, **o: classic_robust(
        classic.FedProx,
        proximal_mu=0.1,
        fraction_evaluate=0.0,
        evaluate_fn=evaluate,
        **INITIAL,
        **o,
    ),
}


def mean(arrays):
    return float(np.mean([a.mean() for a in arrays]))


def message_run(name, rounds, reply=drift, nodes=M, **options):
    """Train; return the final arrays and the nodes asked by round."""
    asked = {}

    def answer(node, server_round, arrays):
        asked.setdefault(server_round, set()).add(str(node))
        return reply(node, server_round, arrays)

    result = MESSAGE[name](num_byzantine=Q, **options).start(
        AnsweringGrid(nodes, answer),
        model(),
        rounds,
        evaluate_fn=lambda _, arrays: MetricRecord({"mean": mean(arrays.to_numpy_ndarrays())}),
    )
    return result.arrays.to_numpy_ndarrays(), asked


def classic_run(name, rounds, reply=drift, nodes=M, **options):
    """Train with Flower's own Server; return the final arrays and the clients asked by round."""
    asked = {}

    def answer(client, server_round, arrays):
        asked.setdefault(server_round, set()).add(str(client))
        return reply(client, server_round, arrays)

    strategy = CLASSIC[name](
        lambda _, arrays, config: (mean(arrays), {"mean": mean(arrays)}),
        num_byzantine=Q,
        **options,
    )
    manager = SimpleClientManager()
    for number in range(nodes):
        manager.register(Client(number, answer))
    server = Server(client_manager=manager, strategy=strategy)
    server.fit(rounds, None)
    return parameters_to_ndarrays(server.parameters), asked


RUNS = [(message_run, name) for name in MESSAGE] + [(classic_run, name) for name in CLASSIC]


def arrays_of(aggregate):
    if hasattr(aggregate, "tensors"):
        return parameters_to_ndarrays(aggregate)
    return aggregate.to_numpy_ndarrays()


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("run", "name"), RUNS)
def test_on_round_end_gets_the_model_and_its_metrics_after_each_round(run, name):
    ends = []
    final, _ = run(name, 3, on_round_end=lambda *end: ends.append(end))
    assert [server_round for server_round, _, _ in ends] == [1, 2, 3]
    for _, arrays, metrics in ends:
        assert set(metrics) == {"train", "evaluate", "server"}
        assert metrics["train"]["byz-clients"] == M
        assert metrics["server"]["mean"] == mean(arrays_of(arrays))
    assert equal(arrays_of(ends[-1][1]), final)


@pytest.mark.parametrize(("run", "name"), RUNS)
def test_stop_when_ends_training_and_a_restart_keeps_to_it(run, name, tmp_path):
    options = {
        "stop_when": lambda server_round, metrics: metrics["server"]["mean"] > 0.15,
        "checkpoints": tmp_path,
    }
    final, asked = run(name, 6, **options)
    assert set(asked) == {1, 2}
    again, asked = run(name, 6, **options)
    assert asked == {}
    assert equal(again, final)


@pytest.mark.parametrize(("run", "name"), RUNS)
def test_the_best_model_is_kept_beside_the_checkpoints_after_a_restart_too(run, name, tmp_path):
    """The best model is that of round 2; a restart after round 3 must not forget it."""
    models = {}

    def best_by(metrics):
        return -abs(metrics["server"]["mean"] - 0.2)

    def end(server_round, arrays, metrics):
        models[server_round] = arrays_of(arrays)

    options = {"best_by": best_by, "checkpoints": tmp_path, "on_round_end": end}
    run(name, 3, **options)
    values = {r: -abs(mean(arrays) - 0.2) for r, arrays in models.items()}
    best = max(values, key=values.get)
    assert best == 2
    run(name, 5, **options)
    assert set(models) == {1, 2, 3, 4, 5}
    kept = Checkpoint.read(tmp_path / "best.npz")
    assert kept.server_round == best
    assert equal(kept.arrays.values(), models[best])
    assert Checkpoint.latest(tmp_path).server_round == 5


@pytest.mark.parametrize(("run", "name"), RUNS)
def test_a_user_s_function_that_fails_is_logged_and_ends_nothing(run, name, tmp_path, caplog):
    def missing(*arguments):
        return arguments[-1]["train"]["a metric that clients left out"]

    final, _ = run(
        name, 2, on_round_end=missing, stop_when=missing, best_by=missing, checkpoints=tmp_path
    )
    assert equal(final, run(name, 2)[0])
    for option in ("on_round_end", "stop_when", "best_by"):
        assert f"{option} failed: KeyError" in caplog.text


@pytest.mark.parametrize("write", range(1, 9))
def test_a_kill_at_any_write_loses_no_best_model(tmp_path, monkeypatch, write):
    def best_by(metrics):
        return -abs(metrics["server"]["mean"] - 0.2)

    whole = {"best_by": best_by, "checkpoints": tmp_path / "whole"}
    halves = {"best_by": best_by, "checkpoints": tmp_path / "halves"}
    message_run("Hardened", 4, **whole)
    numbers, write_file = itertools.count(1), Checkpoint.write

    def killed(checkpoint, path):
        if next(numbers) == write:
            raise Stop
        write_file(checkpoint, path)

    monkeypatch.setattr(Checkpoint, "write", killed)
    with suppress(Stop):
        message_run("Hardened", 4, **halves)
    message_run("Hardened", 4, **halves)
    one, other = (Checkpoint.read(o["checkpoints"] / "best.npz") for o in (whole, halves))
    assert one.server_round == other.server_round == 2
    assert equal(one.arrays.values(), other.arrays.values())


def test_on_round_end_gets_what_clients_evaluate():
    ends = []

    def end(server_round, arrays, metrics):
        ends.append(metrics["evaluate"])

    Hardened(message.FedMedian(), on_round_end=end).start(AnsweringGrid(5, drift), model(), 2)
    strategy = ClassicHardened(classic.FedMedian(**INITIAL), on_round_end=end)
    manager = SimpleClientManager()
    for number in range(5):
        manager.register(Client(number, drift))
    Server(client_manager=manager, strategy=strategy).fit(2, None)
    assert len(ends) == 4
    assert all(np.isfinite(metrics["loss"]) for metrics in ends)
    assert all(metrics["byz-clients"] == 5 for metrics in ends)


def test_a_value_that_is_no_number_is_never_the_best(tmp_path):
    values = iter([1.0, math.nan, 2.0, -math.inf, 1.5])
    message_run("Hardened", 5, best_by=lambda _: next(values), checkpoints=tmp_path)
    assert Checkpoint.read(tmp_path / "best.npz").server_round == 3


# Other loops. -----------------------------------------------------------------------------------


def test_a_loop_that_is_not_start_is_named_once_with_what_cannot_act_there(tmp_path, caplog):
    guarded._warn_once.cache_clear()
    strategy = MESSAGE["Hardened"](
        checkpoints=tmp_path, on_round_end=print, stop_when=lambda *_: False
    )
    arrays = model()
    grid = AnsweringGrid(5, drift)
    for server_round in (1, 2):
        sent = list(strategy.configure_train(server_round, arrays, ConfigRecord(), grid))
        arrays, _ = strategy.aggregate_train(server_round, grid.send_and_receive(sent))
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    lines = [line for line in lines if "the loop that runs is not Hardened.start" in line]
    assert len(lines) == 2
    assert "may take any size" in lines[0]
    assert lines[1].endswith("no use of checkpoints, on_round_end, stop_when")
    caplog.clear()
    guarded._warn_once.cache_clear()
    message_run("Hardened", 2, on_round_end=print)
    assert "the loop that runs" not in caplog.text


def test_a_run_that_was_broken_off_is_not_taken_for_the_loop_that_follows(caplog):
    guarded._warn_once.cache_clear()
    strategy = MESSAGE["Hardened"](on_round_end=print)

    def broken(*_):
        raise Stop

    with pytest.raises(Stop):
        strategy.start(AnsweringGrid(5, broken), model(), 1)
    list(strategy.configure_train(1, model(), ConfigRecord(), AnsweringGrid(5, drift)))
    assert "no use of on_round_end" in caplog.text
