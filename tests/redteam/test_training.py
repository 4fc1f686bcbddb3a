"""What is watched in a training, in this process, on a grid whose nodes answer at once."""

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord
from flwr.server import Server, SimpleClientManager
from flwr.server import strategy as classic
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import strategy as message
from flwr.serverapp.strategy import FedAvg

from flwr_byz.redteam.swap import Refused
from tests.support.answering_grid import AnsweringGrid

TREES, WORKFLOW = "arrays of fixed shape, no trees", "as for secure aggregation"


class PassesOn(FedAvg):
    def start(self, *args, **kwargs):
        return super().start(*args, **kwargs)


def towards_one(node, server_round, arrays):
    step = 0.4 if node == 0 else 0.5  # replies that were all copies would be refused
    return [(a + step * (1 - a)).astype(a.dtype) for a in arrays]


def byzantine(node, server_round, arrays):
    """Nodes 5 and 6, which are partitions 5 and 4, send NaN."""
    return towards_one(node, server_round, [a * np.nan if node > 4 else a for a in arrays])


def distance(server_round, arrays):
    return MetricRecord({"distance": float(np.abs(1 - arrays["a0"].numpy()).max()), "byz-x": 1.0})


def start(strategy, reply=towards_one):
    grid, model = AnsweringGrid(7, reply), ArrayRecord({"a0": Array(np.zeros(3, "f4"))})
    return strategy.start(grid, initial_arrays=model, num_rounds=5, evaluate_fn=distance)


def test_an_apps_own_strategy_trains_as_it_would_and_what_it_measures_is_recorded(watch):
    watched = watch("NonFinite")
    result = start(FedAvg(fraction_evaluate=0.0), byzantine)
    begun = {"event": "begun", "strategy": "FedAvg", "notes": [], "num_rounds": 2}
    assert watched.events("begun") == [begun]
    values = {0: {"distance": 1.0}, 1: {"distance": None}, 2: {"distance": None}}
    assert watched.measured("server") == values
    assert watched.measured("train")[1]["loss"] == pytest.approx(3.0)  # the mean of 0 … 6
    assert len(watched.events("round")) == 2
    assert np.isnan(watched.final).all()
    assert np.isnan(result.arrays["a0"].numpy()).all()
    assert (watched.initial == 0).all()
    assert watched.asked_byzantine
    assert json.loads(watched.run.asked(2).read_text()) == [4, 5]


def test_the_same_clients_are_asked_in_a_round_of_every_run(watch):
    asked = []

    def reply(node, *args):
        asked.append(node)
        return towards_one(node, *args)

    for name in ("own", "robust"):
        watch(strategy=name)
        start(FedAvg(fraction_train=0.8, min_train_nodes=5, fraction_evaluate=0.0), reply)
    assert asked[:10] == asked[10:]
    assert len(asked) == 20


def test_the_robust_strategy_replaces_the_apps_own_which_aggregates_evaluations_still(watch):
    seen = []

    class Own(FedAvg):
        def aggregate_evaluate(self, server_round, replies):
            seen.append(len(list(replies)))
            return MetricRecord({"accuracy": 0.5})

    watched = watch("NonFinite", "robust")
    result = start(Own(), byzantine)
    assert watched.events("begun")[0]["strategy"] == "Own"
    assert watched.measured("server")[2] == {"distance": 0.25}
    assert watched.final == pytest.approx(0.75 * np.ones(3))
    assert result.train_metrics_clientapp[1]["byz-rejected"] == 2
    assert watched.measured("evaluate") == {1: {"accuracy": 0.5}, 2: {"accuracy": 0.5}}
    assert seen == [7, 7]
    assert result.evaluate_metrics_clientapp[1]["loss"] == 3.0


@pytest.mark.parametrize("error", [None, ZeroDivisionError, SystemExit])
def test_clients_evaluate_the_initial_model_after_the_app_which_may_expect_no_round_0(
    watch, error, caplog
):
    class CountsFromOne(FedAvg):
        def configure_evaluate(self, server_round, *args):
            if server_round == 0 and error:
                raise error("of the app's,\nin two lines")
            return super().configure_evaluate(server_round, *args)

    watched = watch()
    start(CountsFromOne())
    assert set(watched.measured("evaluate")) == {1, 2}
    watched.evaluate_start()
    assert set(watched.measured("evaluate")) == ({1, 2} if error else {0, 1, 2})
    assert ("did not evaluate the initial model" in caplog.text) == bool(error)
    assert "of the app's,\nin" not in caplog.text
    assert (watched.initial == 0).all()
    assert watched.final == pytest.approx(0.735510 * np.ones(3))


def fit(strategy):
    Server(client_manager=SimpleClientManager(), strategy=strategy).fit(2, None)


@pytest.mark.parametrize(
    ("train", "refused", "reason"),
    [
        (start, [message.FedXgbBagging(), message.FedXgbCyclic()], TREES),
        (fit, [classic.FedXgbBagging(), classic.FedXgbCyclic()], TREES),
        (lambda it: it(None, None), [DefaultWorkflow(), SecAggPlusWorkflow(3, 2)], WORKFLOW),
    ],
)
def test_trees_and_workflows_are_refused_by_name(watch, train, refused, reason):
    watched = watch()
    for it in refused:
        with pytest.raises(Refused, match=f"{type(it).__name__}.* {reason}"):
            train(it)
    assert watched.events("begun") == []


@pytest.mark.parametrize("strategy", ["own", "robust"])
@pytest.mark.parametrize("num_rounds", [None, 2])
def test_a_loop_of_the_apps_own_is_watched_once(watch, strategy, num_rounds):
    watched = watch(strategy=strategy, num_rounds=num_rounds)
    start(PassesOn(fraction_evaluate=0.0))
    asked = num_rounds or 5  # as many as the app asks for
    assert set(watched.measured("server")) == {*range(asked + 1)}
    assert [event["num_rounds"] for event in watched.events("begun")] == [asked]
    assert len(watched.events("round")) == asked


def test_what_was_measured_before_a_crash_is_recorded(watch):
    def reply(node, server_round, arrays):
        return [np.ones(4, "f4")] if (node, server_round) == (2, 2) else [arrays[0] + node]

    watched = watch()
    with pytest.raises(ValueError, match="broadcast"):
        start(FedAvg(fraction_evaluate=0.0), reply)
    assert set(watched.measured("server")) == {0, 1}
