"""Attacks on Hardened, robust() and their checkpoints by who knows the code."""

from contextlib import closing

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.common import Parameters, ndarrays_to_parameters
from flwr.server import strategy as classic
from flwr.serverapp import strategy as message
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from flwr_byz import state
from flwr_byz.history import History
from flwr_byz.server.strategy import Hardened as ClassicHardened
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans, Hardened, robust
from tests.support import malformed
from tests.support.answering_grid import AnsweringGrid
from tests.support.stock import (
    HONEST,
    LEAST,
    SENT,
    classic_result,
    classic_round,
    classic_stock,
    honest_contents,
    honest_results,
    message_content,
    message_round,
    message_stock,
    model_of,
    own,
    same,
)

# Metrics. ---------------------------------------------------------------------------------------

ODD_NAMES = ["", "a\nb", "a\0", "\x1b[2J", "é" * 500, "byz-gap", "arrays", "metrics", "\u202e"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_odd_name_of_a_metric_is_rejected_in_one_line_and_changes_nothing(name, caplog):
    bad = malformed.content(metrics={"num-examples": 10, "loss": 0.5, name: 1.0})
    reference = message_round(message_stock("FedMedian"), honest_contents())
    strategy = Hardened(message_stock("FedMedian"))
    assert same(message_round(strategy, honest_contents() | {1: bad}), reference)
    lines = [r.getMessage() for r in caplog.records if "Rejected" in r.getMessage()]
    assert len(lines) == 1
    assert lines[0].strip("\t").isprintable()
    assert len(lines[0]) < 400


def mean_of_named(records, key):
    """A user's function that looks for the record by the name that its clients give it."""
    losses = [record["metrics"]["loss"] for record in records]
    return MetricRecord({"loss": float(np.mean(losses))})


@pytest.mark.parametrize(
    "make",
    [
        lambda **o: GeometricMedianOfMeans(num_byzantine=2, **o),
        lambda **o: robust(message.FedAdam, num_byzantine=2, **o),
        lambda **o: Hardened(message.FedAvg(**LEAST, **o)),
    ],
)
def test_another_name_of_one_client_s_metrics_does_not_stop_a_user_s_aggregation(make):
    honest = message_content(1)
    renamed = RecordDict({"arrays": honest["arrays"], "other": honest["metrics"]})
    strategy = make(train_metrics_aggr_fn=mean_of_named)
    _, metrics = message_round(strategy, honest_contents() | {1: renamed})
    assert 0 < metrics["loss"] < 20


def test_metrics_of_another_form_are_no_evidence_against_a_client():
    """Else q clients could have honest ones excluded, where two forms are nearly as common."""
    strategy = Hardened(message_stock("FedMedian"), num_byzantine=2, exclude_above=0.5)
    forms = {n: message_content(n, more=1.0) if n > 60 else message_content(n) for n in HONEST}
    for server_round in (1, 2, 3):
        message_round(strategy, forms, server_round=server_round)
    rounds = strategy._rounds
    assert rounds.admitted(4, list(HONEST), 5) == list(HONEST)


def test_the_adaptive_wrapper_at_clients_is_not_vetoed_by_one_that_sends_no_bit():
    wrap = classic.DifferentialPrivacyClientSideAdaptiveClipping

    def made(harden, replies):
        np.random.seed(0)  # noqa: NPY002 - the wrapper draws noise
        return classic_round(harden(wrap(classic_stock("FedMedian", None), 0.0, 11)), replies)

    honest = honest_results(norm_bit=True)  # by Flower's adaptive clipping mod
    reference = made(lambda inner: inner, honest)
    assert reference[0] is not None
    assert same(made(ClassicHardened, honest | {1: classic_result(1)}), reference)


EXTREME = [3e38, -3e38, 1e30, 1e20, -1e19, 0, 1e-45]


@pytest.mark.parametrize("name", ["FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum", "Bulyan"])
def test_two_clients_at_the_ends_of_float32_neither_stop_nor_move_a_robust_rule(name):
    rng = np.random.default_rng(5)
    for _ in range(2):
        arrays = [rng.choice(EXTREME, size=a.shape).astype("f4") for a in SENT]
        metrics = {"num-examples": rng.choice([1e308, 5e-324]).item(), "loss": -1e308}
        bad = malformed.content(malformed.named(arrays), metrics)
        made, _ = message_round(
            Hardened(message_stock(name)), honest_contents() | {1: bad, 55: bad}
        )
        for got, true in zip(model_of(made).values(), malformed.model_arrays(1.0), strict=True):
            assert np.abs(got - true).max() < 0.5
        result = malformed.fit_res(arrays, num_examples=2**62)
        made, _ = classic_round(
            ClassicHardened(classic_stock(name)), honest_results() | {1: result, 55: result}
        )
        for got, true in zip(model_of(made).values(), malformed.model_arrays(1.0), strict=True):
            assert np.abs(got - true).max() < 0.5


# What reaches the strategy. ---------------------------------------------------------------------


class Emptying(message.FedAvg):
    """A strategy that empties what it is given."""

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        for reply in replies:
            for record in list(reply.content.values()):
                record.clear()
        return arrays, metrics


def test_what_a_strategy_does_to_its_replies_does_not_reach_the_audit(tmp_path):
    trail = tmp_path / "audit.jsonl"
    strategy = Hardened(Emptying(**LEAST), audit=trail)
    assert message_round(strategy, honest_contents())[0] is not None
    assert '"distance": null' not in trail.read_text()


def test_distances_are_those_of_the_weights_where_counters_become_floats(tmp_path):
    """FedAvg makes float64 of integers, which must not shift what distances are taken of."""

    def with_counter(node):
        counter = np.full(3, 1000 + node)
        return malformed.content(ArrayRecord({"n": Array(counter), "w": Array(weights(node))}))

    def weights(node):
        return np.full(4, 5.0 if node == 10 else 1.0 + node / 1000, "f4")

    sent = ArrayRecord({"n": Array(np.zeros(3, "i8")), "w": Array(np.zeros(4, "f4"))})
    strategy = Hardened(message_stock("FedAvg"), audit=tmp_path / "audit.jsonl")
    arrays, _ = message_round(strategy, {n: with_counter(n) for n in HONEST}, sent)
    assert arrays["n"].numpy().dtype.kind == "f"
    scores = strategy._rounds.suspicion.scores
    assert scores["10"] == (1, 1.0)
    mean = arrays["w"].numpy()
    distance = float(np.linalg.norm(weights(60) - mean))
    assert f'"distance": {distance:.4f}'[:-2] in (tmp_path / "audit.jsonl").read_text()


@pytest.mark.parametrize("inner", [None, "fedavg", 7])
def test_an_attribute_that_is_named_strategy_and_is_none_is_no_obstacle(inner):
    class Own(message.FedAvg):
        def __init__(self, **options):
            super().__init__(**options)
            self.strategy = inner

    assert message_round(Hardened(Own(**LEAST)), honest_contents())[0] is not None


# State in checkpoints. --------------------------------------------------------------------------

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
ARRAYS = npst.arrays(
    npst.floating_dtypes(sizes=(16, 32, 64)) | npst.integer_dtypes() | npst.boolean_dtypes(),
    npst.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3),
)
VALUES = st.recursive(
    PLAIN | ARRAYS,
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(), parts, max_size=3),
    max_leaves=6,
)


