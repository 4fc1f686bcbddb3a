"""`RobustFedAvg` of both APIs: any rule, any pre-aggregation, and a server with the last word."""

import logging
from itertools import product

import numpy as np
import pytest
from flwr.app import ArrayRecord

from flwr_byz.aggregation import (
    AdaptiveClipping,
    Bucketing,
    GeometricMedian,
    NearestNeighborMixing,
    NormTrimming,
    SpectralFilter,
    robust_mean,
)
from tests.support.apis import BOTH, CLASSIC, MESSAGE, MODEL, exact, flat, updates

ENTRIES = [
    (),
    (NearestNeighborMixing(),),
    (AdaptiveClipping(), NearestNeighborMixing()),
    (NormTrimming(), Bucketing(2, seed=5)),
]
Q = 3


def strategy(api, **options):
    return api.own.RobustFedAvg(**api.least | {"num_byzantine": Q} | options)


def a_round(api, made, arrays, sent=MODEL, shuffle=None, server_round=1):
    replies = {c: api.reply(a, {"loss": 0.1 * c}) for c, a in enumerate(arrays)}
    return api.round(made, replies, sent, server_round, shuffle)


@BOTH
@pytest.mark.parametrize("rule", [GeometricMedian(), SpectralFilter()], ids=repr)
@pytest.mark.parametrize("entries", ENTRIES)
def test_a_round_steps_by_the_rule_behind_its_pre_aggregation(api, rule, entries):
    sent = [np.full_like(a, 0.5) for a in MODEL]
    made = strategy(api, rule=rule, pre_aggregation=entries, num_batches=13)
    model, metrics = a_round(api, made, updates(), sent)
    k = 13
    vectors = [flat(a) - flat(sent) for a in updates()]
    expected = robust_mean(
        vectors, k, rule=rule, pre_aggregation=entries, num_byzantine=Q, server_round=1
    )
    assert np.allclose(flat(model) - flat(sent), expected.point, rtol=0, atol=1e-5)
    assert metrics["byz-batches"] == k
    assert metrics["byz-bound"] == pytest.approx(expected.combination.bound, rel=1e-3)
    assert ("byz-gap" in metrics) == isinstance(rule, GeometricMedian)
    assert ("byz-spread" in metrics) == isinstance(rule, SpectralFilter)


@pytest.mark.parametrize("rule", [GeometricMedian(), SpectralFilter()], ids=repr)
@pytest.mark.parametrize("entries", ENTRIES)
def test_both_apis_any_order_of_arrival_and_streaming_agree(rule, entries):
    outcomes, options = [], {"rule": rule, "pre_aggregation": entries, "num_batches": 13}
    for api, shuffle in product((CLASSIC, MESSAGE), (None, 7)):
        made = strategy(api, **options)
        outcomes.append(a_round(api, made, updates(), shuffle=shuffle))
    assert all(exact(each) == exact(outcomes[0]) for each in outcomes)
    streamed = strategy(MESSAGE, streaming=True, **options)
    model, _ = a_round(MESSAGE, streamed, updates())
    assert np.allclose(flat(model), flat(outcomes[0][0]), rtol=0, atol=1e-5)


@BOTH
def test_the_geometric_median_of_means_is_its_case_with_the_papers_rule(api):
    paper = api.own.GeometricMedianOfMeans(
        **api.least, num_byzantine=Q, trim_norm=5.0, pre_aggregation=[AdaptiveClipping()]
    )
    entries = [NormTrimming(5.0), AdaptiveClipping()]
    general = strategy(api, rule=GeometricMedian(), pre_aggregation=entries)
    assert exact(a_round(api, paper, updates())) == exact(a_round(api, general, updates()))
    assert isinstance(paper, api.own.RobustFedAvg)


@BOTH
def test_the_server_has_the_last_word_in_every_round(api):
    seen = []

    def train(server_round, arrays):
        seen.append((server_round, arrays))
        if api is MESSAGE:
            return ArrayRecord({name: a for name, a in zip(arrays, doubled(arrays), strict=True)})
        return [2 * a for a in arrays]

    def doubled(record):
        from flwr.app import Array

        return [Array(2 * array.numpy()) for array in record.values()]

    alone, _ = a_round(api, strategy(api), updates())
    model, metrics = a_round(api, strategy(api, server_update_fn=train), updates())
    assert np.array_equal(flat(model), 2 * flat(alone))
    assert [server_round for server_round, _ in seen] == [1]
    assert metrics["byz-clients"] == 13


