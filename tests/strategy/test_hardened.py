"""Hardened(S) makes of a round what S makes of its honest replies alone, in both APIs."""

import gc
from copy import deepcopy
from itertools import cycle

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, RecordDict
from flwr.common import ndarrays_to_parameters

from flwr_byz.server.strategy import Hardened as ClassicHardened
from flwr_byz.serverapp.strategy import Hardened
from tests.support import malformed
from tests.support.server import Grid, Proxy
from tests.support.stock import (
    CLASSIC,
    HONEST,
    MESSAGE,
    SENT,
    asked,
    begin,
    classic_result,
    classic_round,
    classic_stock,
    has_fallen,
    honest_contents,
    honest_results,
    mean_loss,
    message_content,
    message_round,
    message_stock,
    own,
    replies_of,
    same,
    with_records,
)

FIRST_AND_LAST = cycle((1, 115))
GOOD = message_content(0)["metrics"]
RECORD = message_content(0)["arrays"]


@pytest.fixture(autouse=True)
def fast_collections():
    """Flower collects garbage after each array that it reads: let it look at what is new only."""
    gc.freeze()
    yield
    gc.unfreeze()


def unchecked(**values):
    return malformed.content(metrics={"num-examples": 10, "loss": 0.5} | values)


def forged(records):
    """A content past Flower's own checks."""
    made = RecordDict()
    made.__dict__["_data"].update(records)
    return made


MORE_MESSAGE = {
    "an extra metric": unchecked(more=1.0),
    "a metric of another name": malformed.content(metrics={"num-examples": 10, "los": 0.5}),
    "num_examples cancel the total": malformed.content(metrics={"num-examples": -110, "loss": 0.5}),
    "num_examples beyond 64 bits": malformed.content(
        metrics={"num-examples": 10**308, "loss": 0.5}
    ),
    "a metric beyond 64 bits": unchecked(loss=10**308),
    "a metric whose name is a number": malformed.content(
        metrics={"num-examples": 10, "loss": 0.5, 7: 0.5}
    ),
    "a record whose name is a number": forged({"arrays": RECORD, "metrics": GOOD, 7: GOOD}),
    "a name for its metrics that is a number": forged({"arrays": RECORD, 7: GOOD}),
    "another name of its metrics": RecordDict({"arrays": RECORD, "other": GOOD}),
    "a ConfigRecord beside": RecordDict(
        {"arrays": RECORD, "metrics": GOOD, "config": ConfigRecord({"a": b"b"})}
    ),
    "a silent one": None,
}
KINDS = {**malformed.MESSAGE_MALFORMED, **malformed.MESSAGE_BAD_METRICS, **MORE_MESSAGE}

MORE_CLASSIC = {
    "an extra metric": malformed.fit_res(
        malformed.honest_arrays(0), metrics={"loss": 0.5, "more": 1}
    ),
    "a metric whose name is a number": malformed.fit_res(
        malformed.honest_arrays(0), metrics={"loss": 0.5, 7: 0.5}
    ),
    "metrics no mapping": malformed.fit_res(malformed.honest_arrays(0), metrics=[1.0]),
    "num_examples cancel the total": malformed.fit_res(
        malformed.honest_arrays(0), num_examples=-110
    ),
    "num_examples beyond 64 bits": malformed.fit_res(
        malformed.honest_arrays(0), num_examples=10**308
    ),
    "a metric beyond 64 bits": malformed.fit_res(
        malformed.honest_arrays(0), metrics={"loss": 10**308}
    ),
}
CLASSIC_KINDS = {
    **malformed.CLASSIC_MALFORMED,
    **malformed.CLASSIC_BAD_METRICS,
    **MORE_CLASSIC,
}


def in_between(kinds):
    """Attackers by ids that lie before, between and after the honest ones."""
    ids = [n for n in range(1, 200) if n not in HONEST]
    step = len(ids) // len(kinds)
    return dict(zip(ids[:: max(step, 1)], kinds.values(), strict=False))


