"""What both strategies promise beyond surviving malformed replies."""

import inspect
import logging

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common import (
    Code,
    EvaluateRes,
    GetParametersRes,
    Parameters,
    Status,
    ndarrays_to_parameters,
)
from flwr.common import parameters_to_ndarrays as to_ndarrays
from flwr.server.client_manager import SimpleClientManager
from flwr.server.strategy import FedAvg as ClassicFedAvg
from flwr.server.strategy import Strategy as ClassicBase
from flwr.serverapp.strategy import FedAvg as MessageFedAvg
from flwr.serverapp.strategy import Strategy as MessageBase
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_byz.aggregation import geometric_median, geometric_median_of_means
from flwr_byz.server.strategy import GeometricMedianOfMeans as ClassicStrategy
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans as MessageStrategy
from flwr_byz.theory import c_alpha, sharp_c_alpha
from tests.support import malformed
from tests.support.malformed import fit_res
from tests.support.server import Grid, Proxy, classic_round, message_round

BOTH = pytest.mark.parametrize("strategy", [ClassicStrategy, MessageStrategy])


def replies(num_clients=13, dim=40, seed=0):
    rng = np.random.default_rng(seed)
    return [
        [rng.normal(size=dim).astype("f4"), rng.normal(size=(2, 2))] for _ in range(num_clients)
    ]


MODEL = [np.zeros(40, "f4"), np.zeros((2, 2))]


def content(arrays, metrics=None):
    metrics = {"num-examples": 5, "loss": 1.0} if metrics is None else metrics
    return RecordDict({"arrays": ArrayRecord(list(arrays)), "metrics": MetricRecord(metrics)})


def play(api, arrays_by_client, model=MODEL, **options):
    """Play a round in either API with clients 1 … m."""
    if api == "classic":
        results = {c: fit_res(a, metrics={"loss": 0.1 * c}) for c, a in enumerate(arrays_by_client)}
        return classic_round(model, results, **options)
    contents = {
        c: content(a, {"num-examples": 5, "loss": 0.1 * c}) for c, a in enumerate(arrays_by_client)
    }
    return message_round(ArrayRecord(list(model)), contents, **options)


def flat(arrays):
    return np.concatenate([np.ravel(a) for a in arrays])


APIS = pytest.mark.parametrize("api", ["classic", "message"])


@APIS
def test_k_1_is_the_mean_to_the_last_rounding(api):
    arrays = replies()
    model, _ = play(api, arrays, num_batches=1)
    for i, array in enumerate(model):
        exact = np.mean([a[i].astype(np.longdouble) for a in arrays], axis=0).astype(array.dtype)
        if array.dtype == np.float32:
            assert np.array_equal(array, exact)
        else:  # summed in its own precision
            assert np.allclose(array, exact, rtol=0, atol=13 * np.finfo(np.float64).eps)


@APIS
def test_k_m_is_the_geometric_median(api):
    arrays = replies()
    model, metrics = play(api, arrays, num_batches=13)
    expected = geometric_median([flat(a) for a in arrays])
    assert np.allclose(flat(model), expected.point, rtol=1e-6, atol=1e-7)
    assert metrics["byz-gap"] <= 1e-9


@APIS
def test_num_byzantine_q_makes_4q_batches_by_client_order(api):
    arrays = replies()
    model, metrics = play(api, arrays, num_byzantine=2)
    expected = geometric_median_of_means([flat(a) for a in arrays], 8)
    assert metrics["byz-batches"] == 8
    assert np.allclose(flat(model), expected.point, rtol=1e-6, atol=1e-7)


