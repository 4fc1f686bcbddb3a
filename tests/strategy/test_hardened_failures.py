"""What the strategy behind Hardened does wrong, or is led to do, keeps the model."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, MetricRecord
from flwr.common import ndarrays_to_parameters

from tests.support import malformed
from tests.support.apis import BOTH, CLASSIC, HONEST, MESSAGE, SENT, exact, own, record


def raising(*_):
    raise RuntimeError("boom\nand a second line")


def named(names, arrays):
    return ArrayRecord({name: Array(a) for name, a in zip(names, arrays, strict=True)})


WRONG = {  # what a strategy returns, and what the log names
    "not finite": (record([np.full_like(a, np.nan) for a in SENT]), "NaN or infinity"),
    "other names": (named("xyz", SENT), "not the model's"),
    "other shapes": (record(SENT[::-1]), "not the model's"),
    "an array too few": (record(SENT[:2]), "not the model's"),
    "complex": (record([a * 1j for a in SENT]), "complex64"),
    "no record": ("model", "the strategy failed"),
    "None": (None, ""),
}


def returning(api, made):
    """Return a method of an API's strategies which returns this in place of a model."""
    if api is CLASSIC and isinstance(made, ArrayRecord):
        made = ndarrays_to_parameters(made.to_numpy_ndarrays())
    return lambda *_: (made, None)


@BOTH
@pytest.mark.parametrize("kind", [*WRONG, "raises", "no pair"])
def test_what_the_strategy_does_wrong_keeps_the_model_and_is_logged(api, kind, monkeypatch, caplog):
    if kind in WRONG:
        method, text = returning(api, WRONG[kind][0]), WRONG[kind][1]
    else:
        methods = {"raises": (raising, "boom"), "no pair": (lambda *_: None, "the strategy failed")}
        method, text = methods[kind]
    monkeypatch.setattr(api.flower.FedAvg, api.method, method)
    outcome = api.round(api.hardened("FedAvg"), api.honest())
    if (api, kind) == (CLASSIC, "other names"):  # there are no names in this API
        assert exact(outcome) == exact((SENT, {}))
    else:
        assert exact(outcome) == (None, {})
        assert text in caplog.text
        assert "\nand a second line" not in caplog.text


def test_arrays_in_another_order_are_put_back_into_the_model_s(monkeypatch):
    turned = named(malformed.NAMES[::-1], SENT[::-1])
    monkeypatch.setattr(MESSAGE.flower.FedAvg, MESSAGE.method, returning(MESSAGE, turned))
    outcome = MESSAGE.round(MESSAGE.hardened("FedAvg"), MESSAGE.honest())
    assert exact(outcome) == exact((SENT, {}))


def test_what_evaluation_does_wrong_gives_no_metrics(monkeypatch, caplog):
    monkeypatch.setattr(MESSAGE.flower.FedAvg, "aggregate_evaluate", raising)
    assert own(MESSAGE.evaluation(MESSAGE.hardened("FedAvg"), MESSAGE.honest())) == {}
    assert "the strategy failed, no metrics are reported" in caplog.text


@pytest.mark.parametrize("outcome", [(None, None), (1.0, None), None])
def test_a_classic_evaluation_without_metrics_has_none(monkeypatch, outcome):
    monkeypatch.setattr(CLASSIC.flower.FedAvg, "aggregate_evaluate", lambda *_: outcome)
    strategy = CLASSIC.hardened("FedAvg")
    claims = CLASSIC.replies(None, {client: CLASSIC.claim(0.5) for client in HONEST})
    loss, metrics = strategy.aggregate_evaluate(1, claims, [])
    assert loss == (outcome and outcome[0])
    assert own(metrics) == {}


@pytest.mark.parametrize(("name", "options"), [("FedAvgM", {}), ("FedAdam", {"eta": 1e30})])
def test_an_attempt_that_is_refused_leaves_no_trace_in_the_optimizer(name, options):
    """One round whose step leaves the range of float32 must not end all that follow."""
    huge = MESSAGE.reply([np.full_like(a, 3e38) for a in SENT])
    strategy = MESSAGE.own.Hardened(MESSAGE.stock(name, **options))
    sent = [np.full_like(a, -3e38) for a in SENT]
    contents = dict.fromkeys(HONEST, huge) | {10: MESSAGE.reply(SENT)}  # copies would be refused
    with np.errstate(all="ignore"):
        assert MESSAGE.round(strategy, contents, sent)[0] is None
    assert MESSAGE.round(strategy, MESSAGE.honest(), server_round=2)[0] is not None


