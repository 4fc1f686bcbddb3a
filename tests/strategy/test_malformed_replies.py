"""What counts as no message: malformed, second, unasked and forged replies, and mere copies."""

from functools import partial
from itertools import cycle

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, RecordDict
from flwr.common import Code

from tests.support import apis, malformed
from tests.support.apis import CLASSIC, EVERY, HONEST, MESSAGE, SENT, STREAMED, exact, own

A = malformed.honest_arrays(0)
RECORD, GOOD = (MESSAGE.reply(A)[name] for name in ("arrays", "metrics"))
LOST = CLASSIC.reply(A)
LOST.status.code = Code.FIT_NOT_IMPLEMENTED


def forged(records):
    """Return a content past Flower's own checks."""
    made = RecordDict()
    made.__dict__["_data"].update(records)
    return made


KINDS = {  # which no rule takes
    CLASSIC: malformed.CLASSIC_MALFORMED
    | {"raised": ConnectionError("gone"), "not implemented": LOST, "silence": None},
    MESSAGE: malformed.MESSAGE_MALFORMED | {"silence": None},
}
FORMS = {  # which strategies of Flower's cannot take beside the others
    CLASSIC: {"metrics no mapping": CLASSIC.reply(A, [1.0])},
    MESSAGE: {
        "a record whose name is a number": forged({"arrays": RECORD, "metrics": GOOD, 7: GOOD}),
        "a name for its metrics that is a number": forged({"arrays": RECORD, 7: GOOD}),
        "another name of its metrics": forged({"arrays": RECORD, "other": GOOD}),
        "one more record": forged({"arrays": RECORD, "metrics": GOOD, "more": ConfigRecord()}),
    },
}
ODD_NAMES = ["", "a\nb", "a\0", "\x1b[2J", "é" * 500, "byz-gap", "arrays", "metrics", "\u202e", 7]
for made in (CLASSIC, MESSAGE):
    KINDS[made] |= {
        **{k: made.reply(A, num_examples=n) for k, n in malformed.BAD_NUM_EXAMPLES.items()},
        "missing array": made.reply(A[:-1]),
        "extra array": made.reply([*A, A[0]]),
    }
    FORMS[made] |= KINDS[made] | {
        **{kind: made.reply(A, claim) for kind, claim in malformed.BAD_METRICS.items()},
        "an extra metric": made.reply(A, {"loss": 0.5, "more": 1.0}),
        "a metric of another name": made.reply(A, {"los": 0.5}),
        "a metric beyond 64 bits": made.reply(A, {"loss": 10**308}),
        **{f"a metric {odd!r}": made.reply(A, {"loss": 0.5, odd: 1.0}) for odd in ODD_NAMES},
    }

KINDS[STREAMED] = KINDS[MESSAGE]
RULES = [(api, name) for api in FORMS for name in [*apis.NAMES, *api.others]]
RULES += [(api, "GMoM") for api in KINDS]


def rules(*names):
    chosen = [(api, name) for api, name in RULES if name in names or not names]
    return pytest.mark.parametrize(("api", "name"), chosen)


def rule(api, name, is_hardened=True, **options):
    """Return the median of clients' models, or a strategy of Flower's."""
    if name == "GMoM":
        return api.gmom(num_batches=200)
    return api.own.Hardened(api.stock(name, **options)) if is_hardened else api.stock(name)


def of_honest(api, name):
    outcome = exact(api.round(rule(api, name, is_hardened=False), api.honest()))
    assert outcome[0]
    return outcome


@rules("FedAvg", "GMoM")
def test_a_malformed_reply_counts_as_no_message(api, name, caplog):
    reference, kinds = of_honest(api, name), (KINDS if name == "GMoM" else FORMS)[api]
    for (kind, bad), client in zip(kinds.items(), cycle((1, 115)), strict=False):
        outcome = api.round(rule(api, name), api.honest() | {client: bad})
        assert exact(outcome) == reference, kind
        assert outcome[1]["byz-rejected"] + outcome[1]["byz-missing"] == 1
    lines = [message.strip("\t") for message in caplog.messages if "Rejected" in message]
    assert len(lines) == len(kinds) - 1  # without silence
    assert all(line.isprintable() and len(line) < 400 for line in lines)