@APIS
def test_q_0_is_the_mean(api):
    arrays = replies()
    assert np.allclose(
        flat(play(api, arrays, num_byzantine=0)[0]), np.mean([flat(a) for a in arrays], axis=0)
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["weights", "gradients"]))
def test_any_order_of_arrival_gives_the_same_bytes(seed, reply):
    arrays = replies()
    options = {"num_byzantine": 2, "trim_norm": "auto", "reply": reply}
    for api in ("classic", "message"):
        first, first_metrics = play(api, arrays, **options)
        second, second_metrics = play(api, arrays, shuffle=seed, **options)
        assert first_metrics == second_metrics
        assert [a.tobytes() for a in first] == [a.tobytes() for a in second]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(3, 15),
    st.integers(0, 5),
    st.sampled_from(["weights", "gradients"]),
    st.sampled_from([None, "auto", 5.0]),
    st.sampled_from([1.0, 0.5]),
)
def test_both_apis_return_the_same_model(num_clients, num_byzantine, reply, trim_norm, rate):
    options = {
        "num_byzantine": min(num_byzantine, (num_clients - 1) // 2),
        "reply": reply,
        "trim_norm": trim_norm,
        "server_learning_rate": rate,
    }
    arrays = replies(num_clients)
    classic, classic_metrics = play("classic", arrays, **options)
    message, message_metrics = play("message", arrays, **options)
    if classic is None:  # 5.0 may trim every batch
        assert message is None
    else:
        assert [a.tobytes() for a in classic] == [a.tobytes() for a in message]
    assert classic_metrics == message_metrics


@APIS
def test_gradients_step_against_the_aggregate(api):
    model = [np.ones(40, "f4"), np.ones((2, 2))]
    arrays = replies()
    stepped, metrics = play(
        api, arrays, model, num_batches=13, reply="gradients", server_learning_rate=0.5
    )
    aggregate = geometric_median([flat(a) for a in arrays]).point
    assert np.allclose(flat(stepped), 1 - 0.5 * aggregate, atol=1e-6)
    assert metrics["byz-aggregate-norm"] == pytest.approx(np.linalg.norm(aggregate), rel=1e-5)


@APIS
def test_a_server_learning_rate_shortens_the_step_of_weights(api):
    model = [np.ones(40, "f4"), np.ones((2, 2))]
    arrays = replies()
    whole, _ = play(api, arrays, model, num_byzantine=2)
    half, _ = play(api, arrays, model, num_byzantine=2, server_learning_rate=0.5)
    assert np.allclose(flat(half), (1 + flat(whole)) / 2, atol=1e-6)


@APIS
def test_auto_trimming_leaves_out_a_long_batch_and_reports_it(api):
    arrays = replies()
    arrays[3] = [1e6 * a for a in arrays[3]]
    _, metrics = play(api, arrays, num_batches=13, trim_norm="auto")
    assert metrics["byz-trimmed"] == 1


@APIS
def test_trimming_everything_keeps_the_model(api):
    model, metrics = play(api, replies(), num_batches=13, trim_norm=1e-6)
    assert model is None
    assert metrics["byz-trimmed"] == 13


@APIS
def test_weights_are_trimmed_by_their_distance_from_the_model_sent(api):
    model = [np.full(40, 1e3, "f4"), np.full((2, 2), 1e3)]
    arrays = [[m + a for m, a in zip(model, update, strict=True)] for update in replies()]
    _, metrics = play(api, arrays, model, num_batches=13, trim_norm=100.0)
    assert metrics["byz-trimmed"] == 0


@APIS
def test_trimming_never_leaves_the_byzantine_half_of_what_is_kept(api, caplog):
    # Five batches, two Byzantine at zero: auto would leave them and one honest batch.
    norms = [0.0, 0.0, 1.0, 50.0, 50.0]
    arrays = [[np.full(40, n, "f4"), np.zeros((2, 2))] for n in norms]
    model, metrics = play(api, arrays, num_byzantine=2, trim_norm="auto")
    assert metrics["byz-trimmed"] == 0
    assert "not trimmed" in caplog.text
    assert model is not None


def test_silent_clients_leave_their_batches_to_the_others():
    arrays = replies(8)
    contents = {c: content(a) for c, a in enumerate(arrays)}
    strategy = MessageStrategy(num_batches=4, min_available_nodes=8, min_train_nodes=8)
    malformed.in_a_run()
    sent = list(
        strategy.configure_train(1, ArrayRecord(list(MODEL)), ConfigRecord(), Grid(range(8)))
    )
    answering = [m for m in sent if m.metadata.dst_node_id not in (0, 6, 7)]
    result, metrics = strategy.aggregate_train(
        1, [malformed.reply_to(m, contents[m.metadata.dst_node_id]) for m in answering]
    )
    means = [flat(arrays[1]), (flat(arrays[2]) + flat(arrays[3])) / 2]
    means.append((flat(arrays[4]) + flat(arrays[5])) / 2)
    assert np.allclose(flat(result.to_numpy_ndarrays()), geometric_median(means).point, atol=1e-6)
    assert metrics["byz-missing"] == 3
    assert metrics["byz-batches"] == 3


def test_an_error_of_a_dead_node_is_its_own_although_the_superlink_sends_it():
    malformed.in_a_run()
    strategy = MessageStrategy(num_batches=2, min_available_nodes=4, min_train_nodes=4)
    sent = list(
        strategy.configure_train(1, ArrayRecord(list(MODEL)), ConfigRecord(), Grid(range(4)))
    )
    answers = [malformed.reply_to(m, content(replies()[0])) for m in sent]
    answers[2] = malformed.reply_to(sent[2], malformed.Error(5, "node unavailable"))
    for number, (message, answer) in enumerate(zip(sent, answers, strict=True)):
        message.metadata.__dict__["_message_id"] = f"message {number}"
        answer.metadata.__dict__["_reply_to_message_id"] = f"message {number}"
    answers[2].metadata.__dict__["_src_node_id"] = 1
    _, metrics = strategy.aggregate_train(1, answers)
    assert metrics["byz-rejected"] == 1
    assert metrics["byz-missing"] == 0


@APIS
def test_a_client_that_answers_twice_counts_as_none(api):
    arrays = replies()
    alone, _ = play(api, arrays[:12], num_batches=12)
    if api == "classic":
        strategy = ClassicStrategy(num_batches=13, min_fit_clients=13)
        manager = SimpleClientManager()
        for cid in range(13):
            manager.register(Proxy(str(cid)))
        strategy.configure_fit(1, ndarrays_to_parameters(MODEL), manager)
        pairs = [(Proxy(str(c)), fit_res(a)) for c, a in enumerate(arrays[:12])]
        twice = [(Proxy("12"), fit_res(arrays[12])), (Proxy("12"), fit_res(arrays[3]))]
        parameters, metrics = strategy.aggregate_fit(1, pairs + twice, [])
        model = to_ndarrays(parameters)
    else:
        malformed.in_a_run()
        strategy = MessageStrategy(num_batches=13, min_available_nodes=13, min_train_nodes=13)
        sent = list(
            strategy.configure_train(1, ArrayRecord(list(MODEL)), ConfigRecord(), Grid(range(13)))
        )
        made = [malformed.reply_to(m, content(arrays[m.metadata.dst_node_id])) for m in sent]
        made += [m for m in made if m.metadata.src_node_id == 12]
        record, metrics = strategy.aggregate_train(1, made)
        model = record.to_numpy_ndarrays()
    assert [a.tobytes() for a in model] == [a.tobytes() for a in alone]
    assert metrics["byz-rejected"] == 2


@APIS
def test_a_round_that_cannot_hold_keeps_the_model_and_says_so(api, caplog):
    model, metrics = play(api, replies(4), num_byzantine=2)
    assert model is None
    assert "the model is kept" in caplog.text
    assert metrics["byz-clients"] == 4


@APIS
def test_no_usable_reply_keeps_the_model(api):
    model, metrics = play(api, [[np.zeros(3)]] * 5, num_byzantine=1)
    assert model is None
    assert metrics["byz-rejected"] == 5


@APIS
def test_the_promise_for_m_and_k_is_logged_once(api, caplog):
    caplog.set_level(logging.INFO, "flwr")
    play(api, replies(20), num_byzantine=4)
    lines = [r.getMessage() for r in caplog.records if "Lemma 1" in r.getMessage()]
    assert len(lines) == 1
    assert "m=20" in lines[0]
    assert "k=16" in lines[0]
    assert "within 3 times" in lines[0]


def test_a_strategy_that_was_not_told_the_model_takes_the_layout_of_most_replies():
    arrays = replies()
    results = [(Proxy(str(c)), fit_res(a)) for c, a in enumerate(arrays)]
    results[0] = (Proxy("0"), fit_res([np.zeros(3)]))
    parameters, metrics = ClassicStrategy(num_batches=1).aggregate_fit(1, results, [])
    assert np.allclose(
        flat(to_ndarrays(parameters)), np.mean([flat(a) for a in arrays[1:]], axis=0), atol=1e-6
    )
    assert metrics["byz-rejected"] == 1


def test_results_that_share_a_cid_are_told_apart_where_nobody_was_asked():
    arrays = replies(5)
    results = [(Proxy("test"), fit_res(a)) for a in arrays]
    parameters, metrics = ClassicStrategy(num_batches=5).aggregate_fit(1, results, [])
    expected = geometric_median([flat(a) for a in arrays]).point
    assert np.allclose(flat(to_ndarrays(parameters)), expected, atol=1e-6)
    assert metrics["byz-clients"] == 5


def test_gradients_without_the_model_are_refused_with_the_way_out():
    results = [(Proxy(str(c)), fit_res(a)) for c, a in enumerate(replies())]
    with pytest.raises(RuntimeError, match="configure_fit"):
        ClassicStrategy(num_batches=1, reply="gradients").aggregate_fit(1, results, [])


@APIS
def test_ten_rounds_give_every_array_back_as_it_was(api):
    rng = np.random.default_rng(0)
    model = [
        rng.normal(size=(3, 4)).astype("f4"),
        np.array(17, "i8"),  # num_batches_tracked of a BatchNorm layer
        rng.normal(size=5).astype("f2"),
        np.array(0.5, "f8"),
        np.zeros((0, 3), "f4"),
        np.array([True, False, True]),
        np.asfortranarray(rng.normal(size=(4, 2))),
        rng.normal(size=3).astype(">f4"),
        np.arange(4, dtype="u1"),
    ]
    expected = [(a.shape, a.dtype, a.flags.f_contiguous) for a in model]
    counter = 17
    for _ in range(10):
        arrays = [
            [
                a + 1
                if a.dtype == "i8"
                else a
                if a.dtype.kind != "f"
                else (a * 1.01).astype(a.dtype)
                for a in model
            ]
            for _ in range(7)
        ]
        arrays[0][0] = arrays[0][0] * np.float32(1.01)  # copies would be refused
        arrays = [[np.asarray(a, order="K") for a in reply] for reply in arrays]
        model, _ = play(api, arrays, model, num_byzantine=2, trim_norm="auto")
        counter += 1
        assert [(a.shape, a.dtype, a.flags.f_contiguous) for a in model] == expected
    assert model[1] == counter
    assert model[5].tolist() == [True, False, True]


@APIS
def test_one_client_cannot_move_a_counter(api):
    arrays = [[np.zeros(3, "f4"), np.array(c)] for c in [5, 5, 5, 5, 2**62]]
    model, _ = play(api, arrays, [np.zeros(3, "f4"), np.array(4)], num_byzantine=1)
    assert model[1] == 5


@APIS
def test_a_model_of_counters_alone_works(api):
    arrays = [[np.array(c)] for c in [5, 6, 7]]
    model, _ = play(api, arrays, [np.array(4)], num_byzantine=1)
    assert model[0] == 6


@APIS
def test_a_step_beyond_the_range_of_the_model_is_refused(api, caplog):
    model = [np.full(3, 6e4, "f2")]
    gradients = [[-np.full(3, 6e4 + 50 * c, "f2")] for c in range(5)]
    stepped, _ = play(api, gradients, model, num_byzantine=1, reply="gradients")
    assert stepped is None
    assert "leaves the range" in caplog.text


@BOTH
def test_it_is_a_strategy_of_flower_and_takes_the_options_of_fedavg(strategy):
    base, fedavg = (
        (ClassicBase, ClassicFedAvg)
        if strategy is ClassicStrategy
        else (MessageBase, MessageFedAvg)
    )
    assert issubclass(strategy, base)
    names = [n for n in inspect.signature(fedavg).parameters if n != "self"]
    defaults = {n: inspect.signature(fedavg).parameters[n].default for n in names}
    made = strategy(num_byzantine=1, **defaults)
    assert made.fraction_evaluate == 1.0


@BOTH
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_byzantine": 1, "num_batches": 2},
        {"num_byzantine": -1},
        {"num_byzantine": 1.5},
        {"num_batches": 0},
        {"num_batches": True},
        {"num_batches": 3, "reply": "losses"},
        {"num_batches": 3, "server_learning_rate": 0.0},
        {"num_batches": 3, "trim_norm": -1.0},
        {"num_batches": 3, "trim_norm": "often"},
        {"num_batches": 3, "gamma": 0.0},
    ],
)
def test_an_option_out_of_range_is_refused_by_name(strategy, options):
    names = r"num_|reply|server_learning_rate|trim_norm|gamma"
    with pytest.raises((TypeError, ValueError), match=names):
        strategy(**options)