@BOTH
@pytest.mark.parametrize("reply", ["weights", "gradients"])
def test_the_server_updates_the_stepped_model_with_its_counters(api, reply):
    sent, seen = [*MODEL, np.array([5, 7])], []
    counted = [[*arrays, np.array([c, 9])] for c, arrays in enumerate(updates())]

    def train(server_round, arrays):
        record = isinstance(arrays, ArrayRecord)
        own = arrays.to_numpy_ndarrays(keep_input=True) if record else arrays
        seen.append([a.copy() for a in own])
        for array in own:
            array[...] = 0
        raise RuntimeError("after it has changed what it was given")

    options = {"reply": reply, "server_learning_rate": 0.5}
    alone, _ = a_round(api, strategy(api, **options), counted, sent)
    model, _ = a_round(api, strategy(api, server_update_fn=train, **options), counted, sent)
    assert exact((model, {})) == exact((alone, {})) == exact((seen[0], {}))
    assert alone[-1].tolist() == ([6, 9] if reply == "weights" else [5, 7])


@BOTH
def test_no_server_update_where_the_model_is_kept(api):
    seen = []
    made = strategy(api, server_update_fn=lambda *given: seen.append(given))
    model, _ = a_round(api, made, updates()[: 2 * Q])
    assert model is None
    assert not seen


def not_finite(server_round, arrays):
    if isinstance(arrays, ArrayRecord):
        return ArrayRecord([np.full_like(a, np.nan) for a in arrays.to_numpy_ndarrays()])
    return [np.full_like(a, np.nan) for a in arrays]


def fails(server_round, arrays):
    raise RuntimeError("no data\ntoday")


@BOTH
@pytest.mark.parametrize("train", [not_finite, fails, lambda *_: None, lambda *_: []])
def test_a_round_goes_on_without_a_server_update_that_fails(api, train, caplog):
    caplog.set_level(logging.ERROR, "flwr")
    alone, _ = a_round(api, strategy(api), updates())
    model, _ = a_round(api, strategy(api, server_update_fn=train), updates())
    assert exact((model, {})) == exact((alone, {}))
    (line,) = [m for m in caplog.messages if "server_update_fn failed" in m]
    assert "\n" not in line


@BOTH
@pytest.mark.parametrize("rule", [GeometricMedian(), SpectralFilter()], ids=repr)
def test_by_default_k_suits_the_rule(api, rule):
    _, metrics = a_round(api, strategy(api, rule=rule), updates())
    assert (
        metrics["byz-batches"] == {"GeometricMedian": 12, "SpectralFilter": 13}[type(rule).__name__]
    )


@BOTH
def test_honest_clients_that_diverge_do_not_hand_the_model_to_others(api):
    """They count as Byzantine, but no fewer than q are taken to be among the other replies."""
    arrays = updates(20)
    for client in range(Q):
        arrays[client] = [np.full_like(a, np.nan) for a in MODEL]
        arrays[client + Q] = [np.full_like(a, 1e3) for a in MODEL]
    model, metrics = a_round(api, strategy(api, rule=SpectralFilter()), arrays)
    assert np.abs(flat(model)).max() < 10
    assert metrics["byz-rejected"] == Q
    assert metrics["byz-bound"] > 0


@BOTH
def test_the_model_is_kept_where_buckets_leave_no_honest_majority(api, caplog):
    made = strategy(api, pre_aggregation=[Bucketing(2)])  # of 12 batches
    model, metrics = a_round(api, made, updates())
    assert model is None
    assert "no honest majority: the model is kept" in caplog.text
    assert metrics["byz-batches"] == 12


@BOTH
def test_the_log_says_what_the_rule_guarantees(api, caplog):
    caplog.set_level(logging.INFO, "flwr")
    made = strategy(api, rule=SpectralFilter(), pre_aggregation=[NearestNeighborMixing()])
    made.summary()
    a_round(api, made, updates())
    text = "\n".join(caplog.messages)
    for said in ("Rule: SpectralFilter()", "NearestNeighborMixing()", "byz-spread"):
        assert said in text


@BOTH
@pytest.mark.parametrize("option", [{"gamma": 1e-6}, {"trim_norm": 3.0}])
def test_robust_with_a_rule_takes_no_option_of_the_papers(api, option):
    message = r"robust\(FedAdam\).*rule=GeometricMedian\(gamma\).*NormTrimming\(norm\)"
    with pytest.raises(TypeError, match=message):
        api.own.robust(api.flower.FedAdam, num_byzantine=Q, rule=SpectralFilter(), **option)


WRONG = [
    ({"rule": SpectralFilter}, "rule must be a rule, such as SpectralFilter()"),
    ({"rule": "median"}, "rule must be a rule"),
    ({"pre_aggregation": NearestNeighborMixing()}, "pre_aggregation must be a list"),
    ({"pre_aggregation": [NearestNeighborMixing]}, r"pre_aggregation\[0\] must be"),
    ({"server_update_fn": 3}, "server_update_fn must be a function"),
    ({"trim_norm": 3.0}, "RobustFedAvg has no option trim_norm"),
]


@BOTH
@pytest.mark.parametrize(("options", "said"), WRONG)
def test_a_wrong_option_is_refused_by_name(api, options, said):
    with pytest.raises(TypeError, match=said):
        strategy(api, **options)
    if "rule" in options:
        with pytest.raises(TypeError, match="it is one: give RobustFedAvg"):
            api.own.GeometricMedianOfMeans(num_byzantine=1, **options)
