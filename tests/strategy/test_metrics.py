"""Metrics of clients that cannot be poisoned, whatever set of them honest clients report."""

import math
from unittest.mock import Mock

import numpy as np
import pytest
from flwr.app import MetricRecord
from hypothesis import given
from hypothesis import strategies as st

from flwr_byz.metrics import common_metrics, robust_metrics
from tests.support import malformed
from tests.support.apis import BOTH, CLASSIC, MESSAGE
from tests.support.malformed import honest_arrays, model_arrays

CLIENT_NAMES = st.sampled_from(["loss", "accuracy", "byz-gap", "x"])
LISTS = st.lists(st.floats(), max_size=3)
VALUES = st.none() | st.floats() | st.integers() | st.text(max_size=3) | LISTS


def robust(claims, least, k=100):
    return robust_metrics(claims, least, lambda m: min(k, m), ignored=("n", None))


def custom_option(api, custom):
    """Return the option of an API that has metrics aggregated by a function of the user's."""
    if api is CLASSIC:
        return {"fit_metrics_aggregation_fn": lambda given: custom([m for _, m in given])}
    return {"train_metrics_aggr_fn": lambda c, key: custom([dict(r["metrics"]) for r in c])}


def metrics_of(api, claims, **options):
    """Return the metrics of a round in which client c reports claims[c] and an honest model."""
    replies = {c: api.reply(honest_arrays(c), claim) for c, claim in enumerate(claims)}
    model, metrics = api.round(api.gmom(**options), replies, model_arrays())
    assert model is not None
    return metrics


FORMS = [{"a": [1, 2]}, {"a": [3, 4]}, {"a": [5, 6]}, {"a": 7.0}, {"a": [1.0]}]
A_AND_B = [{"a": 1.0}, {"a": 2.0, "b": 5.0}, {"a": 3.0, "b": 7.0}, {"b": 9.0}]
NO_METRICS = [None, 7, "loss", [("loss", 1.0)], {7: 1.0}, {"": math.nan}]


@pytest.mark.parametrize(
    ("claims", "least", "expected"),
    [
        ([*A_AND_B, {"c": 1.0}], 3, ({"a": 2.0, "b": 7.0}, 1)),  # each over its own reporters
        (FORMS, 3, ({"a": [3.0, 4.0]}, 2)),  # the form that most report
        (FORMS, 4, ({}, 5)),
        (FORMS[:2] + [{"a": 1.0}] * 2, 2, ({"a": 1.0}, 2)),  # a number, where as many do
        ([{"byz-gap": 1.0, "a": 1.0}] * 3, 2, ({"a": 1.0}, 0)),  # the strategy's own
        ([{"a": 1.0}] * 2 + NO_METRICS, 2, ({"a": 1.0}, 6)),
        ([{"n": 1.0}] * 3, 2, ({}, 0)),  # as they should
        ([{"n": 1.0, "loss": math.nan}] * 3, 2, ({}, 3)),
    ],
)
def test_a_metric_is_aggregated_over_enough_clients_that_report_it_alike(claims, least, expected):
    assert robust(claims, least) == expected


def test_a_metric_is_the_median_of_batch_means():
    claims = [{"a": float(c)} for c in range(7)] + [{"a": 1e30}]
    assert robust(claims, 5, k=4)[0]["a"] == np.median([0.5, 2.5, 4.5, 5e29])
    with np.errstate(all="raise"):
        assert robust([{"a": 1e308, "b": 5e-324}] * 7, 5, k=3)[0]["a"] == pytest.approx(1e308)