@BOTH
@pytest.mark.parametrize("value", ["many", "0", "-1", "1.5", " 2"])
def test_a_number_of_threads_that_is_none_is_refused_at_construction(strategy, value, monkeypatch):
    monkeypatch.setenv("FLWR_BYZ_NUM_THREADS", value)
    with pytest.raises(ValueError, match="FLWR_BYZ_NUM_THREADS must be a positive integer"):
        strategy(num_batches=3)


@APIS
def test_an_empty_number_of_threads_is_none_at_all(api, monkeypatch):
    monkeypatch.setenv("FLWR_BYZ_NUM_THREADS", "")
    model, _ = play(api, replies(), num_byzantine=2)
    assert model is not None


@BOTH
def test_fewer_clients_than_can_outvote_q_are_not_asked(strategy):
    made = strategy(num_byzantine=4)
    assert getattr(made, "min_fit_clients", None) or made.min_train_nodes == 9


def test_initial_parameters_that_cannot_be_aggregated_are_refused():
    with pytest.raises(ValueError, match="initial_parameters"):
        ClassicStrategy(
            num_batches=1, initial_parameters=ndarrays_to_parameters([np.array([np.nan])])
        )
    with pytest.raises(ValueError, match="complex"):
        MessageStrategy(num_batches=1).configure_train(
            1, ArrayRecord([np.zeros(2, complex)]), ConfigRecord(), Grid([1, 2])
        )


