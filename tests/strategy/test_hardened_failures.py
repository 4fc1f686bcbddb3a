"""What the strategy behind Hardened does wrong, or is led to do, keeps the model."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, MetricRecord
from flwr.common import Code, EvaluateRes, Status, ndarrays_to_parameters
from flwr.server import strategy as classic
from flwr.serverapp import strategy as message

from flwr_byz.server.strategy import GeometricMedianOfMeans as ClassicGMoM
from flwr_byz.server.strategy import Hardened as ClassicHardened
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans, Hardened
from tests.support import malformed
from tests.support.server import Grid, Proxy
from tests.support.stock import (
    CLASSIC_LEAST,
    HONEST,
    LEAST,
    SENT,
    asked,
    begin,
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
    replies_of,
    same,
)

NAN = [np.full_like(a, np.nan) for a in SENT]


def raising(*_):
    raise RuntimeError("boom\nand a second line")


def returning(arrays, metrics=None):
    return lambda *_: (arrays, metrics)


def record(arrays, names=malformed.NAMES):
    return ArrayRecord({n: Array(a) for n, a in zip(names, arrays, strict=False)})


WRONG = {
    "raises": (raising, "boom"),
    "not finite": (returning(record(NAN)), "NaN or infinity"),
    "other names": (returning(record(SENT, "xyz")), "not the model's"),
    "other shapes": (returning(record(SENT[::-1])), "not the model's"),
    "an array too few": (returning(record(SENT[:2])), "not the model's"),
    "complex": (returning(record([a * 1j for a in SENT])), "complex64"),
    "no record": (returning("model"), "the strategy failed"),
    "no pair": (lambda *_: None, "the strategy failed"),
    "None": (returning(None), ""),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_the_strategy_does_wrong_keeps_the_model_and_is_logged(kind, monkeypatch, caplog):
    aggregate, text = WRONG[kind]
    monkeypatch.setattr(message.FedAvg, "aggregate_train", lambda self, *args: aggregate(*args))
    strategy = Hardened(message.FedAvg(**LEAST))
    arrays, metrics = message_round(strategy, honest_contents())
    assert (arrays, metrics) == (None, {})
    assert text in caplog.text
    assert "\nand a second line" not in caplog.text


@pytest.mark.parametrize("kind", WRONG)
def test_what_the_classic_strategy_does_wrong_keeps_the_model(kind, monkeypatch, caplog):
    def aggregate(strategy, *args):
        made, metrics = WRONG[kind][0](*args) or (None, None)
        if isinstance(made, ArrayRecord):
            made = ndarrays_to_parameters(made.to_numpy_ndarrays())
        return made, metrics

    monkeypatch.setattr(classic.FedAvg, "aggregate_fit", aggregate)
    parameters, metrics = classic_round(ClassicHardened(classic_stock("FedAvg")), honest_results())
    if kind == "other names":  # there are no names in this API
        assert same((parameters, {}), (ndarrays_to_parameters(SENT), {}))
    else:
        assert (parameters, metrics) == (None, {})


def test_arrays_in_another_order_are_put_back_into_the_model_s(monkeypatch):
    turned = returning(record(SENT[::-1], malformed.NAMES[::-1]))
    monkeypatch.setattr(message.FedAvg, "aggregate_train", lambda self, *args: turned(*args))
    arrays, _ = message_round(Hardened(message.FedAvg(**LEAST)), honest_contents())
    assert same((arrays, {}), (record(SENT), {}))


def test_what_evaluation_does_wrong_gives_no_metrics(monkeypatch, caplog):
    monkeypatch.setattr(message.FedAvg, "aggregate_evaluate", raising)
    strategy = Hardened(message.FedAvg(**LEAST))
    messages = asked(strategy, HONEST)
    strategy.configure_evaluate(1, record(SENT), ConfigRecord(), Grid(HONEST))
    assert own(strategy.aggregate_evaluate(1, replies_of(messages, honest_contents()))) == {}
    assert "the strategy failed, no metrics are reported" in caplog.text


@pytest.mark.parametrize("outcome", [(None, None), (1.0, None), None])
def test_a_classic_evaluation_without_metrics_has_none(monkeypatch, outcome):
    monkeypatch.setattr(classic.FedAvg, "aggregate_evaluate", lambda *_: outcome)
    strategy = ClassicHardened(classic_stock("FedAvg"))
    begin(strategy, HONEST)
    pairs = [(Proxy(str(cid)), evaluation(0.5)) for cid in HONEST]
    loss, metrics = strategy.aggregate_evaluate(1, pairs, [])
    assert loss == (outcome and outcome[0])
    assert own(metrics) == {}


def evaluation(loss, **metrics):
    return EvaluateRes(Status(Code.OK, ""), loss, 10, metrics)


@pytest.mark.parametrize("name", ["FedAvgM", "FedAdam"])
def test_an_attempt_that_is_refused_leaves_no_trace_in_the_optimizer(name):
    """One round whose step leaves the range of float32 must not end all that follow."""
    huge = {
        node: malformed.content(malformed.named([np.full_like(a, 3e38) for a in SENT]))
        for node in HONEST
    }
    huge[10] = message_content(10)
    options = {"FedAvgM": {}, "FedAdam": {"eta": 1e30}}[name]
    strategy = Hardened(message_stock(name, **options))
    sent = record([np.full_like(a, -3e38) for a in SENT])
    with np.errstate(all="ignore"):
        assert message_round(strategy, huge, sent)[0] is None
    assert message_round(strategy, honest_contents(), server_round=2)[0] is not None


# Differential privacy. --------------------------------------------------------------------------

MESSAGE_DP = {
    "fixed": lambda inner: message.DifferentialPrivacyServerSideFixedClipping(inner, 0.0, 5.0, 11),
    "adaptive": lambda inner: message.DifferentialPrivacyServerSideAdaptiveClipping(inner, 0.0, 11),
}
CLASSIC_DP = {
    "fixed": lambda inner: classic.DifferentialPrivacyServerSideFixedClipping(inner, 0.0, 5.0, 11),
    "adaptive": lambda inner: classic.DifferentialPrivacyServerSideAdaptiveClipping(inner, 0.0, 11),
}
VETOES = {
    "an error": Error(2, "veto"),
    "wrong shape": malformed.MESSAGE_MALFORMED["wrong shape"],
    "NaN": malformed.MESSAGE_MALFORMED["all NaN"],
}


def seeded(make):
    np.random.seed(0)  # noqa: NPY002 - the adaptive wrapper draws noise for its count of clipped updates
    return make()


@pytest.mark.parametrize("veto", VETOES)
@pytest.mark.parametrize("kind", MESSAGE_DP)
def test_one_reply_vetoes_no_round_of_differential_privacy(kind, veto):
    def made(harden, replies):
        inner = MESSAGE_DP[kind](message_stock("FedMedian"))
        return seeded(lambda: message_round(harden(inner), replies))

    reference = made(lambda inner: inner, honest_contents())
    assert same(made(Hardened, honest_contents() | {1: VETOES[veto]}), reference)
    try:
        bare = made(lambda inner: inner, honest_contents() | {1: VETOES[veto]})
    except Exception:
        return
    assert not same(bare, reference)


@pytest.mark.parametrize("veto", ["a failure", "wrong shape", "all NaN"])
@pytest.mark.parametrize("kind", CLASSIC_DP)
def test_one_result_vetoes_no_classic_round_of_differential_privacy(kind, veto):
    bad = {} if veto == "a failure" else {1: malformed.CLASSIC_MALFORMED[veto]}
    failures = [ConnectionError("veto")] if veto == "a failure" else []

    def made(harden, replies, failures=()):
        inner = CLASSIC_DP[kind](classic_stock("FedMedian"))
        return seeded(lambda: classic_round(harden(inner), replies, failures=failures))

    reference = made(lambda inner: inner, honest_results())
    assert reference[0] is not None
    assert same(made(ClassicHardened, honest_results() | bad, failures), reference)
    try:
        bare = made(lambda inner: inner, honest_results() | bad, failures)
    except Exception:
        return
    assert not same(bare, reference)


# Too few replies, copies, trees. ----------------------------------------------------------------


@pytest.mark.parametrize(("usable", "kept"), [(4, True), (5, False)])
def test_rounds_of_at_most_2q_usable_replies_keep_the_model(usable, kept, caplog):
    bad = Error(2, "broken")
    some = {n: message_content(n) if i < usable else bad for i, n in enumerate(HONEST)}
    strategy = Hardened(message_stock("FedMedian"), num_byzantine=2)
    assert (message_round(strategy, some)[0] is None) == kept
    assert ("not more than 2q = 4" in caplog.text) == kept
    some = {n: classic_result(n) for n in list(HONEST)[:usable]}
    strategy = ClassicHardened(classic_stock("FedMedian"), num_byzantine=2)
    begin(strategy, HONEST)
    pairs = [(Proxy(str(cid)), result) for cid, result in some.items()]
    assert (strategy.aggregate_fit(1, pairs, [])[0] is None) == kept


@pytest.mark.parametrize("num_byzantine", [-1, True, 1.5, "2"])
def test_num_byzantine_has_to_be_a_count(num_byzantine):
    with pytest.raises((TypeError, ValueError), match="num_byzantine must be a whole number"):
        Hardened(message_stock("FedAvg"), num_byzantine=num_byzantine)
    with pytest.raises((TypeError, ValueError), match="num_byzantine must be a whole number"):
        ClassicHardened(classic_stock("FedAvg"), num_byzantine=num_byzantine)


def copies(make, arrays):
    return {node: make(arrays) for node in HONEST}


def as_content(arrays):
    return malformed.content(malformed.named(arrays))


MESSAGE_RULES = {
    "Hardened": lambda: Hardened(message_stock("FedMedian")),
    "Hardened, q = 2": lambda: Hardened(message_stock("FedMedian"), num_byzantine=2),
    "held": lambda: GeometricMedianOfMeans(num_byzantine=2, **LEAST),
    "streamed": lambda: GeometricMedianOfMeans(num_byzantine=2, streaming=True, **LEAST),
}
CLASSIC_RULES = {
    "Hardened": lambda: ClassicHardened(classic_stock("FedMedian")),
    "held": lambda: ClassicGMoM(num_byzantine=2, **CLASSIC_LEAST),
}


@pytest.mark.parametrize("rule", MESSAGE_RULES)
def test_copies_are_refused_unless_they_are_the_model_that_was_sent(rule, caplog):
    other = malformed.honest_arrays(3)
    assert message_round(MESSAGE_RULES[rule](), copies(as_content, other))[0] is None
    assert "all 11 replies are the same numbers" in caplog.text
    assert "SecAgg" in caplog.text
    still, _ = message_round(MESSAGE_RULES[rule](), copies(as_content, SENT))
    assert same((still, {}), (record(SENT), {}))
    all_but_one = copies(as_content, other) | {10: message_content(10)}
    assert message_round(MESSAGE_RULES[rule](), all_but_one)[0] is not None


@pytest.mark.parametrize("rule", CLASSIC_RULES)
def test_classic_copies_are_refused(rule, caplog):
    other = malformed.honest_arrays(3)
    assert classic_round(CLASSIC_RULES[rule](), copies(malformed.fit_res, other))[0] is None
    assert "all 11 replies are the same numbers" in caplog.text
    assert classic_round(CLASSIC_RULES[rule](), copies(malformed.fit_res, SENT))[0] is not None


def test_copies_in_several_widths_are_copies_all_the_same():
    arrays = malformed.honest_arrays(3)
    mixed = copies(as_content, arrays) | {10: as_content([a.astype("f8") for a in arrays])}
    assert message_round(Hardened(message_stock("FedMedian")), mixed)[0] is None


def test_copies_are_used_where_no_median_is_promised():
    other = copies(as_content, malformed.honest_arrays(3))
    for strategy in (
        Hardened(message_stock("FedAvg"), num_byzantine=0),
        GeometricMedianOfMeans(num_byzantine=0, **LEAST),
        GeometricMedianOfMeans(num_batches=1, **LEAST),
        GeometricMedianOfMeans(num_batches=1, streaming=True, **LEAST),
    ):
        assert message_round(strategy, other)[0] is not None


class OwnTrees(message.FedXgbBagging):
    pass


@pytest.mark.parametrize(
    "strategy",
    [
        message.FedXgbBagging(),
        message.FedXgbCyclic(),
        OwnTrees(),
        MESSAGE_DP["fixed"](message.FedXgbBagging()),
    ],
)
def test_strategies_of_trees_are_refused_by_name(strategy):
    with pytest.raises(TypeError, match=r"no trees, got FedXgb\w+"):
        Hardened(strategy)


@pytest.mark.parametrize("name", ["FedXgbBagging", "FedXgbCyclic", "FedXgbNnAvg"])
def test_classic_strategies_of_trees_are_refused_by_name(name):
    with pytest.raises(TypeError, match=f"no trees, got {name}"):
        ClassicHardened(getattr(classic, name)())


def test_a_strategy_that_weighs_nothing_needs_no_number_of_examples():
    class Own(message.Strategy):
        """A user's own strategy, which knows no number of examples."""

        def configure_train(self, server_round, arrays, config, grid):
            return message.FedAvg(**LEAST).configure_train(server_round, arrays, config, grid)

        def aggregate_train(self, server_round, replies):
            models = [model_of(reply.content["arrays"]) for reply in replies]
            mean = {n: np.mean([m[n] for m in models], axis=0) for n in models[0]}
            return ArrayRecord({n: Array(a) for n, a in mean.items()}), MetricRecord()

        def configure_evaluate(self, *_):
            return []

        def aggregate_evaluate(self, *_): ...
        def summary(self): ...

    claimless = {node: malformed.content(metrics={"loss": 0.5}) for node in HONEST}
    assert message_round(Hardened(Own(), num_byzantine=0), claimless)[0] is not None