def test_a_function_s_metrics_are_chosen_by_their_reporters_while_they_outvote():
    names = ["abc", "abc", "ab", "ac", "cb"]
    claims = [dict.fromkeys(own, float(c)) for c, own in enumerate(names)]
    expected = [{"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 1.0}, {"a": 2.0, "b": 2.0}, None, None]
    assert common_metrics(claims, 3) == expected
    assert common_metrics(claims[::-1], 3) == expected[::-1]
    assert common_metrics(claims, 4) == [*({"a": float(c)} for c in range(4)), None]
    claims = [{"byz-gap": 1.0, "a": 1.0}] * 3 + NO_METRICS
    assert common_metrics(claims, 2) == [{"a": 1.0}] * 3 + [None] * 6


@given(st.lists(st.dictionaries(CLIENT_NAMES, VALUES) | st.none(), max_size=6), st.integers(1, 4))
def test_whatever_clients_report_every_value_is_finite(claims, least):
    with np.errstate(all="raise"):
        metrics, num_rejected = robust(claims, least, k=2)
        common = common_metrics(claims, least)
    assert all(np.isfinite(value).all() for value in metrics.values())
    assert 0 <= num_rejected <= len(claims)
    assert len({tuple(given) for given in common if given is not None}) <= 1
    assert len(common) - common.count(None) >= min(least, len(claims))


POISONED = [{"loss": 0.5}] * 5 + [{"accuracy": 0.9}] * 4 + [{"accuracy": -1e9}] * 2


@BOTH
@pytest.mark.parametrize(
    ("options", "loss", "num_rejected"), [({"num_byzantine": 2}, 0.5, 0), ({}, None, 5)]
)
def test_colluders_cannot_tip_the_choice_of_metrics(api, options, loss, num_rejected):
    """With a number of batches alone, more than half have to report a metric."""
    metrics = metrics_of(api, POISONED, num_batches=11, **options)
    assert metrics["accuracy"] == 0.9
    assert metrics.get("loss") == loss
    assert metrics["byz-metrics-rejected"] == num_rejected


@BOTH
@pytest.mark.parametrize("made", [MetricRecord({"mean": 1.0}), None])
def test_a_function_of_the_user_s_is_called_once_with_clients_alike(api, made, caplog):
    """And what it returns that is no metrics is logged."""
    custom = Mock(return_value=made)
    claims = [{"loss": 1.0, "rare": 2.0}] + [{"loss": 1.0}] * 6 + [{"accuracy": -1e9}] * 2
    metrics = metrics_of(api, claims, num_byzantine=2, **custom_option(api, custom))
    (given_metrics,) = custom.call_args.args
    assert [set(m) - {"num-examples"} for m in given_metrics] == [{"loss"}] * 7
    assert custom.call_count == 1
    assert metrics.get("mean") == (made and 1.0)
    assert metrics["byz-metrics-rejected"] == 2
    assert ("the metrics of this round could not be aggregated" in caplog.text) == (made is None)


class Raising(dict):
    """Metrics that no client can send, but a proxy can hand on."""

    def keys(self):
        raise RuntimeError

    __iter__ = keys


@BOTH
@pytest.mark.parametrize("group_by_key", [None, "partition-id"])
def test_odd_metrics_of_a_client_end_no_round_and_are_left_out(api, group_by_key):
    no_mappings = (7, "loss", [1.0], Raising()) if api is CLASSIC else ()
    for odd in (*malformed.BAD_METRICS.values(), *no_mappings):
        claims = [{"loss": 0.5}] * 5 + [odd] + [{"loss": 0.5}] * 3
        metrics = metrics_of(api, claims, num_byzantine=1, group_by_key=group_by_key)
        assert metrics["loss"] == 0.5
        assert (metrics["byz-metrics-rejected"], metrics["byz-rejected"]) in [(1, 0), (0, 1)]
        assert bool(metrics["byz-rejected"]) == isinstance(odd, Raising)


def test_a_classic_evaluation_without_metrics_counts_by_its_loss():
    claims = {c: CLASSIC.claim(1.0, accuracy=0.5) for c in range(5)}
    claims[4].metrics = None
    made = CLASSIC.evaluation(CLASSIC.gmom(num_byzantine=1), claims)
    assert (made["loss"], made["accuracy"], made["byz-rejected"]) == (1.0, 0.5, 0)


def test_a_round_without_evaluation_asks_no_client():
    strategy = MESSAGE.gmom(num_byzantine=1, fraction_evaluate=0.0)
    assert MESSAGE.begin(strategy, range(5), kind="evaluate") == {}
    assert strategy.aggregate_evaluate(1, []) is None