def test_accept_failures_false_keeps_the_model_after_a_failure():
    results = {c: fit_res(a) for c, a in enumerate(replies())}
    options = {"num_byzantine": 1, "accept_failures": False}
    assert classic_round(MODEL, results, [ValueError("raised")], **options)[0] is None
    assert classic_round(MODEL, results, **options)[0] is not None


def test_metrics_are_the_median_of_batch_means():
    metrics = [{"num-examples": 1, "loss": float(c)} for c in range(7)] + [
        {"num-examples": 10**9, "loss": 1e30}
    ]
    contents = {c: content(MODEL, m) for c, m in enumerate(metrics)}
    _, aggregated = message_round(ArrayRecord(list(MODEL)), contents, num_batches=4)
    assert aggregated["loss"] == np.median([0.5, 2.5, 4.5, 5e29])


@APIS
def test_a_metrics_function_of_the_users_sees_only_agreed_metrics_and_may_raise(api):
    seen = []

    def classic_fn(claims):
        seen.extend(metrics for _, metrics in claims)
        raise RuntimeError("mine")

    def message_fn(contents, weighted_by_key):
        seen.extend(dict(next(iter(c.metric_records.values()))) for c in contents)
        raise RuntimeError("mine")

    if api == "classic":
        results = {c: fit_res(a) for c, a in enumerate(replies(5))}
        results[2].metrics = {"loss": float("nan"), "evil": 1.0}
        model, metrics = classic_round(
            MODEL, results, num_byzantine=1, fit_metrics_aggregation_fn=classic_fn
        )
    else:
        contents = {c: content(a) for c, a in enumerate(replies(5))}
        contents[2]["metrics"] = MetricRecord(
            {"num-examples": 5, "loss": float("nan"), "evil": 1.0}
        )
        model, metrics = message_round(
            ArrayRecord(list(MODEL)), contents, num_byzantine=1, train_metrics_aggr_fn=message_fn
        )
    assert model is not None
    assert len(seen) == 4
    assert all("evil" not in m and np.isfinite(m["loss"]) for m in seen)
    assert metrics["byz-metrics-rejected"] == 1


