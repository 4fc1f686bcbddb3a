"""What the strategies of both APIs guarantee beyond surviving malformed replies."""

import inspect
import logging
from itertools import repeat
from unittest.mock import Mock

import numpy as np
import pytest
from flwr.app import Error
from flwr.common import Code, GetParametersRes, Parameters, Status, ndarrays_to_parameters
from flwr.server.client_manager import SimpleClientManager
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_byz.aggregation import geometric_median_of_means
from flwr_byz.theory import c_alpha, certified_c_alpha, sharp_c_alpha
from tests.support import malformed
from tests.support.apis import BOTH, CLASSIC, MESSAGE, MODEL, Proxy, exact, flat, updates


@BOTH
@pytest.mark.parametrize("size", [{"num_batches": 1}, {"num_byzantine": 0}])
def test_one_batch_is_the_mean_to_the_last_rounding(api, size):
    model, _ = api.step(updates(), MODEL, **size)
    narrow, wide = (np.mean(a, axis=0, dtype="f8") for a in zip(*updates(), strict=True))
    assert np.array_equal(model[0], narrow.astype("f4"))
    assert np.allclose(model[1], wide, rtol=0, atol=13 * np.finfo(np.float64).eps)


@BOTH
@pytest.mark.parametrize("reply", ["weights", "gradients"])
@pytest.mark.parametrize(("q", "k"), [(None, 13), (2, None), (2, 6)])
def test_a_round_steps_by_the_geometric_median_of_k_means_in_client_order(api, reply, q, k, caplog):
    caplog.set_level(logging.INFO, "flwr")
    sent = [np.ones_like(a) for a in MODEL]
    options = {"num_byzantine": q, "num_batches": k, "server_learning_rate": 0.5}
    model, metrics = api.step(updates(), sent, reply=reply, **options)
    offset, sign = (0, -1) if reply == "gradients" else (1, 1)
    k = k or 8
    median = geometric_median_of_means([flat(a) for a in updates()], k).point - offset
    assert np.allclose(flat(model), 1 + sign * 0.5 * median, atol=1e-6)
    assert metrics["byz-aggregate-norm"] == pytest.approx(np.linalg.norm(median), rel=1e-5)
    assert metrics["byz-gap"] <= 1e-9
    assert metrics["byz-batches"] == k
    losses = [np.mean(batch) for batch in np.array_split(0.1 * np.arange(13), k)]
    assert metrics["loss"] == pytest.approx(np.median(losses))
    (line,) = [m for m in caplog.messages if "Lemma 1" in m]  # the guarantee
    assert f"m=13 clients in k={k} batches" in line
    assert f"q={q or 6} of them" in line


OPTIONS = {
    "num_byzantine": st.integers(0, 5),
    "bucketing_seed": st.none() | st.integers(0, 2**64),
    "reply": st.sampled_from(["weights", "gradients"]),
    "trim_norm": st.sampled_from([None, "auto", 5.0]),
    "server_learning_rate": st.sampled_from([1.0, 0.5]),
}


