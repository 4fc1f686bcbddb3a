"""Hardened(S) makes of a round what S makes of its honest replies alone, in both APIs."""

from itertools import cycle

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict
from flwr.common import Code

from tests.support import malformed
from tests.support.apis import BOTH, CLASSIC, HONEST, MESSAGE, NAMES, SENT, exact, own
from tests.support.server import Proxy

A = malformed.honest_arrays(0)
RECORD, GOOD = (MESSAGE.reply(A)[name] for name in ("arrays", "metrics"))


def forged(records):
    """Return a content past Flower's own checks."""
    made = RecordDict()
    made.__dict__["_data"].update(records)
    return made


def kinds_of(api):
    return api.kinds | {
        "an extra metric": api.reply(A, {"loss": 0.5, "more": 1.0}),
        "a metric of another name": api.reply(A, {"los": 0.5}),
        "a metric whose name is a number": api.reply(A, {"loss": 0.5, 7: 0.5}),
        "a metric beyond 64 bits": api.reply(A, {"loss": 10**308}),
        "num_examples cancel the total": api.reply(A, num_examples=-110),
        "num_examples beyond 64 bits": api.reply(A, num_examples=10**308),
        "silence": None,
    }


FORGED = {
    "a record whose name is a number": forged({"arrays": RECORD, "metrics": GOOD, 7: GOOD}),
    "a name for its metrics that is a number": forged({"arrays": RECORD, 7: GOOD}),
    "another name of its metrics": forged({"arrays": RECORD, "other": GOOD}),
    "one more record": forged({"arrays": RECORD, "metrics": GOOD, "more": ConfigRecord()}),
}
KINDS = {
    CLASSIC: kinds_of(CLASSIC) | {"metrics no mapping": CLASSIC.reply(A, [1.0])},
    MESSAGE: kinds_of(MESSAGE) | FORGED,
}


@BOTH
def test_no_malformed_reply_changes_what_hardened_makes_of_the_others(api):
    reference = exact(api.round(api.stock("FedAvg"), api.honest()))
    assert reference[0]
    for (kind, bad), client in zip(KINDS[api].items(), cycle((1, 115)), strict=False):
        outcome = api.round(api.hardened("FedAvg"), api.honest() | {client: bad})
        assert exact(outcome) == reference, kind