def test_evaluation_is_aggregated_robustly_in_both_apis():
    status = Status(Code.OK, "")
    losses = [1.0, 2.0, 3.0, 1e30, float("nan")]
    results = [
        (Proxy(str(c)), EvaluateRes(status, loss, 1, {"accuracy": loss}))
        for c, loss in enumerate(losses)
    ]
    loss, metrics = ClassicStrategy(num_byzantine=1).aggregate_evaluate(1, results, [])
    assert loss == 2.5
    assert metrics == {"accuracy": 2.5, "byz-clients": 5, "byz-rejected": 1, "byz-missing": 0}

    malformed.in_a_run()
    strategy = MessageStrategy(num_byzantine=1, min_evaluate_nodes=5, min_available_nodes=5)
    sent = strategy.configure_evaluate(1, ArrayRecord(list(MODEL)), ConfigRecord(), Grid(range(5)))
    made = [
        RecordDict(
            {
                "metrics": MetricRecord(
                    {"num-examples": 1, "accuracy": losses[m.metadata.dst_node_id]}
                )
            }
        )
        for m in sent
    ]
    record = strategy.aggregate_evaluate(
        1, [malformed.reply_to(m, c) for m, c in zip(sent, made, strict=True)]
    )
    assert dict(record) == metrics | {"byz-rejected": 0}
    silence = {"byz-clients": 5, "byz-rejected": 0, "byz-missing": 5}
    assert dict(strategy.aggregate_evaluate(1, [])) == silence