@pytest.mark.parametrize("name", MESSAGE)
def test_no_malformed_reply_changes_what_hardened_makes_of_the_others(name):
    reference = message_round(message_stock(name), honest_contents())
    assert reference[0] is not None
    wrong = [
        kind
        for (kind, bad), node in zip(KINDS.items(), FIRST_AND_LAST, strict=False)
        if not same(
            message_round(Hardened(message_stock(name)), honest_contents() | {node: bad}),
            reference,
        )
    ]
    assert wrong == []
    together = honest_contents() | in_between(KINDS)
    assert len(together) == len(HONEST) + len(KINDS)
    assert same(message_round(Hardened(message_stock(name)), together), reference)


@pytest.mark.parametrize("name", CLASSIC)
def test_no_malformed_result_changes_what_classic_hardened_makes_of_the_others(name):
    reference = classic_round(classic_stock(name), honest_results())
    assert reference[0] is not None
    wrong = [
        kind
        for (kind, bad), cid in zip(CLASSIC_KINDS.items(), FIRST_AND_LAST, strict=False)
        if not same(
            classic_round(ClassicHardened(classic_stock(name)), honest_results() | {cid: bad}),
            reference,
        )
    ]
    assert wrong == []
    together = honest_results() | in_between(CLASSIC_KINDS)
    failures = [ConnectionError("gone"), (Proxy("7"), deepcopy(classic_result(7)))]
    hardened = ClassicHardened(classic_stock(name, accept_failures=False))
    assert same(classic_round(hardened, together, failures=failures), reference)


@pytest.mark.parametrize("name", MESSAGE)
def test_flower_s_own_strategy_falls_to_most_of_them(name):
    reference = message_round(message_stock(name), honest_contents())

    def its_round(bad):
        return message_round(message_stock(name), honest_contents() | {1: bad})

    fallen = [kind for kind, bad in KINDS.items() if has_fallen(its_round, bad, reference)]
    assert len(fallen) > len(KINDS) / 2


@pytest.mark.parametrize("name", CLASSIC)
def test_flower_s_own_classic_strategy_falls_to_most_of_them(name):
    reference = classic_round(classic_stock(name), honest_results())

    def its_round(bad):
        return classic_round(classic_stock(name), honest_results() | {1: bad})

    fallen = [k for k, bad in CLASSIC_KINDS.items() if has_fallen(its_round, bad, reference)]
    assert len(fallen) > len(CLASSIC_KINDS) / 2


# Honest replies of an unusual form count as what they mean. -------------------------------------


def claims(array):
    return Array("int8", (7,), array.stype, array.data)


ODD_FORMS = {
    "keys in another order": lambda record: ArrayRecord(dict(reversed(record.items()))),
    "claims of another dtype and shape": lambda record: ArrayRecord(
        {name: claims(array) for name, array in record.items()}
    ),
    "float64": lambda record: cast_to(record, "f8"),
    "big-endian": lambda record: cast_to(record, ">f4"),
    "Fortran order": lambda record: ArrayRecord(
        {name: Array(np.asfortranarray(a.numpy())) for name, a in record.items()}
    ),
}


def cast_to(record, dtype):
    return ArrayRecord({name: Array(a.numpy().astype(dtype)) for name, a in record.items()})


@pytest.mark.parametrize("form", ODD_FORMS)
@pytest.mark.parametrize("name", MESSAGE)
def test_a_reply_of_an_odd_form_counts_as_the_same_numbers_in_the_model_s(name, form):
    reference = message_round(message_stock(name), honest_contents())
    contents = honest_contents()
    for node in (10, 60):
        honest = contents[node]
        contents[node] = with_records(honest, arrays=ODD_FORMS[form](honest["arrays"]))
    arrays, metrics = message_round(Hardened(message_stock(name)), contents)
    assert metrics == reference[1]
    assert list(arrays) == list(reference[0])
    for key, array in arrays.items():
        np.testing.assert_array_equal(array.numpy(), reference[0][key].numpy(), strict=True)


@pytest.mark.parametrize("dtype", ["f8", ">f4"])
@pytest.mark.parametrize("name", CLASSIC)
def test_a_classic_result_of_another_dtype_counts_as_the_same_numbers(name, dtype):
    reference = classic_round(classic_stock(name), honest_results())
    results = honest_results()
    for cid in (10, 60):
        arrays = [array.astype(dtype) for array in malformed.honest_arrays(cid)]
        results[cid].parameters = ndarrays_to_parameters(arrays)
    assert same(classic_round(ClassicHardened(classic_stock(name)), results), reference)


