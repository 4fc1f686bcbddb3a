"""Hardened(S) makes of honest replies what S does; what S does wrong keeps the model."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, MetricRecord
from flwr.common import ndarrays_to_parameters

from tests.support import malformed
from tests.support.apis import BOTH, CLASSIC, HONEST, MESSAGE, SENT, exact, own, record

EXTREME = [3e38, -3e38, 1e30, 1e20, -1e19, 0, 1e-45]


@BOTH
@pytest.mark.parametrize("name", ["FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum", "Bulyan"])
def test_two_clients_at_the_ends_of_float32_neither_stop_nor_move_a_robust_rule(api, name):
    rng = np.random.default_rng(5)
    for num_examples in (1e308, 5e-324) if api is MESSAGE else (2**62,):
        arrays = [rng.choice(EXTREME, size=a.shape).astype("f4") for a in SENT]
        bad = api.reply(arrays, {"loss": -1e308}, num_examples)
        made, _ = api.round(api.hardened(name), api.honest() | {1: bad, 55: bad})
        for got, true in zip(made, malformed.model_arrays(1.0), strict=True):
            assert np.abs(got - true).max() < 0.5


def test_metrics_of_classic_results_count_only_where_the_strategy_aggregates_them():
    contents = CLASSIC.honest() | {12: CLASSIC.reply(SENT, {"other": "x"})}
    for options, rejected in (({}, 1), ({"fit_metrics_aggregation_fn": None}, 0)):
        strategy = CLASSIC.own.Hardened(CLASSIC.stock("FedAvg", **options))
        assert CLASSIC.round(strategy, contents)[1]["byz-rejected"] == rejected


def test_another_name_of_one_client_s_metrics_does_not_stop_a_user_s_aggregation():
    def mean_of_named(records, key):
        return MetricRecord({"loss": float(np.mean([r["metrics"]["loss"] for r in records]))})

    contents, options = MESSAGE.honest(), {"train_metrics_aggr_fn": mean_of_named}
    contents[10]["other"] = contents[10].pop("metrics")
    strategy = MESSAGE.own.robust(MESSAGE.flower.FedAdam, num_byzantine=2, **options)
    assert 0 < MESSAGE.round(strategy, contents)[1]["loss"] < 20


def test_metrics_of_another_form_are_no_evidence_against_a_client():
    """Else q clients could have honest ones excluded, where two forms are nearly as common."""
    strategy = MESSAGE.hardened("FedMedian", num_byzantine=2, exclude_above=0.5)
    forms = MESSAGE.honest() | {n: r for n, r in MESSAGE.honest(more=1.0).items() if n > 60}
    for server_round in (1, 2, 3):
        MESSAGE.round(strategy, forms, server_round=server_round)
    assert strategy._rounds.admitted(4, list(HONEST), 5) == list(HONEST)


def test_what_a_strategy_does_to_its_replies_does_not_reach_the_audit(tmp_path):
    class Emptying(MESSAGE.flower.FedAvg):
        def aggregate_train(self, server_round, replies):
            made = super().aggregate_train(server_round, replies)
            for each in [each for reply in replies for each in reply.content.values()]:
                each.clear()
            return made

    trail = tmp_path / "audit.jsonl"
    strategy = MESSAGE.own.Hardened(Emptying(**MESSAGE.least), audit=trail)
    assert MESSAGE.round(strategy, MESSAGE.honest())[0] is not None
    assert '"distance": null' not in trail.read_text()


def test_an_attribute_strategy_that_holds_no_strategy_is_no_obstacle():
    strategy = MESSAGE.stock("FedAvg")
    strategy.strategy = "fedavg"
    assert MESSAGE.round(MESSAGE.own.Hardened(strategy), MESSAGE.honest())[0] is not None


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
        assert outcome == exact((SENT, {}))  # the one API has no names, the other knows their order
    else:
        assert outcome == (None, {})
        assert text in caplog.text
        assert "\nand a second line" not in caplog.text


EVALUATED = [(CLASSIC, (None, None)), (CLASSIC, (1.0, None)), (CLASSIC, None), (MESSAGE, None)]


@pytest.mark.parametrize(("api", "made"), [*EVALUATED, (CLASSIC, raising), (MESSAGE, raising)])
def test_an_evaluation_that_makes_no_metrics_or_fails_has_none(api, made, monkeypatch, caplog):
    method = made if callable(made) else lambda *_: made
    monkeypatch.setattr(api.flower.FedAvg, "aggregate_evaluate", method)
    metrics = api.evaluation(api.hardened("FedAvg"), dict.fromkeys(HONEST, api.claim(0.5)))
    assert metrics.pop("loss", None) == (made[0] if isinstance(made, tuple) else None)
    assert own(metrics) == {}
    failed = callable(made) or (api, made) == (CLASSIC, None)
    assert ("no metrics are reported" in caplog.text) == failed


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
    broken = dict.fromkeys(HONEST[usable:], api.reply([a * np.nan for a in SENT]))
    made, _ = api.round(api.hardened("FedMedian", num_byzantine=2), api.honest() | broken)
    assert (made is None) == kept
    assert ("not more than 2q = 4" in caplog.text) == kept


def test_a_strategy_that_weighs_nothing_needs_no_number_of_examples():
    class Own(MESSAGE.flower.FedAvg):
        def aggregate_train(self, server_round, replies):
            return next(iter(replies)).content["arrays"], MetricRecord()

    strategy = Own(**MESSAGE.least)
    del strategy.weighted_by_key
    claimless = {node: malformed.content(metrics={"loss": 0.5}) for node in HONEST}
    hardened = MESSAGE.own.Hardened(strategy, num_byzantine=0)
    assert MESSAGE.round(hardened, claimless)[0] is not None