def test_simulated_clients_are_grouped_by_the_id_that_they_report():
    arrays = replies(12)
    rng = np.random.default_rng(5)
    bytes_of = set()
    for _ in range(4):
        node_ids = rng.choice(10**6, size=12, replace=False)
        contents = {
            int(node): content(arrays[i], {"num-examples": 1, "partition-id": i})
            for i, node in enumerate(node_ids)
        }
        model, _ = message_round(
            ArrayRecord(list(MODEL)), contents, num_byzantine=1, group_by_key="partition-id"
        )
        bytes_of.add(b"".join(a.tobytes() for a in model))
    assert len(bytes_of) == 1


@BOTH
def test_summary_lists_the_settings(strategy, caplog):
    caplog.set_level(logging.INFO, "flwr")
    strategy(num_byzantine=3, trim_norm="auto").summary()
    assert "at most 3" in caplog.text
    assert "auto" in caplog.text


def test_an_evaluation_that_cannot_outvote_the_byzantine_clients_is_not_reported(caplog):
    def evaluated(loss):
        return EvaluateRes(Status(Code.OK, ""), loss, 5, {"accuracy": 0.5})

    strategy = ClassicStrategy(num_byzantine=2)
    few = [(Proxy(str(cid)), evaluated(1e30 if cid < 2 else 0.5)) for cid in range(4)]
    loss, metrics = strategy.aggregate_evaluate(1, few, [])
    assert loss is None
    assert "accuracy" not in metrics
    assert "4 clients evaluated, too few for an honest majority over 2" in caplog.text
    loss, _ = strategy.aggregate_evaluate(1, [*few, (Proxy("4"), evaluated(0.5))], [])
    assert loss == pytest.approx(0.5)


def test_no_fewer_clients_evaluate_than_can_outvote_the_byzantine_ones():
    assert ClassicStrategy(num_byzantine=3).min_evaluate_clients == 7
    assert MessageStrategy(num_byzantine=3, min_available_nodes=9).min_evaluate_nodes == 7
    assert MessageStrategy(num_batches=5, min_evaluate_nodes=3).min_evaluate_nodes == 3


def outnumbered_where_norms_are_trimmed(tau):
    """20 batches of two: those of five Byzantine clients are just short enough, no other is."""
    rng = np.random.default_rng(0)
    truth = np.full(40, 1.0, "f4")
    vectors = truth + 0.1 * rng.normal(size=(40, 40)).astype("f4")
    for batch in range(5):
        vectors[2 * batch] = (
            -2 * 0.99 * tau * truth / np.linalg.norm(truth) - vectors[2 * batch + 1]
        )
    return vectors, truth


@APIS
@pytest.mark.parametrize("sizes", [{}, {"num_byzantine": 5}])
def test_trimming_does_not_leave_the_byzantine_clients_alone(api, sizes, caplog):
    vectors, truth = outnumbered_where_norms_are_trimmed(tau=5.0)
    options = {"num_batches": 20, "trim_norm": 5.0, "reply": "gradients"} | sizes
    model, metrics = play(api, [[v] for v in vectors], [np.zeros(40, "f4")], **options)
    assert metrics["byz-trimmed"] == 0
    assert -model[0] @ truth > 0.9 * truth @ truth
    assert "not trimmed" in caplog.text


