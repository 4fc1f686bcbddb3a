"""What is watched in a training, in this process, on a grid whose nodes answer at once."""

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord
from flwr.server import Server, SimpleClientManager
from flwr.server import strategy as classic
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import strategy as message
from flwr.serverapp.strategy import FedAvg, Strategy

from flwr_byz.redteam.flower_app import FlowerApp
from flwr_byz.redteam.runs import NO_ATTACK, Job, Run
from flwr_byz.redteam.swap import Refused
from flwr_byz.redteam.training import WatchedTraining, _with_subclasses
from tests.support.answering_grid import AnsweringGrid

NUM_NODES = 7


class PassesOn(FedAvg):
    def start(self, *args, **kwargs):
        return super().start(*args, **kwargs)


class TakesMore(FedAvg):
    def start(self, grid, initial_arrays, num_rounds, **kwargs):
        return super().start(grid, initial_arrays, num_rounds, **kwargs)


LOOPS = {
    (kind, name): vars(kind)[name]
    for base, name in (
        (Strategy, "start"),
        (Server, "fit"),
        (DefaultWorkflow, "__call__"),
        (SecAggPlusWorkflow, "__call__"),
    )
    for kind in _with_subclasses(base)
    if name in vars(kind)
}


def watched(folder, *, attack="NonFinite", strategy="own", num_rounds=2):
    run = Run("app", "", "", NUM_NODES, 2, num_rounds, 0, attack, strategy)
    app = FlowerApp(folder, "a:b", "a:c")
    job = Job(run, app, {}, 2, folder, folder / "models.npz")
    events = []
    training = WatchedTraining(job, events.append)
    training.partitions = {node: 10 - node for node in range(NUM_NODES)}
    as_they_were()
    training.watch()
    return training, events


def as_they_were():
    for (kind, name), loop in LOOPS.items():
        setattr(kind, name, loop)


@pytest.fixture(autouse=True)
def _loops_as_they_were():
    yield
    as_they_were()


def towards_one(node, server_round, arrays):
    step = 0.4 if node == 0 else 0.5  # replies that were all copies would be refused
    return [(a + step * (1 - a)).astype(a.dtype) for a in arrays]


def byzantine(node, server_round, arrays):
    """Nodes 5 and 6, which are partitions 5 and 4, send NaN."""
    honest = towards_one(node, server_round, arrays)
    return [a * np.nan for a in honest] if node in (5, 6) else honest


def model():
    return ArrayRecord({"a0": Array(np.zeros(3, np.float32))})


def distance(server_round, arrays):
    return MetricRecord({"distance": float(np.abs(1 - arrays["a0"].numpy()).max()), "byz-x": 1.0})


def start(strategy, reply=byzantine, **options):
    grid = AnsweringGrid(NUM_NODES, reply)
    return strategy.start(grid, model(), num_rounds=5, evaluate_fn=distance, **options)


def measured(events, source):
    of_source = [e for e in events if e["event"] == "metrics" and e["source"] == source]
    return {e["round"]: e["values"] for e in of_source}


def test_an_apps_own_strategy_trains_as_it_would_and_what_it_measures_is_recorded(tmp_path):
    training, events = watched(tmp_path)
    result = start(FedAvg(fraction_evaluate=0.0))
    assert events[0] == {"event": "begun", "strategy": "FedAvg", "notes": [], "num_rounds": 2}
    values = measured(events, "server")
    assert values == {0: {"distance": 1.0}, 1: {"distance": None}, 2: {"distance": None}}
    assert measured(events, "train")[1]["loss"] == pytest.approx(3.0)  # the mean of 0 … 6
    assert [e["event"] for e in events].count("round") == 2
    assert np.isnan(training.final).all()
    assert np.isnan(result.arrays["a0"].numpy()).all()
    assert (training.initial == 0).all()


def test_the_robust_strategy_replaces_the_apps_own(tmp_path):
    training, events = watched(tmp_path, strategy="robust")
    result = start(FedAvg(fraction_evaluate=0.0))
    assert events[0]["strategy"] == "FedAvg"
    assert measured(events, "server")[2] == {"distance": 0.25}
    assert training.final == pytest.approx(0.75 * np.ones(3))
    assert result.train_metrics_clientapp[1]["byz-rejected"] == 2


def test_who_is_asked_is_written_by_partition(tmp_path):
    training, _ = watched(tmp_path)
    start(FedAvg(fraction_evaluate=0.0))
    assert training.asked_byzantine
    assert json.loads((tmp_path / "asked/round-2.json").read_text()) == [4, 5]


def test_the_same_clients_are_asked_in_a_round_of_every_run(tmp_path):
    asked = {}
    for name in ("own", "robust"):
        nodes = []

        def reply(node, server_round, arrays, nodes=nodes):
            nodes.append(node)
            return towards_one(node, server_round, arrays)

        watched(tmp_path, strategy=name)
        start(FedAvg(fraction_train=0.8, min_train_nodes=5, fraction_evaluate=0.0), reply)
        asked[name] = nodes
    assert asked["own"] == asked["robust"]
    assert len(asked["own"]) == 10