# Replies that are no node's own. ----------------------------------------------------------------


def test_duplicates_forged_ids_and_replies_of_unasked_nodes_change_nothing():
    reference = message_round(message_stock("FedMedian"), honest_contents())
    strategy = Hardened(message_stock("FedMedian"))
    bad = malformed.content(malformed.named([1e6 * a for a in malformed.honest_arrays(1)]))
    messages = asked(strategy, [1, 5, *HONEST])
    replies = replies_of(messages, honest_contents() | {1: bad})
    forged, stranger, lost = replies_of(messages, {1: bad, 5: bad, 10: Error(5, "gone")})
    forged.metadata.__dict__["_src_node_id"] = 10  # an honest node's
    stranger.metadata.__dict__["_reply_to_message_id"] = "never sent"
    stranger.metadata.__dict__["_src_node_id"] = 999
    lost.metadata.__dict__["_src_node_id"] = 1  # as the SuperLink does
    replies = [forged, stranger, lost, *replies, *replies_of(messages, {5: bad, 1: bad})]
    replies += replies_of(messages, {5: bad})
    arrays, metrics = strategy.aggregate_train(1, replies)
    assert same((arrays, own(metrics)), reference)
    assert metrics["byz-clients"] == 13
    assert metrics["byz-missing"] == 0


def test_classic_duplicates_and_unasked_clients_change_nothing():
    reference = classic_round(classic_stock("FedMedian"), honest_results())
    strategy = ClassicHardened(classic_stock("FedMedian"))
    begin(strategy, [1, *HONEST])
    bad = malformed.fit_res([1e6 * a for a in malformed.honest_arrays(1)])
    pairs = [(Proxy(cid), bad) for cid in ("1", "999", "1")]
    pairs += [(Proxy(str(cid)), result) for cid, result in honest_results().items()]
    parameters, metrics = strategy.aggregate_fit(1, pairs[::-1], [])
    assert same((parameters, own(metrics)), reference)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_arrival_changes_nothing(seed):
    reference = message_round(Hardened(message_stock("FedAvg")), honest_contents())
    strategy = Hardened(message_stock("FedAvg"))
    replies = replies_of(asked(strategy, HONEST), honest_contents())
    np.random.default_rng(seed).shuffle(replies)
    arrays, metrics = strategy.aggregate_train(1, replies)
    assert same((arrays, own(metrics)), reference)


def test_metrics_of_classic_results_count_only_where_the_strategy_aggregates_them():
    results = honest_results() | {
        12: malformed.fit_res(malformed.honest_arrays(12), metrics={"other": "x"})
    }
    for custom, rejected in ((mean_loss, 1), (None, 0)):
        strategy = ClassicHardened(classic_stock("FedAvg", custom))
        begin(strategy, results)
        pairs = [(Proxy(str(cid)), result) for cid, result in results.items()]
        assert strategy.aggregate_fit(1, pairs, [])[1]["byz-rejected"] == rejected


# Evaluation. ------------------------------------------------------------------------------------

OF_ARRAYS = {  # which evaluations do not look at
    *malformed.BAD_TENSORS,
    *("missing array", "extra array", "renamed array", "no arrays"),
    *("names swapped with a longer array", "unknown serialisation"),
}


def test_no_malformed_reply_changes_the_evaluation_of_the_others():
    kinds = {kind: bad for kind, bad in KINDS.items() if kind not in OF_ARRAYS}

    def evaluation(strategy, contents):
        malformed.in_a_run()
        arrays = malformed.named(SENT)
        grid = Grid(sorted(contents))
        sent = list(strategy.configure_evaluate(1, arrays, ConfigRecord(), grid))
        messages = {m.metadata.dst_node_id: m for m in sent}
        for node, msg in messages.items():
            msg.metadata.__dict__["_message_id"] = f"message {node}"
        return own(strategy.aggregate_evaluate(1, replies_of(messages, contents)))

    reference = evaluation(message_stock("FedAvg"), honest_contents())
    assert list(reference) == ["loss"]
    for kind, bad in kinds.items():
        hardened = Hardened(message_stock("FedAvg"))
        assert evaluation(hardened, honest_contents() | {1: bad}) == reference, kind