@APIS
@pytest.mark.parametrize("num_long", [9, 10])
def test_with_k_alone_no_more_batches_are_trimmed_than_may_be_byzantine(api, num_long):
    vectors = np.random.default_rng(0).normal(size=(20, 40)).astype("f4")
    vectors[:num_long] *= 100
    options = {"num_batches": 20, "trim_norm": 20.0}
    _, metrics = play(api, [[v] for v in vectors], [np.zeros(40, "f4")], **options)
    assert metrics["byz-trimmed"] == (9 if num_long == 9 else 0)


@APIS
def test_with_q_and_k_both_given_there_are_k_batches_against_q(api, caplog):
    caplog.set_level(logging.INFO, "flwr")
    _, metrics = play(api, replies(12), num_byzantine=2, num_batches=6)
    assert metrics["byz-batches"] == 6
    assert "k=6 batches" in caplog.text
    assert "q=2 of them" in caplog.text


@APIS
@pytest.mark.parametrize("trim_norm", [None, "auto", 8.0])
@pytest.mark.parametrize("sizes", [{"num_byzantine": 3}, {"num_batches": 13}])
def test_no_attack_leads_further_than_the_bound_that_is_reported(api, trim_norm, sizes):
    rng = np.random.default_rng(0)
    for _ in range(20):
        vectors = 0.3 + rng.normal(size=(13, 40)) * rng.uniform(0.5, 2.0, size=(13, 1))
        vectors[:3] = rng.choice([0.1, 1.0, 2.0, 1e4]) * rng.normal(size=(3, 40)) - 0.5
        arrays = [[v] for v in vectors]
        model, metrics = play(api, arrays, [np.zeros(40)], trim_norm=trim_norm, **sizes)
        kept = metrics["byz-batches"] - metrics["byz-trimmed"]
        q = sizes.get("num_byzantine", (kept - 1) // 2)
        assert metrics["byz-bound"] == pytest.approx(sharp_c_alpha(q / kept))
        k = metrics["byz-batches"]
        means = np.stack([b.mean(axis=0) for b in np.array_split(vectors, k)])
        honest = means[3:]
        centre = honest.mean(axis=0)
        reach = np.linalg.norm(honest - centre, axis=1).max()
        assert np.linalg.norm(model[0] - centre) <= metrics["byz-bound"] * reach * (1 + 1e-9)


@APIS
def test_the_bound_that_is_logged_is_that_of_the_batches_that_are_kept(api, caplog):
    caplog.set_level(logging.INFO, "flwr")
    arrays = replies()
    for number in range(4):
        arrays[number] = [1e6 * a for a in arrays[number]]
    _, metrics = play(api, arrays, num_byzantine=3, num_batches=13, trim_norm="auto")
    assert metrics["byz-trimmed"] == 4
    assert metrics["byz-bound"] == pytest.approx(sharp_c_alpha(3 / 9))
    assert f"{sharp_c_alpha(3 / 9):.3g} times" in caplog.text
    assert f"{c_alpha(3 / 9):.3g} times" in caplog.text
    assert "Minsker" in caplog.text


class Asked(Proxy):
    """A client that gives these initial parameters, or raises."""

    def __init__(self, cid, given):
        super().__init__(cid)
        self.given = given

    def get_parameters(self, *args, **kwargs):
        if isinstance(self.given, Exception):
            raise self.given
        return GetParametersRes(Status(Code.OK, ""), self.given)


def test_unusable_initial_parameters_of_a_client_are_asked_of_another(caplog):
    good = ndarrays_to_parameters([np.arange(3.0)])
    bad = [
        Parameters([], "numpy.ndarray"),
        ndarrays_to_parameters([np.array([1.0, np.nan])]),
        Parameters([malformed.BAD_TENSORS["header claims 4 TB"]], "numpy.ndarray"),
        RuntimeError("broken\x1b[2J"),
    ]
    manager = SimpleClientManager()
    for cid, answer in enumerate([*bad, good]):
        manager.register(Asked(str(cid), answer))
    for _ in range(5):
        assert ClassicStrategy(num_byzantine=1).initialize_parameters(manager) is good
    assert "may be Byzantine" in caplog.text
    assert "no initial parameters from client" in caplog.text
    assert "\x1b" not in caplog.text


def test_without_any_usable_initial_parameters_clients_are_sent_none():
    manager = SimpleClientManager()
    manager.register(Asked("0", RuntimeError("broken")))
    given = ClassicStrategy(num_byzantine=0).initialize_parameters(manager)
    assert given.tensors == []
