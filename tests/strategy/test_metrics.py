"""Metrics of clients that cannot be poisoned, whatever set of them honest clients report."""

import math

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common import Code, EvaluateRes, Status, ndarrays_to_parameters
from flwr.server.client_manager import SimpleClientManager
from hypothesis import given
from hypothesis import strategies as st

from flwr_byz.metrics import common_metrics, robust_metrics
from flwr_byz.server.strategy import GeometricMedianOfMeans as ClassicStrategy
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans as MessageStrategy
from tests.support import malformed
from tests.support.malformed import fit_res, honest_arrays, model_arrays
from tests.support.server import Grid, Proxy, classic_round, message_round

APIS = pytest.mark.parametrize("api", ["classic", "message"])
CLIENT_NAMES = st.sampled_from(["loss", "accuracy", "byz-gap", "x"])
VALUES = st.one_of(
    st.floats(), st.integers(), st.text(max_size=3), st.lists(st.floats(), max_size=3), st.none()
)


def robust(claims, least, k=None, ignored=()):
    return robust_metrics(claims, least, lambda m: m if k is None else min(k, m), ignored)


def play(api, claims, custom=None, kept=False, **options):
    """A round in which client c reports claims[c], an honest model with it; metrics alone."""
    arrays = [honest_arrays(c) if not kept else honest_arrays(c)[:2] for c in range(len(claims))]
    if api == "classic":
        results = {
            c: fit_res(a, metrics=claim)
            for c, (a, claim) in enumerate(zip(arrays, claims, strict=True))
        }
        if custom:
            options["fit_metrics_aggregation_fn"] = lambda given: custom([m for _, m in given])
        return classic_round(model_arrays(), results, **options)
    contents = {
        c: malformed.content(malformed.named(a), {"num-examples": 10} | claim)
        for c, (a, claim) in enumerate(zip(arrays, claims, strict=True))
    }
    if custom:

        def function(contents, weighted_by_key):
            return MetricRecord(custom([dict(c["metrics"]) for c in contents]))

        options["train_metrics_aggr_fn"] = function
    return message_round(malformed.named(model_arrays()), contents, **options)


# The functions. --------------------------------------------------------------------------------


def test_each_metric_is_aggregated_over_its_own_reporters():
    claims = [{"a": 1.0}, {"a": 2.0, "b": 5.0}, {"a": 3.0, "b": 7.0}, {"b": 9.0}, {"c": 1.0}]
    assert robust(claims, 3) == ({"a": 2.0, "b": 7.0}, 1)


def test_the_form_that_most_report_counts():
    claims = [{"a": [1, 2]}, {"a": [3, 4]}, {"a": [5, 6]}, {"a": 7.0}, {"a": [1.0]}]
    assert robust(claims, 3) == ({"a": [3.0, 4.0]}, 2)
    assert robust(claims, 4) == ({}, 5)


def test_a_metric_is_the_median_of_batch_means():
    claims = [{"a": float(c)} for c in range(7)] + [{"a": 1e30}]
    assert robust(claims, 5, k=4)[0]["a"] == np.median([0.5, 2.5, 4.5, 5e29])


@pytest.mark.parametrize("claim", [None, 7, "loss", [("loss", 1.0)], {7: 1.0}, {"": math.nan}])
def test_what_is_no_metric_counts_as_none(claim):
    assert robust([{"a": 1.0}, {"a": 1.0}, claim], 2) == ({"a": 1.0}, 1)
    assert common_metrics([{"a": 1.0}, {"a": 1.0}, claim], 2) == [{"a": 1.0}, {"a": 1.0}, None]


def test_names_of_the_strategy_s_own_are_ignored():
    claims = [{"byz-gap": 1.0, "a": 1.0}] * 3
    assert robust(claims, 2) == ({"a": 1.0}, 0)
    assert common_metrics(claims, 2) == [{"a": 1.0}] * 3


def test_clients_that_report_no_metrics_by_design_are_not_rejected():
    assert robust([{"n": 1.0}] * 3, 2, ignored=("n", None)) == ({}, 0)
    assert robust([{"n": 1.0, "loss": math.nan}] * 3, 2, ignored=("n",)) == ({}, 3)