@rules()
def test_many_malformed_replies_count_as_no_message_and_take_little_of_the_log(api, name, caplog):
    bad = (KINDS if name == "GMoM" else FORMS)[api].values()
    ids = [n for n in range(1, 200) if n not in HONEST][:: 180 // len(bad)]
    together = api.honest() | dict(zip(ids, bad, strict=False))
    assert len(together) == len(HONEST) + len(bad)
    options = {"accept_failures": False} if (api, name != "GMoM") == (CLASSIC, True) else {}
    assert exact(api.round(rule(api, name, **options), together)) == of_honest(api, name)
    assert len(caplog.text) < 20_000


OF_ARRAYS = {"missing array", "extra array", "renamed array", "no arrays", *malformed.BAD_TENSORS}
OF_ARRAYS |= {"names swapped with a longer array", "unknown serialisation"}


def test_no_malformed_reply_changes_the_evaluation_of_the_others():
    reference = MESSAGE.evaluation(MESSAGE.stock("FedAvg"), MESSAGE.honest())
    assert list(reference) == ["loss"]
    for kind in FORMS[MESSAGE].keys() - OF_ARRAYS:  # which evaluations do not look at
        contents = MESSAGE.honest() | {1: FORMS[MESSAGE][kind]}
        assert own(MESSAGE.evaluation(MESSAGE.hardened("FedAvg"), contents)) == reference, kind


def of_others(api, bad, asked):
    """Return replies of who answers twice, of a stranger, and in an honest client's name."""
    if api is CLASSIC:
        return [(apis.Proxy(cid), bad) for cid in ("1", "999", "1", "5", "5")]
    replies = api.replies(asked, {1: bad, 5: bad, 10: Error(5, "gone")})
    for reply, source in zip(replies, (10, 999, 1), strict=True):  # as the SuperLink does of errors
        reply.metadata.__dict__["_src_node_id"] = source
    replies[1].metadata.__dict__["_reply_to_message_id"] = "never sent"
    return replies + api.replies(asked, {5: bad, 1: bad}) + api.replies(asked, {5: bad})


@apis.BOTH
@pytest.mark.parametrize("name", ["FedMedian", "GMoM"])
def test_second_unasked_and_forged_replies_change_neither_model_nor_evaluation(api, name):
    twice, claims = {1: None, 5: None}, dict.fromkeys(HONEST, api.claim(0.5, accuracy=0.5))
    far = partial(of_others, api, api.reply([1e6 * a for a in A]))
    model = api.round(rule(api, name), api.honest() | twice, also=far)
    assert exact(model) == of_honest(api, name)
    false = partial(of_others, api, api.claim(1e9))
    metrics = api.evaluation(rule(api, name), claims | twice, also=false)
    assert own(metrics) == own(api.evaluation(rule(api, name), claims))
    for counts in (model[1], metrics):
        assert (counts["byz-clients"], counts["byz-missing"]) == (13, 0)


ODD = {
    **{d: lambda array, d=d: array.astype(d) for d in ("f2", "f8", "i8", ">f4")},
    "Fortran order": np.asfortranarray,
}
ODD_RECORDS = {
    "keys in another order": lambda record: reversed(record.items()),
    "claims of another dtype and shape": lambda record: [
        (name, Array("int8", (7,), a.stype, a.data)) for name, a in record.items()
    ],
}


@rules("FedAvg", "Krum", "GMoM")
@pytest.mark.parametrize("form", [*ODD, *ODD_RECORDS])
def test_a_reply_of_an_odd_form_counts_as_the_same_numbers_in_the_model_s(api, name, form):
    whole = [np.round(10 * array) for array in malformed.honest_arrays(60)]
    usual = api.honest() | {60: api.reply(whole)}
    odd = usual | {60: api.reply([*map(ODD.get(form, np.array), whole)])}
    if form in ODD_RECORDS and api is not CLASSIC:
        odd[60]["arrays"] = ArrayRecord(dict(ODD_RECORDS[form](odd[60]["arrays"])))
    assert exact(api.round(rule(api, name), odd)) == exact(api.round(rule(api, name), usual))


@EVERY
def test_counters_of_another_dtype_are_rounded_and_malformed_where_they_do_not_fit(api):
    """No client can move them, and they need no weights beside them."""
    numbers = [2.6, 2.6, 2.0**62, 2.0**62, np.nan, 1e30]
    for weights in ([], [np.zeros(2, "f4")]):
        arrays = [[np.array([n]), *(w + i for w in weights)] for i, n in enumerate(numbers)]
        model, metrics = api.step(arrays, [np.array([0]), *weights], num_batches=200)
        assert model[0].tolist() == [3]
        assert metrics["byz-rejected"] == 2


@rules("FedMedian", "GMoM")
def test_copies_are_refused_unless_they_are_the_model_that_was_sent(api, name, caplog):
    other = malformed.honest_arrays(3)
    copies = dict.fromkeys(HONEST, api.reply(other))
    assert api.round(rule(api, name), copies)[0] is None
    assert "all 11 replies are the same numbers" in caplog.text
    wider = copies | {10: api.reply([a.astype("f8") for a in other])}  # which is the same
    assert api.round(rule(api, name), wider)[0] is None
    assert api.round(rule(api, name), copies | {10: api.reply(SENT)})[0] is not None
    still = api.round(rule(api, name), dict.fromkeys(HONEST, api.reply(SENT)))
    assert exact(still)[0] == exact((SENT, {}))[0]


def test_copies_are_used_where_the_rule_is_the_mean():
    means = [
        MESSAGE.gmom(num_byzantine=0),
        MESSAGE.gmom(num_batches=1),
        STREAMED.gmom(num_batches=1),
    ]
    for strategy in [MESSAGE.hardened("FedAvg", num_byzantine=0), *means]:
        assert MESSAGE.round(strategy, dict.fromkeys(HONEST, MESSAGE.reply(A)))[0] is not None
