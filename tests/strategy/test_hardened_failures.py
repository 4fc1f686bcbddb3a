"""What the strategy behind Hardened does wrong, or is led to do, keeps the model."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, MetricRecord
from flwr.common import ndarrays_to_parameters

from tests.support import malformed
from tests.support.apis import BOTH, CLASSIC, HONEST, MESSAGE, SENT, exact, own, record

AS_SENT, OTHER = exact((SENT, {})), malformed.honest_arrays(3)


def raising(*_):
    raise RuntimeError("boom\nand a second line")


WRONG = {  # what a strategy returns in place of a model, and what the log names
    "not finite": (record([np.full_like(a, np.nan) for a in SENT]), "NaN or infinity"),
    "other names": (record(SENT, "xyz"), "not the model's"),
    "other shapes": (record(SENT[::-1]), "not the model's"),
    "another order": (record(SENT[::-1], malformed.NAMES[::-1]), "not the model's"),
    "an array too few": (record(SENT[:2]), "not the model's"),
    "complex": (record([a * 1j for a in SENT]), "complex64"),
    "no record": ("model", "the strategy failed"),
    "None": (None, ""),
    "raises": (raising, "boom"),
    "no pair": (lambda *_: None, "the strategy failed"),
}


@BOTH
@pytest.mark.parametrize("kind", WRONG)
def test_what_the_strategy_does_wrong_keeps_the_model_and_is_logged(api, kind, monkeypatch, caplog):
    made, text = WRONG[kind]
    if api is CLASSIC and isinstance(made, ArrayRecord):
        made = ndarrays_to_parameters(made.to_numpy_ndarrays())
    method = made if callable(made) else lambda *_: (made, None)
    monkeypatch.setattr(api.flower.FedAvg, api.method, method)
    outcome = exact(api.round(api.hardened("FedAvg"), api.honest()))
    if (api, kind) in [(CLASSIC, "other names"), (MESSAGE, "another order")]:
        assert outcome == AS_SENT  # the one API has no names, the other knows their order
    else:
        assert outcome == (None, {})
        assert text in caplog.text
        assert "\nand a second line" not in caplog.text


def test_what_evaluation_does_wrong_gives_no_metrics(monkeypatch, caplog):
    monkeypatch.setattr(MESSAGE.flower.FedAvg, "aggregate_evaluate", raising)
    assert own(MESSAGE.evaluation(MESSAGE.hardened("FedAvg"), MESSAGE.honest())) == {}
    assert "the strategy failed, no metrics are reported" in caplog.text


@pytest.mark.parametrize("outcome", [(None, None), (1.0, None), None])
def test_a_classic_evaluation_without_metrics_has_none(monkeypatch, outcome):
    monkeypatch.setattr(CLASSIC.flower.FedAvg, "aggregate_evaluate", lambda *_: outcome)
    claims = dict.fromkeys(HONEST, CLASSIC.claim(0.5))
    metrics = CLASSIC.evaluation(CLASSIC.hardened("FedAvg"), claims)
    assert metrics.pop("loss") == (outcome and outcome[0])
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
@pytest.mark.parametrize(("usable", "kept"), [(4, True), (5, False)])
def test_rounds_of_at_most_2q_usable_replies_keep_the_model(api, usable, kept, caplog):
    replies = api.honest() | dict.fromkeys([*HONEST][usable:], api.kinds["all NaN"])
    outcome = api.round(api.hardened("FedMedian", num_byzantine=2), replies)
    assert (outcome[0] is None) == kept
    assert ("not more than 2q = 4" in caplog.text) == kept


RULES = {
    "Hardened": lambda api: api.hardened("FedMedian"),
    "Hardened, q = 2": lambda api: api.hardened("FedMedian", num_byzantine=2),
    "held": lambda api: api.gmom(num_byzantine=2),
    "streamed": lambda api: api.gmom(num_byzantine=2, streaming=True),
}


RULES_OF = [(api, rule) for api in (CLASSIC, MESSAGE) for rule in [*RULES][: 3 + (api is MESSAGE)]]


@pytest.mark.parametrize(("api", "rule"), RULES_OF)
def test_copies_are_refused_unless_they_are_the_model_that_was_sent(api, rule, caplog):
    copies = dict.fromkeys(HONEST, api.reply(OTHER))
    assert api.round(RULES[rule](api), copies)[0] is None
    assert "all 11 replies are the same numbers" in caplog.text
    wider = copies | {10: api.reply([a.astype("f8") for a in OTHER])}  # which is the same
    assert api.round(RULES[rule](api), wider)[0] is None
    assert api.round(RULES[rule](api), copies | {10: api.reply(SENT)})[0] is not None
    still = api.round(RULES[rule](api), dict.fromkeys(HONEST, api.reply(SENT)))
    assert exact(still)[0] == AS_SENT[0]


def test_copies_are_used_where_the_rule_is_the_mean():
    sizes = {"num_byzantine": 0}, {"num_batches": 1}, {"num_batches": 1, "streaming": True}
    means = [MESSAGE.gmom(**size) for size in sizes]
    for strategy in [MESSAGE.hardened("FedAvg", num_byzantine=0), *means]:
        copies = dict.fromkeys(HONEST, MESSAGE.reply(OTHER))
        assert MESSAGE.round(strategy, copies)[0] is not None


def test_a_strategy_that_weighs_nothing_needs_no_number_of_examples():
    class Own(MESSAGE.flower.FedAvg):
        def aggregate_train(self, server_round, replies):
            return next(iter(replies)).content["arrays"], MetricRecord()

    strategy = Own(**MESSAGE.least)
    del strategy.weighted_by_key
    claimless = {node: malformed.content(metrics={"loss": 0.5}) for node in HONEST}
    hardened = MESSAGE.own.Hardened(strategy, num_byzantine=0)
    assert MESSAGE.round(hardened, claimless)[0] is not None