@pytest.mark.parametrize(
    ("api", "name"),
    [(api, name) for api in (CLASSIC, MESSAGE) for name in [*NAMES, *api.others]],
    ids=lambda value: getattr(value, "name", value),
)
def test_all_malformed_replies_together_change_nothing_either(api, name):
    reference = exact(api.round(api.stock(name), api.honest()))
    assert reference[0]
    bad, options = [*KINDS[api].values()], {}
    if api is CLASSIC:
        options = {"accept_failures": False}
        bad += [ConnectionError("gone"), CLASSIC.reply(A)]
        bad[-1].status.code = Code.FIT_NOT_IMPLEMENTED
    ids = [n for n in range(1, 200) if n not in HONEST][:: 180 // len(bad)]
    together = api.honest() | dict(zip(ids, bad, strict=False))
    assert len(together) == len(HONEST) + len(bad)
    hardened = api.own.Hardened(api.stock(name, **options))
    assert exact(api.round(hardened, together)) == reference


OF_ARRAYS = {"missing array", "extra array", "renamed array", "no arrays", *malformed.BAD_TENSORS}
OF_ARRAYS |= {"names swapped with a longer array", "unknown serialisation"}


def test_no_malformed_reply_changes_the_evaluation_of_the_others():
    honest = MESSAGE.honest()
    reference = MESSAGE.evaluation(MESSAGE.stock("FedAvg"), honest)
    assert list(reference) == ["loss"]
    for kind in KINDS[MESSAGE].keys() - OF_ARRAYS:  # which evaluations do not look at
        contents = honest | {1: KINDS[MESSAGE][kind]}
        assert own(MESSAGE.evaluation(MESSAGE.hardened("FedAvg"), contents)) == reference, kind


FORMS = {
    "float64": lambda array: array.astype("f8"),
    "big-endian": lambda array: array.astype(">f4"),
    "Fortran order": np.asfortranarray,
}
RECORDS = {
    "keys in another order": lambda record: reversed(record.items()),
    "claims of another dtype and shape": lambda record: [
        (name, Array("int8", (7,), a.stype, a.data)) for name, a in record.items()
    ],
}


@pytest.mark.parametrize(
    ("api", "form"), [*((a, f) for a in KINDS for f in FORMS), *((MESSAGE, f) for f in RECORDS)]
)
@pytest.mark.parametrize("name", ["FedAvg", "Krum"])
def test_a_reply_of_an_odd_form_counts_as_the_same_numbers_in_the_model_s(api, name, form):
    replies = api.honest()
    reference = exact(api.round(api.stock(name), replies))
    for client in (10, 60):
        if form in RECORDS:
            replies[client]["arrays"] = ArrayRecord(dict(RECORDS[form](replies[client]["arrays"])))
        else:
            arrays = [*map(FORMS[form], malformed.honest_arrays(client))]
            replies[client] = api.reply(arrays, {"loss": 0.1 * client})
    assert exact(api.round(api.hardened(name), replies)) == reference


def test_duplicates_forged_ids_and_replies_of_unasked_nodes_change_nothing():
    reference = exact(MESSAGE.round(MESSAGE.stock("FedMedian"), MESSAGE.honest()))
    strategy = MESSAGE.hardened("FedMedian")
    bad = MESSAGE.reply([1e6 * a for a in A])
    asked = MESSAGE.begin(strategy, [1, 5, *HONEST])
    honest = MESSAGE.replies(asked, {1: bad} | MESSAGE.honest())
    others = MESSAGE.replies(asked, {1: bad, 5: bad, 10: Error(5, "gone")})
    twice = MESSAGE.replies(asked, {5: bad, 1: bad}) + MESSAGE.replies(asked, {5: bad})
    forged, stranger, lost = others
    forged.metadata.__dict__["_src_node_id"] = 10  # an honest node's
    stranger.metadata.__dict__["_reply_to_message_id"] = "never sent"
    stranger.metadata.__dict__["_src_node_id"] = 999
    lost.metadata.__dict__["_src_node_id"] = 1  # as the SuperLink does
    outcome = MESSAGE.end(strategy, others + honest[::-1] + twice)
    assert exact(outcome) == reference
    assert (outcome[1]["byz-clients"], outcome[1]["byz-missing"]) == (13, 0)


def test_classic_duplicates_and_unasked_clients_change_nothing():
    reference = exact(CLASSIC.round(CLASSIC.stock("FedMedian"), CLASSIC.honest()))
    strategy = CLASSIC.hardened("FedMedian")
    CLASSIC.begin(strategy, [1, *HONEST])
    pairs = [(Proxy(cid), CLASSIC.reply([1e6 * a for a in A])) for cid in ("1", "999", "1")]
    pairs += CLASSIC.replies(None, CLASSIC.honest())
    assert exact(CLASSIC.end(strategy, pairs[::-1])) == reference


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


# Metrics. ---------------------------------------------------------------------------------------

ODD_NAMES = ["", "a\nb", "a\0", "\x1b[2J", "é" * 500, "byz-gap", "arrays", "metrics", "\u202e"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_odd_name_of_a_metric_is_rejected_in_one_line_and_changes_nothing(name, caplog):
    bad = MESSAGE.reply(A, {"loss": 0.5, name: 1.0})
    reference = exact(MESSAGE.round(MESSAGE.stock("FedMedian"), MESSAGE.honest()))
    outcome = MESSAGE.round(MESSAGE.hardened("FedMedian"), MESSAGE.honest() | {1: bad})
    assert exact(outcome) == reference
    (line,) = [m for m in caplog.messages if "Rejected" in m]
    assert line.strip("\t").isprintable()
    assert len(line) < 400


def test_metrics_of_classic_results_count_only_where_the_strategy_aggregates_them():
    contents = CLASSIC.honest() | {12: CLASSIC.reply(A, {"other": "x"})}
    for options, rejected in (({}, 1), ({"fit_metrics_aggregation_fn": None}, 0)):
        strategy = CLASSIC.own.Hardened(CLASSIC.stock("FedAvg", **options))
        assert CLASSIC.round(strategy, contents)[1]["byz-rejected"] == rejected


@pytest.mark.parametrize(
    "make",
    [
        lambda **o: MESSAGE.gmom(num_byzantine=2, **o),
        lambda **o: MESSAGE.own.robust(MESSAGE.flower.FedAdam, num_byzantine=2, **o),
        lambda **o: MESSAGE.own.Hardened(MESSAGE.stock("FedAvg", **o)),
    ],
)
def test_another_name_of_one_client_s_metrics_does_not_stop_a_user_s_aggregation(make):
    def mean_of_named(records, key):
        return MetricRecord({"loss": float(np.mean([r["metrics"]["loss"] for r in records]))})

    contents = MESSAGE.honest()
    contents[10]["other"] = contents[10].pop("metrics")
    _, metrics = MESSAGE.round(make(train_metrics_aggr_fn=mean_of_named), contents)
    assert 0 < metrics["loss"] < 20


def test_metrics_of_another_form_are_no_evidence_against_a_client():
    """Else q clients could have honest ones excluded, where two forms are nearly as common."""
    strategy = MESSAGE.hardened("FedMedian", num_byzantine=2, exclude_above=0.5)
    forms = MESSAGE.honest() | {n: r for n, r in MESSAGE.honest(more=1.0).items() if n > 60}
    for server_round in (1, 2, 3):
        MESSAGE.round(strategy, forms, server_round=server_round)
    assert strategy._rounds.admitted(4, list(HONEST), 5) == list(HONEST)


# What reaches the strategy, and the audit. ------------------------------------------------------


def test_what_a_strategy_does_to_its_replies_does_not_reach_the_audit(tmp_path):
    class Emptying(MESSAGE.flower.FedAvg):
        def aggregate_train(self, server_round, replies):
            made = super().aggregate_train(server_round, replies)
            for record in [record for reply in replies for record in reply.content.values()]:
                record.clear()
            return made

    trail = tmp_path / "audit.jsonl"
    strategy = MESSAGE.own.Hardened(Emptying(**MESSAGE.least), audit=trail)
    assert MESSAGE.round(strategy, MESSAGE.honest())[0] is not None
    assert '"distance": null' not in trail.read_text()


def test_distances_are_those_of_the_weights_where_counters_become_floats(tmp_path):
    """FedAvg makes float64 of integers, which must not shift what distances are taken of."""

    def weights(node):
        return np.full(4, 5.0 if node == 10 else 1.0 + node / 1000, "f4")

    strategy = MESSAGE.hardened("FedAvg", audit=tmp_path / "audit.jsonl")
    contents = {n: MESSAGE.reply([np.full(3, 1000 + n), weights(n)]) for n in HONEST}
    (counter, mean), _ = MESSAGE.round(strategy, contents, [np.zeros(3, "i8"), np.zeros(4, "f4")])
    assert counter.dtype.kind == "f"
    assert strategy._rounds.suspicion.scores["10"] == (1, 1.0)
    distance = float(np.linalg.norm(weights(60) - mean))
    assert f'"distance": {distance:.4f}'[:-2] in (tmp_path / "audit.jsonl").read_text()


def test_an_attribute_strategy_that_holds_no_strategy_is_no_obstacle():
    for inner in (None, "fedavg", 7):
        strategy = MESSAGE.stock("FedAvg")
        strategy.strategy = inner
        assert MESSAGE.round(MESSAGE.own.Hardened(strategy), MESSAGE.honest())[0] is not None
