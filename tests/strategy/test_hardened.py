"""Hardened(S) makes of a round what S makes of its honest replies alone, in both APIs."""

from itertools import cycle

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, RecordDict
from flwr.common import Code

from tests.support import malformed
from tests.support.apis import BOTH, CLASSIC, HONEST, MESSAGE, NAMES, exact, own
from tests.support.server import Proxy

A = malformed.honest_arrays(0)
RECORD, GOOD = (MESSAGE.reply(A)[name] for name in ("arrays", "metrics"))
STRATEGIES = pytest.mark.parametrize(
    ("api", "name"),
    [(api, name) for api in (CLASSIC, MESSAGE) for name in [*NAMES, *api.others]],
    ids=lambda value: getattr(value, "name", value),
)


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
    }


CLASSIC_KINDS = kinds_of(CLASSIC) | {"metrics no mapping": CLASSIC.reply(A, [1.0])}
MESSAGE_KINDS = kinds_of(MESSAGE) | {
    "a record whose name is a number": forged({"arrays": RECORD, "metrics": GOOD, 7: GOOD}),
    "a name for its metrics that is a number": forged({"arrays": RECORD, 7: GOOD}),
    "another name of its metrics": RecordDict({"arrays": RECORD, "other": GOOD}),
    "a ConfigRecord beside": RecordDict(
        {"arrays": RECORD, "metrics": GOOD, "config": ConfigRecord({"a": b"b"})}
    ),
    "silence": None,
}
KINDS = {CLASSIC: CLASSIC_KINDS, MESSAGE: MESSAGE_KINDS}


@BOTH
def test_no_malformed_reply_changes_what_hardened_makes_of_the_others(api):
    reference = exact(api.round(api.stock("FedAvg"), api.honest()))
    assert reference[0]
    wrong = [
        kind
        for (kind, bad), client in zip(KINDS[api].items(), cycle((1, 115)), strict=False)
        if exact(api.round(api.hardened("FedAvg"), api.honest() | {client: bad})) != reference
    ]
    assert wrong == []


@STRATEGIES
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


@BOTH
@pytest.mark.parametrize("name", ["FedAvg", "FedMedian", "Krum"])
def test_flower_s_own_strategy_fails_with_most_of_them(api, name):
    reference, metrics = api.round(api.stock(name), api.honest())

    def is_near(bad):
        try:
            with np.errstate(all="ignore"):
                arrays, reported = api.round(api.stock(name), api.honest() | {1: bad})
            pairs = zip(arrays, reference, strict=True)
            near = all(a.shape == b.shape and np.all(np.abs(a - b) < 0.6) for a, b in pairs)
            finite = np.isfinite([*reported.values()]).all()
            return near and finite and reported.keys() == metrics.keys()
        except Exception:
            return False

    assert sum(map(is_near, KINDS[api].values())) < len(KINDS[api]) / 2


# Honest replies of an unusual form count as what they mean. -------------------------------------

FORMS = {
    "float64": lambda array: array.astype("f8"),
    "big-endian": lambda array: array.astype(">f4"),
    "Fortran order": np.asfortranarray,
}
RECORDS = {
    "keys in another order": lambda record: ArrayRecord(dict(reversed(record.items()))),
    "claims of another dtype and shape": lambda record: ArrayRecord(
        {name: Array("int8", (7,), a.stype, a.data) for name, a in record.items()}
    ),
}


@BOTH
@pytest.mark.parametrize("form", [*FORMS, *RECORDS])
@pytest.mark.parametrize("name", ["FedAvg", "Krum"])
def test_a_reply_of_an_odd_form_counts_as_the_same_numbers_in_the_model_s(api, name, form):
    contents = api.honest()
    reference = exact(api.round(api.stock(name), contents))
    for client in (10, 60):
        if form in FORMS:
            arrays = [FORMS[form](array) for array in malformed.honest_arrays(client)]
            contents[client] = api.reply(arrays, {"loss": 0.1 * client})
        elif api is MESSAGE:  # the classic API has neither
            contents[client]["arrays"] = RECORDS[form](contents[client]["arrays"])
    assert exact(api.round(api.hardened(name), contents)) == reference


# Replies that are no client's own. --------------------------------------------------------------


def test_duplicates_forged_ids_and_replies_of_unasked_nodes_change_nothing():
    reference = exact(MESSAGE.round(MESSAGE.stock("FedMedian"), MESSAGE.honest()))
    strategy = MESSAGE.hardened("FedMedian")
    bad = MESSAGE.reply([1e6 * a for a in A])
    asked = MESSAGE.begin(strategy, [1, 5, *HONEST])
    forged, stranger, lost, *twice = [
        *MESSAGE.replies(asked, {1: bad, 5: bad, 10: Error(5, "gone")}),
        *MESSAGE.replies(asked, {5: bad, 1: bad}),
        *MESSAGE.replies(asked, {5: bad}),
    ]
    forged.metadata.__dict__["_src_node_id"] = 10  # an honest node's
    stranger.metadata.__dict__["_reply_to_message_id"] = "never sent"
    stranger.metadata.__dict__["_src_node_id"] = 999
    lost.metadata.__dict__["_src_node_id"] = 1  # as the SuperLink does
    honest = MESSAGE.replies(asked, {1: bad} | MESSAGE.honest())
    outcome = MESSAGE.end(strategy, [forged, stranger, lost, *honest, *twice])
    assert exact(outcome) == reference
    assert outcome[1]["byz-clients"] == 13
    assert outcome[1]["byz-missing"] == 0


def test_classic_duplicates_and_unasked_clients_change_nothing():
    reference = exact(CLASSIC.round(CLASSIC.stock("FedMedian"), CLASSIC.honest()))
    strategy = CLASSIC.hardened("FedMedian")
    CLASSIC.begin(strategy, [1, *HONEST])
    bad = CLASSIC.reply([1e6 * a for a in A])
    pairs = [(Proxy(cid), bad) for cid in ("1", "999", "1")]
    pairs += CLASSIC.replies(None, CLASSIC.honest())
    assert exact(CLASSIC.end(strategy, pairs[::-1])) == reference


def test_metrics_of_classic_results_count_only_where_the_strategy_aggregates_them():
    contents = CLASSIC.honest() | {12: CLASSIC.reply(A, {"other": "x"})}
    for options, rejected in (({}, 1), ({"fit_metrics_aggregation_fn": None}, 0)):
        strategy = CLASSIC.own.Hardened(CLASSIC.stock("FedAvg", **options))
        assert CLASSIC.round(strategy, contents)[1]["byz-rejected"] == rejected


OF_ARRAYS = {  # which evaluations do not look at
    *malformed.BAD_TENSORS,
    *("missing array", "extra array", "renamed array", "no arrays"),
    *("names swapped with a longer array", "unknown serialisation"),
}


def test_no_malformed_reply_changes_the_evaluation_of_the_others():
    honest = MESSAGE.honest()
    reference = MESSAGE.evaluation(MESSAGE.stock("FedAvg"), honest)
    assert list(reference) == ["loss"]
    for kind in MESSAGE_KINDS.keys() - OF_ARRAYS:
        contents = honest | {1: MESSAGE_KINDS[kind]}
        assert own(MESSAGE.evaluation(MESSAGE.hardened("FedAvg"), contents)) == reference, kind