def test_a_function_s_metrics_are_chosen_by_their_reporters_while_they_outvote():
    claims = [
        {"a": 1.0, "b": 1.0, "c": 1.0},
        {"a": 2.0, "b": 2.0, "c": 2.0},
        {"a": 3.0, "b": 3.0},
        {"a": 4.0, "c": 4.0},
        {"c": 5.0, "b": 5.0},
    ]
    assert common_metrics(claims, 3) == [
        {"a": 1.0, "b": 1.0},
        {"a": 2.0, "b": 2.0},
        {"a": 3.0, "b": 3.0},
        None,
        None,
    ]
    assert common_metrics(claims[::-1], 3)[::-1] == common_metrics(claims, 3)
    assert common_metrics(claims, 4) == [{"a": x} if x < 5 else None for x in (1.0, 2, 3, 4, 5)]


@given(st.lists(st.dictionaries(CLIENT_NAMES, VALUES) | st.none(), max_size=6), st.integers(1, 4))
def test_whatever_clients_report_every_value_is_finite(claims, least):
    with np.errstate(all="raise"):
        metrics, num_rejected = robust(claims, least, k=2)
        common = common_metrics(claims, least)
    assert all(np.isfinite(value).all() for value in metrics.values())
    assert 0 <= num_rejected <= len(claims)
    assert len({tuple(given) for given in common if given is not None}) <= 1
    assert len(common) - common.count(None) >= min(least, len(claims))


# The strategies. -------------------------------------------------------------------------------

POISONED = [{"loss": 0.5}] * 5 + [{"accuracy": 0.9}] * 4 + [{"accuracy": -1e9}] * 2


@APIS
def test_colluders_cannot_tip_the_choice_of_metrics(api):
    _, metrics = play(api, POISONED, num_byzantine=2)
    assert metrics["loss"] == 0.5
    assert metrics["accuracy"] == 0.9
    assert metrics["byz-metrics-rejected"] == 0


@APIS
def test_with_a_number_of_batches_more_than_half_have_to_report_a_metric(api):
    _, metrics = play(api, POISONED, num_batches=11)
    assert metrics["accuracy"] == 0.9
    assert "loss" not in metrics
    assert metrics["byz-metrics-rejected"] == 5


@APIS
def test_a_function_of_the_user_s_is_called_once_with_clients_alike(api):
    seen = []

    def custom(metrics):
        seen.append(metrics)
        return {"mean": float(np.mean([m["loss"] for m in metrics]))}

    claims = [{"loss": 1.0, "rare": 2.0}] + [{"loss": 1.0}] * 6 + [{"accuracy": -1e9}] * 2
    _, metrics = play(api, claims, custom, num_byzantine=2)
    (given_metrics,) = seen
    assert len(given_metrics) == 7
    assert all(set(m) - {"num-examples"} == {"loss"} for m in given_metrics)
    assert metrics["mean"] == 1.0
    assert metrics["byz-metrics-rejected"] == 2


@APIS
@pytest.mark.parametrize("made", [None, 7])
def test_a_function_of_the_user_s_that_returns_no_metrics_is_logged(api, made, caplog):
    options = {}
    if api == "classic":
        options["fit_metrics_aggregation_fn"] = lambda claims: made
    else:
        options["train_metrics_aggr_fn"] = lambda contents, key: made
    model, metrics = play(api, [{"loss": 1.0}] * 5, num_byzantine=1, **options)
    assert model is not None
    assert metrics["byz-metrics-rejected"] == 0
    assert "the metrics of this round could not be aggregated" in caplog.text


@APIS
def test_a_round_that_keeps_the_model_reports_no_metrics_of_clients(api):
    called = []
    for custom in (None, lambda metrics: called.append(metrics) or {"mine": 1.0}):
        model, metrics = play(api, [{"loss": 1.0}] * 4, custom, num_byzantine=2)
        assert model is None
        assert metrics
        assert all(name.startswith("byz-") for name in metrics)
    assert called == []


def test_a_classic_round_that_failures_void_reports_no_metrics_of_clients():
    results = {c: fit_res(honest_arrays(c)) for c in range(5)}
    model, metrics = classic_round(
        model_arrays(), results, [ValueError("raised")], num_byzantine=1, accept_failures=False
    )
    assert model is None
    assert "loss" not in metrics


@APIS
def test_metrics_do_not_overwrite_the_strategy_s_own(api):
    _, metrics = play(api, [{"byz-gap": 7.0, "byz-mine": 1.0, "loss": 1.0}] * 5, num_byzantine=1)
    assert metrics["byz-gap"] <= 1e-9
    assert "byz-mine" not in metrics