@settings(max_examples=20)
@given(st.integers(3, 15), st.fixed_dictionaries(OPTIONS), st.integers(0, 10**6))
def test_both_apis_and_any_order_of_arrival_give_the_same_bits(num_clients, options, seed):
    options["num_byzantine"] = min(options["num_byzantine"], (num_clients - 1) // 2)
    ways = [(api, shuffle) for api in (CLASSIC, MESSAGE) for shuffle in (None, seed)]
    arrays = updates(num_clients)
    outcomes = [api.step(arrays, MODEL, shuffle, **options) for api, shuffle in ways]
    assert all(exact(each) == exact(outcomes[0]) for each in outcomes)
    assert all(each[1] == outcomes[0][1] for each in outcomes)


@BOTH
def test_silent_clients_and_errors_leave_their_batches_to_the_others(api):
    arrays, error = updates(8), ConnectionError() if api is CLASSIC else Error(5, "unavailable")
    contents = {n: api.reply(a) for n, a in enumerate(arrays)} | {0: None, 6: error, 7: None}
    model, metrics = api.round(api.gmom(num_batches=4), contents, MODEL)
    vectors = [flat(arrays[n]) for n in (1, 1, 2, 3, 4, 5)]
    assert np.allclose(flat(model), geometric_median_of_means(vectors, 3).point, atol=1e-6)
    assert [metrics[f"byz-{name}"] for name in ("missing", "rejected", "batches")] == [2, 1, 3]


@BOTH
@pytest.mark.parametrize(
    ("arrays", "options", "reason", "count"),
    [
        (updates(4), {"num_byzantine": 2}, "no rule holds", {"byz-clients": 4}),
        ([[np.zeros(3)]] * 5, {"num_byzantine": 1}, "no reply is usable", {"byz-rejected": 5}),
        (updates(), {"num_batches": 13, "trim_norm": 1e-6}, "", {"byz-trimmed": 13}),
        (updates(), {"num_batches": 13, "server_learning_rate": 1e99}, "leaves the range", {}),
    ],
)
def test_a_round_that_cannot_hold_keeps_the_model(api, arrays, options, reason, count, caplog):
    model, metrics = api.step(arrays, MODEL, **options)
    assert model is None
    assert metrics.items() >= count.items()
    assert "loss" not in metrics
    assert reason in caplog.text
    assert "the model is kept" in caplog.text


@BOTH
def test_rounds_give_every_array_back_as_it_was(api):
    floats = np.random.default_rng(0).normal(size=(3, 4))
    counters = [np.array(17), np.arange(4, dtype="u1")]  # as in a BatchNorm layer
    odd = [np.array(0.5), np.zeros((0, 3), "f4"), np.asfortranarray(floats)]
    narrow = [floats.astype(dtype) for dtype in ("f4", "f2", ">f4")]
    model = [narrow[0], *counters, np.array([True, False, True]), *odd, *narrow[1:]]
    forms = [(a.shape, a.dtype, a.flags.f_contiguous) for a in model]
    for counter in (18, 19, 20):
        reply = [np.asarray(a * 1.01, a.dtype) if a.dtype.kind == "f" else a for a in model]
        reply[1] = np.array(counter)
        another = [reply[0] * np.float32(1.01), *reply[1:]]  # copies would be refused
        model, _ = api.step([another] + 6 * [reply], model, num_byzantine=2, trim_norm="auto")
        assert [(a.shape, a.dtype, a.flags.f_contiguous) for a in model] == forms
        assert model[1] == counter
        assert model[3].tolist() == [True, False, True]


@BOTH
@pytest.mark.parametrize("trim_norm", ["auto", 100.0])
@pytest.mark.parametrize(("sizes", "q"), [({"num_byzantine": 3}, 3), ({}, 4)])
def test_long_updates_are_trimmed_and_the_bound_is_that_of_the_rest(
    api, trim_norm, sizes, q, caplog
):
    caplog.set_level(logging.INFO, "flwr")
    factors = [1e6] * 4 + [1.0] * 9
    arrays = [[1e3 + c * a for a in step] for c, step in zip(factors, updates(), strict=True)]
    sent = [np.full_like(a, 1e3) for a in MODEL]
    _, metrics = api.step(arrays, sent, num_batches=13, trim_norm=trim_norm, **sizes)
    assert metrics["byz-trimmed"] == 4
    assert metrics["byz-bound"] == pytest.approx(sharp_c_alpha(q / 9))
    coarse = {"num_batches": 13, "trim_norm": trim_norm, "gamma": 0.3}
    _, metrics = api.step(arrays, sent, **coarse, **sizes)
    assert metrics["byz-residual"] > 1e-3
    assert metrics["byz-bound"] == certified_c_alpha(q / 9, metrics["byz-residual"])
    for text in (f"{sharp_c_alpha(q / 9):.3g} times", f"{c_alpha(q / 9):.3g} times", "Minsker"):
        assert text in caplog.text


@pytest.mark.parametrize("same_cid", [False, True])
def test_a_strategy_that_was_not_given_the_model_takes_the_layout_of_most_replies(same_cid):
    """Results of one cid are of different clients where no round has begun: none was asked."""
    arrays = [*updates(5), [np.zeros(3)]]
    cids = ["test"] * 6 if same_cid else "012345"
    replies = [(Proxy(cid), CLASSIC.reply(a)) for cid, a in zip(cids, arrays, strict=True)]
    model, metrics = CLASSIC.end(CLASSIC.gmom(num_batches=1), replies)
    assert np.allclose(flat(model), np.mean([flat(a) for a in updates(5)], axis=0), atol=1e-6)
    assert metrics["byz-rejected"] == 1


@BOTH
@pytest.mark.parametrize("is_robust", [False, True])
def test_evaluations_of_an_honest_majority_are_aggregated_robustly(api, is_robust, caplog):
    losses = [1.0, 2.0, 3.0, 1e30, float("nan")]
    claims = {c: api.claim(loss, accuracy=loss) for c, loss in enumerate(losses)}
    robust = api.own.robust(api.flower.FedAvg, num_byzantine=1, **api.least)
    strategy = robust if is_robust else api.gmom(num_byzantine=1)
    metrics = api.evaluation(strategy, claims)
    counts = {"byz-clients": 5, "byz-rejected": int(api is CLASSIC), "byz-missing": 0}
    assert metrics == {"loss": 2.5, "accuracy": 2.5} | counts
    for number, loss in ((3, 2.0), (2, None), (0, None)):
        few = api.evaluation(strategy, {c: claims[c] if c < number else None for c in claims})
        assert (few["byz-missing"], few.get("loss")) == (5 - number, loss)
        assert few.get("accuracy") == loss
    (line,) = [m for m in caplog.messages if "too few for an honest majority over 1" in m]
    assert line.startswith("2 clients evaluated")


@BOTH
def test_it_has_fedavg_s_options_a_summary_and_asks_enough_for_an_honest_majority(api, caplog):
    caplog.set_level(logging.INFO, "flwr")
    options = inspect.signature(api.flower.FedAvg).parameters.values()
    defaults = {option.name: option.default for option in options}
    robust = {"num_byzantine": 3, "trim_norm": "auto", "bucketing_seed": 123456789}
    made = api.own.GeometricMedianOfMeans(**robust, **defaults)
    assert isinstance(made, api.flower.Strategy)
    assert made.fraction_evaluate == 1.0
    least = api.own.GeometricMedianOfMeans(num_byzantine=4)
    assert {getattr(least, name) for name in api.least} == {9}
    made.summary()
    assert all(part in caplog.text for part in ("at most 3", "auto", "drawn afresh in each round"))
    assert "123456789" not in caplog.text + repr(made)  # a seed that attackers may not know


def test_the_number_of_threads_is_a_positive_integer_or_empty(monkeypatch):
    for value in ("many", "0", "-1", "1.5", " 2"):
        monkeypatch.setenv("FLWR_BYZ_NUM_THREADS", value)
        with pytest.raises(ValueError, match="FLWR_BYZ_NUM_THREADS must be a positive integer"):
            MESSAGE.gmom(num_batches=3)
    monkeypatch.setenv("FLWR_BYZ_NUM_THREADS", "")
    MESSAGE.gmom(num_batches=3)


def test_unusable_initial_parameters_of_a_client_are_asked_of_another(caplog):
    bad = [
        Parameters([], "numpy.ndarray"),
        ndarrays_to_parameters([np.array([1.0, np.nan])]),
        Parameters([malformed.BAD_TENSORS["header claims 4 TB"]], "numpy.ndarray"),
        RuntimeError("broken\x1b[2J"),
    ]
    manager, good = SimpleClientManager(), ndarrays_to_parameters([np.arange(3.0)])
    for cid, answer in enumerate([good, *bad]):
        failed = isinstance(answer, Exception)
        result = answer if failed else GetParametersRes(Status(Code.OK, ""), answer)
        asked = Mock(side_effect=repeat(result))
        manager.clients[str(cid)] = Mock(cid=str(cid), get_parameters=asked)
    made = [CLASSIC.gmom(num_byzantine=1).initialize_parameters(manager) for _ in range(5)]
    assert made == [good] * 5
    del manager.clients["0"]
    assert CLASSIC.gmom(num_byzantine=1).initialize_parameters(manager).tensors == []
    for text in ("may be Byzantine", "no initial parameters from client"):
        assert text in caplog.text
    assert "\x1b" not in caplog.text