def test_evaluations_of_either_strategy_are_aggregated_by_the_apps_own(tmp_path):
    seen = []

    def mine(contents, weighted_by):
        seen.append(len(contents))
        return MetricRecord({"accuracy": 0.5})

    class Own(FedAvg):
        def aggregate_evaluate(self, server_round, replies):
            return mine([reply.content for reply in replies], "")

    _, events = watched(tmp_path, strategy="robust")
    result = start(Own(), towards_one)
    assert measured(events, "evaluate") == {1: {"accuracy": 0.5}, 2: {"accuracy": 0.5}}
    assert seen == [NUM_NODES, NUM_NODES]
    assert result.evaluate_metrics_clientapp[1]["loss"] == 3.0


def test_clients_evaluate_the_initial_model_after_the_app_has_ended(tmp_path):
    training, events = watched(tmp_path, attack=NO_ATTACK)
    start(FedAvg(), towards_one)
    assert set(measured(events, "evaluate")) == {1, 2}
    training.evaluate_start()
    assert set(measured(events, "evaluate")) == {0, 1, 2}
    assert (training.initial == 0).all()
    assert training.final == pytest.approx(0.735510 * np.ones(3))


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_an_app_that_expects_no_round_0_is_not_disturbed(tmp_path, error, caplog):
    rounds = []

    class CountsFromOne(FedAvg):
        def configure_evaluate(self, server_round, arrays, config, grid):
            rounds.append(server_round)
            if server_round == 0:
                raise error("of the app's,\nin two lines")
            return super().configure_evaluate(server_round, arrays, config, grid)

    training, events = watched(tmp_path, attack=NO_ATTACK)
    start(CountsFromOne(), towards_one)
    assert rounds == [1, 2]
    training.evaluate_start()
    assert set(measured(events, "evaluate")) == {1, 2}
    assert "did not evaluate the initial model" in caplog.text
    assert "of the app's,\nin" not in caplog.text


@pytest.mark.parametrize("kind", [message.FedXgbBagging, message.FedXgbCyclic])
def test_a_strategy_over_trees_is_refused_by_name(tmp_path, kind):
    _, events = watched(tmp_path, attack=NO_ATTACK)
    with pytest.raises(Refused, match=f"{kind.__name__}.* arrays of fixed shape, no trees"):
        start(kind(), towards_one)
    assert events == []


@pytest.mark.parametrize("kind", [classic.FedXgbBagging, classic.FedXgbCyclic])
def test_a_classic_strategy_over_trees_is_refused_by_name(tmp_path, kind):
    watched(tmp_path, attack=NO_ATTACK)
    server = Server(client_manager=SimpleClientManager(), strategy=kind())
    with pytest.raises(Refused, match=f"{kind.__name__}.* arrays of fixed shape, no trees"):
        server.fit(2, None)


@pytest.mark.parametrize("workflow", [DefaultWorkflow(), SecAggPlusWorkflow(3, 2)])
def test_a_workflow_is_refused_by_name(tmp_path, workflow):
    watched(tmp_path, attack=NO_ATTACK)
    with pytest.raises(Refused, match=f"{type(workflow).__name__}, as for secure aggregation"):
        workflow(None, None)


@pytest.mark.parametrize("strategy", ["own", "robust"])
@pytest.mark.parametrize("kind", [PassesOn, TakesMore])
def test_a_loop_of_the_apps_own_is_watched_once(tmp_path, strategy, kind):
    _, events = watched(tmp_path, attack=NO_ATTACK, strategy=strategy)
    grid = AnsweringGrid(NUM_NODES, towards_one)
    kind(fraction_evaluate=0.0).start(
        grid, initial_arrays=model(), num_rounds=5, evaluate_fn=distance
    )
    assert set(measured(events, "server")) == {0, 1, 2}
    assert [e["event"] for e in events].count("begun") == 1
    assert [e["event"] for e in events].count("round") == 2


def test_without_a_number_of_rounds_the_apps_own_counts(tmp_path):
    _, events = watched(tmp_path, num_rounds=None)
    start(FedAvg(fraction_evaluate=0.0))
    assert events[0]["num_rounds"] == 5
    assert [e["event"] for e in events].count("round") == 5


def test_what_was_measured_before_a_crash_is_recorded(tmp_path):
    def reply(node, server_round, arrays):
        longer = [np.append(a, 0).astype(a.dtype) for a in arrays]
        return longer if server_round == 2 and node == 2 else towards_one(node, 1, arrays)

    _, events = watched(tmp_path)
    with pytest.raises(ValueError, match="broadcast"):
        start(FedAvg(fraction_evaluate=0.0), reply)
    assert set(measured(events, "server")) == {0, 1}