class Holder:
    """Stands for a strategy."""


def alike(one, other):
    if isinstance(one, np.ndarray):
        return (
            one.dtype == other.dtype
            and one.shape == other.shape
            and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
        )
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    return one == other or (one != one and other != other)


def through_a_checkpoint(folder, holder, before):
    History(folder).keep(1, {"w": np.zeros(2)}, state.state_of(holder, before))
    with closing(History.resume(folder)) as back:
        assert back.finished == 1
        restored = Holder()
        state.restore(restored, back.state)
        return restored


@given(value=VALUES)
def test_any_state_of_numbers_text_and_arrays_comes_back_from_a_checkpoint(tmp_path_factory, value):
    holder = Holder()
    before = state.attributes(holder)
    holder.value = value
    restored = through_a_checkpoint(tmp_path_factory.mktemp("state"), holder, before)
    assert alike(restored.value, value)


UNKNOWN = {
    "objects": np.array([print], object),
    "long doubles": np.zeros(2, np.longdouble),
    "complex": np.zeros(2, complex),
    "text array": np.array(["a"]),
    "structured": np.zeros(1, [("a" * 2000, "f4")]),
    "empty text array": np.array([""]),
    "in a list": [np.zeros(2), object()],
    "numbers as keys": {1: 2.0},
    "a set": {1},
    "an object": Holder(),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_state_that_no_checkpoint_can_hold_is_named_and_left_out(kind, tmp_path, caplog):
    state._log_once.cache_clear()
    holder = Holder()
    before = state.attributes(holder)
    holder.unknown, holder.known = UNKNOWN[kind], 7
    restored = through_a_checkpoint(tmp_path, holder, before)
    assert vars(restored) == {"known": 7}
    assert "checkpoints do not hold the strategy's unknown" in caplog.text


def test_an_object_that_may_have_changed_inside_is_named(caplog):
    """Such as the accountant of a wrapper for differential privacy."""
    holder = Holder()
    holder.accountant, holder.options = Holder(), (1, 2)
    state._log_once.cache_clear()
    assert state.state_of(holder, state.attributes(holder)).tree == {}
    assert "checkpoints do not hold the strategy's accountant" in caplog.text
    assert "options" not in caplog.text


def test_records_and_parameters_come_back_from_a_checkpoint(tmp_path):
    holder = Holder()
    before = state.attributes(holder)
    holder.record = malformed.named(SENT)
    holder.parameters = ndarrays_to_parameters(SENT)
    restored = through_a_checkpoint(tmp_path, holder, before)
    assert alike(model_of(restored.record), model_of(holder.record))
    assert restored.parameters == Parameters(holder.parameters.tensors, "numpy.ndarray")


# The loop. --------------------------------------------------------------------------------------


def training(folder, hostile):
    """Train through `start`; nodes 11 and above answer what is `hostile`."""

    def reply(node, server_round, arrays):
        if node >= 11:
            return hostile[node - 11]
        rng = np.random.default_rng([node, server_round])
        noisy = [(a + rng.normal(size=a.shape)).astype("f4") for a in arrays]
        return malformed.content(malformed.named(noisy))

    strategy = Hardened(message.FedMedian(fraction_evaluate=0.0), checkpoints=folder)
    result = strategy.start(AnsweringGrid(11 + len(hostile), reply), malformed.named(SENT), 3)
    metrics = [own(metrics) for metrics in result.train_metrics_clientapp.values()]
    return [array.numpy().tobytes() for array in result.arrays.values()], metrics


def test_a_whole_training_with_every_kind_of_reply_is_that_of_the_honest_nodes(tmp_path):
    kinds = [*malformed.MESSAGE_MALFORMED.values(), *malformed.MESSAGE_BAD_METRICS.values()]
    clean = training(tmp_path / "clean", [None] * len(kinds))
    assert len(clean[1]) == 3
    assert training(tmp_path / "hostile", kinds) == clean
    assert training(tmp_path / "hostile", []) == clean  # from its checkpoint


def test_a_start_of_the_strategy_s_own_is_not_called_and_that_is_said(caplog):
    class Own(message.FedAvg):
        def start(self, *arguments, **options):
            raise AssertionError

    Hardened(Own())
    assert "Own.start is not called: Hardened runs the rounds" in caplog.text