@BOTH
@pytest.mark.parametrize("veto", ["an error", "wrong shape", "all NaN"])
@pytest.mark.parametrize("kind", ["Fixed", "Adaptive"])
def test_one_reply_vetoes_no_round_of_differential_privacy(api, kind, veto):
    wrapper = getattr(api.flower, f"DifferentialPrivacyServerSide{kind}Clipping")
    options = {"clipping_norm": 5.0} if kind == "Fixed" else {}

    def outcome(harden, **more):
        np.random.seed(0)  # noqa: NPY002 - the adaptive wrapper draws noise for its count of clipped updates
        inner = api.stock("FedMedian")
        private = wrapper(inner, noise_multiplier=0.0, num_sampled_clients=11, **options)
        return exact(api.round(harden(private), api.honest() | more.get("bad", {})))

    errors = {CLASSIC: ConnectionError("veto"), MESSAGE: Error(2, "veto")}
    bad = {1: errors[api] if veto == "an error" else api.kinds[veto]}
    reference = outcome(lambda inner: inner)
    assert reference[0]
    assert outcome(api.own.Hardened, bad=bad) == reference


# Too few replies, and copies. -------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(("usable", "kept"), [(4, True), (5, False)])
def test_rounds_of_at_most_2q_usable_replies_keep_the_model(api, usable, kept, caplog):
    replies = api.honest() | dict.fromkeys([*HONEST][usable:], api.kinds["all NaN"])
    outcome = api.round(api.hardened("FedMedian", num_byzantine=2), replies)
    assert (outcome[0] is None) == kept
    assert ("not more than 2q = 4" in caplog.text) == kept


def rule(api, name):
    if name == "Hardened":
        return api.hardened("FedMedian")
    if name == "Hardened, q = 2":
        return api.hardened("FedMedian", num_byzantine=2)
    return api.gmom(num_byzantine=2, **{"streaming": True} if name == "streamed" else {})


OTHER = malformed.honest_arrays(3)


@pytest.mark.parametrize(
    ("api", "name"),
    [(api, name) for api in (CLASSIC, MESSAGE) for name in ("Hardened", "Hardened, q = 2", "held")]
    + [(MESSAGE, "streamed")],
)
def test_copies_are_refused_unless_they_are_the_model_that_was_sent(api, name, caplog):
    copies = dict.fromkeys(HONEST, api.reply(OTHER))
    assert api.round(rule(api, name), copies)[0] is None
    assert "all 11 replies are the same numbers" in caplog.text
    assert "SecAgg" in caplog.text
    still = api.round(rule(api, name), dict.fromkeys(HONEST, api.reply(SENT)))
    assert exact(still)[0] == exact((SENT, {}))[0]
    mixed = copies | {10: api.reply([a.astype("f8") for a in OTHER])}  # another width, the same
    assert api.round(rule(api, name), mixed)[0] is None
    assert api.round(rule(api, name), copies | {10: api.reply(SENT)})[0] is not None


def test_copies_are_used_where_no_median_is_promised():
    for strategy in (
        MESSAGE.hardened("FedAvg", num_byzantine=0),
        MESSAGE.gmom(num_byzantine=0),
        MESSAGE.gmom(num_batches=1),
        MESSAGE.gmom(num_batches=1, streaming=True),
    ):
        copies = dict.fromkeys(HONEST, MESSAGE.reply(OTHER))
        assert MESSAGE.round(strategy, copies)[0] is not None


def test_a_strategy_that_weighs_nothing_needs_no_number_of_examples():
    class Own(MESSAGE.flower.Strategy):
        """A user's own strategy, which knows no number of examples."""

        def configure_train(self, *arguments):
            return MESSAGE.stock("FedAvg").configure_train(*arguments)

        def aggregate_train(self, server_round, replies):
            models = [reply.content["arrays"].to_numpy_ndarrays() for reply in replies]
            return record([np.mean(a, axis=0) for a in zip(*models, strict=True)]), MetricRecord()

        def configure_evaluate(self, *_): ...
        def aggregate_evaluate(self, *_): ...
        def summary(self): ...

    claimless = {node: malformed.content(metrics={"loss": 0.5}) for node in HONEST}
    strategy = MESSAGE.own.Hardened(Own(), num_byzantine=0)
    assert MESSAGE.round(strategy, claimless)[0] is not None