@pytest.mark.parametrize("metrics", [None, 7, "loss", [1.0]])
@pytest.mark.parametrize("group_by_key", [None, "partition-id"])
def test_classic_metrics_that_are_no_mapping_do_not_stop_a_round(metrics, group_by_key):
    results = {c: fit_res(honest_arrays(c)) for c in range(5)}
    results[2].metrics = metrics
    model, aggregated = classic_round(
        model_arrays(), results, num_byzantine=1, group_by_key=group_by_key
    )
    assert model is not None
    assert aggregated["loss"] == 0.5
    assert aggregated["byz-metrics-rejected"] + aggregated["byz-rejected"] == 1


@APIS
def test_numpy_that_raises_does_not_stop_the_metrics(api):
    claims = [{"a": 1e308, "b": 5e-324, "c": 0.0}] * 7
    with np.errstate(all="raise"):
        metrics, _ = robust(claims, 5, k=3)
    assert metrics["a"] == pytest.approx(1e308)
    with np.errstate(all="raise"):
        _, metrics = play(api, [{"loss": 5e-324}] * 4 + [{"loss": 1e308}], num_byzantine=1)
    assert metrics["loss"] == 5e-324


# Evaluation. -----------------------------------------------------------------------------------


def classic_evaluation(cids, pairs, **options):
    strategy = ClassicStrategy(min_evaluate_clients=len(cids), **options)
    manager = SimpleClientManager()
    for cid in cids:
        manager.register(Proxy(cid))
    strategy.configure_evaluate(1, ndarrays_to_parameters(model_arrays()), manager)
    results = [
        (Proxy(c), EvaluateRes(Status(Code.OK, ""), loss, 1, metrics)) for c, loss, metrics in pairs
    ]
    loss, metrics = strategy.aggregate_evaluate(1, results, [])
    return loss, {name: value for name, value in metrics.items() if not name.startswith("byz-")}


def test_classic_evaluations_of_strangers_and_of_twins_are_ignored():
    asked = [str(c) for c in range(5)]
    honest = [(c, 1.0, {"accuracy": 0.5}) for c in asked[:4]]
    evil = [(f"stranger {c}", 1e9, {"accuracy": -1.0}) for c in range(9)]
    twins = [("4", 1e9, {"accuracy": -1.0})] * 9
    assert classic_evaluation(asked, honest + evil + twins, num_byzantine=1) == (
        1.0,
        {"accuracy": 0.5},
    )


@pytest.mark.parametrize("metrics", [None, 7, "accuracy"])
def test_classic_evaluation_metrics_that_are_no_mapping_count_as_none(metrics):
    asked = [str(c) for c in range(5)]
    pairs = [(c, 1.0, {"accuracy": 0.5}) for c in asked[:4]] + [("4", 1.0, metrics)]
    assert classic_evaluation(asked, pairs, num_byzantine=1) == (1.0, {"accuracy": 0.5})


def test_message_evaluations_of_strangers_and_of_twins_are_ignored():
    malformed.in_a_run()
    strategy = MessageStrategy(num_byzantine=1, min_evaluate_nodes=5, min_available_nodes=5)
    arrays = ArrayRecord(list(model_arrays()))
    sent = list(strategy.configure_evaluate(1, arrays, ConfigRecord(), Grid(range(5))))
    other = MessageStrategy(num_byzantine=1, min_evaluate_nodes=9, min_available_nodes=9)
    strange = list(other.configure_evaluate(1, arrays, ConfigRecord(), Grid(range(10, 19))))

    def reply(message, accuracy):
        metrics = MetricRecord({"num-examples": 1, "accuracy": accuracy})
        return malformed.reply_to(message, RecordDict({"metrics": metrics}))

    replies = [reply(message, 0.5) for message in sent[:4]]
    replies += [reply(sent[4], -1.0) for _ in range(9)]
    replies += [reply(message, -1.0) for message in strange]
    metrics = dict(strategy.aggregate_evaluate(1, replies))
    assert metrics.pop("accuracy") == 0.5
    assert metrics == {"byz-clients": 5, "byz-rejected": 18, "byz-missing": 0}


def test_a_round_without_evaluation_asks_nobody():
    strategy = MessageStrategy(num_byzantine=1, fraction_evaluate=0.0)
    arrays = ArrayRecord(list(model_arrays()))
    assert strategy.configure_evaluate(1, arrays, ConfigRecord(), Grid(range(5))) == []
    assert strategy.aggregate_evaluate(1, []) is None
