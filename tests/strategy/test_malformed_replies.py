"""One malformed reply of every kind, and all of them together, among 100 honest ones."""

from copy import deepcopy
from functools import cache

import numpy as np
import pytest

from tests.support import malformed
from tests.support.apis import CLASSIC, MESSAGE, flat
from tests.support.malformed import FALSE, content, honest_arrays, model_arrays, named
from tests.support.server import APIS, a_reply, a_round

NUM_HONEST = 100
MALFORMED = {
    "classic": malformed.CLASSIC_MALFORMED,
    **dict.fromkeys(["message", "streamed"], malformed.MESSAGE_MALFORMED),
}
EVERY_API = pytest.mark.parametrize("api", APIS)


def beside_honest(api, extra, num_honest=NUM_HONEST, **options):
    replies = {c: a_reply(api, honest_arrays(c)) for c in range(num_honest)}
    replies |= dict(enumerate(deepcopy([*extra]), start=num_honest))  # streaming empties them
    arrays, metrics = a_round(api, model_arrays(), replies, **options)
    return flat(arrays), metrics


@cache
def alone(api):
    return beside_honest(api, [], num_batches=NUM_HONEST)[0].tobytes()


# k = m: every client is a batch of its own, so that honest batches are the same with and without
# the extra reply.
@pytest.mark.parametrize(("api", "kind"), [(api, kind) for api in APIS for kind in MALFORMED[api]])
def test_a_malformed_reply_counts_as_no_message(api, kind):
    model, metrics = beside_honest(api, [MALFORMED[api][kind]], num_batches=NUM_HONEST + 1)
    assert model.tobytes() == alone(api)
    assert (metrics["byz-rejected"], metrics["loss"]) == (1, 0.5)


@EVERY_API
def test_all_malformed_replies_together_count_as_no_messages(api):
    kinds, lost = MALFORMED[api].values(), api == "classic"
    failures = {"failures": [ValueError("raised")]} if lost else {}
    num_batches = NUM_HONEST + len(kinds) + lost
    model, metrics = beside_honest(api, kinds, num_batches=num_batches, **failures)
    assert model.tobytes() == alone(api)
    assert metrics["byz-rejected"] == len(kinds) + lost


@EVERY_API
@pytest.mark.parametrize("kind", malformed.CLASSIC_BAD_METRICS)
def test_metrics_of_another_make_are_left_out_of_the_metrics(api, kind):
    bad = (CLASSIC if api == "classic" else MESSAGE).kinds[kind]
    model, metrics = beside_honest(api, [bad], num_honest=9, num_byzantine=1)
    assert np.isfinite(model).all()
    assert metrics["loss"] == 0.5
    assert (metrics["byz-metrics-rejected"], metrics["byz-rejected"]) == (1, 0)


@EVERY_API
@pytest.mark.parametrize("kind", FALSE)
@pytest.mark.parametrize("trim_norm", [None, "auto"])
def test_a_false_reply_moves_the_model_no_further_than_lemma_1_allows(api, kind, trim_norm):
    options = {"num_batches": 101, "trim_norm": trim_norm}
    model, metrics = beside_honest(api, [a_reply(api, *FALSE[kind])], **options)
    honest = np.stack([flat(honest_arrays(c)) for c in range(NUM_HONEST + 1)]).astype("f8")
    centre, alpha = honest.mean(axis=0), 1 / 101
    radius = np.linalg.norm(honest - centre, axis=1).max()
    assert np.linalg.norm(model - centre) <= 2 * (1 - alpha) / (1 - 2 * alpha) * radius
    assert metrics["byz-rejected"] == 0
    assert metrics["byz-gap"] <= 1e-9


def test_everything_at_once_leaves_a_finite_model_near_the_honest_ones():
    false = [a_reply("message", arrays, n) for arrays, n in FALSE.values()]
    options = {"num_byzantine": len(false), "trim_norm": "auto"}
    model, metrics = beside_honest("message", [*MESSAGE.kinds.values(), *false], **options)
    assert np.abs(model - flat(model_arrays(1.0))).max() < 0.3
    assert metrics["byz-rejected"] == len(MALFORMED["message"])


@EVERY_API
def test_a_huge_claim_of_examples_weighs_nothing(api):
    claims = [[a_reply(api, honest_arrays(200), number)] for number in (10, 10**12)]
    fair, greedy = (beside_honest(api, claim, 9, num_byzantine=1)[0] for claim in claims)
    assert fair.tobytes() == greedy.tobytes()


@pytest.mark.parametrize("api", ["message", "streamed"])
def test_a_reply_whose_swapped_names_hide_swapped_layers_is_read_by_name(api):
    record = named(honest_arrays(1))
    swapped = type(record)({name: record[name] for name in ("b", "v", "w")})
    replies = [[content(swapped)], [content(record)]]
    model, expected = (beside_honest(api, extra, 5, num_byzantine=1)[0] for extra in replies)
    assert model.tobytes() == expected.tobytes()


def test_the_reasons_of_rejection_are_logged_in_bounded_size(caplog):
    beside_honest("message", [MALFORMED["message"]["an error"]] * 40, num_batches=140)
    assert len(caplog.text) < 20_000


@EVERY_API
def test_counters_of_another_dtype_are_rounded_and_malformed_where_they_do_not_fit(api):
    numbers = [2.6, 2.6, 2.6, 2.6, 2.6, np.nan, 1e30]
    replies = {c: [np.full(2, c, "f4"), np.array([n])] for c, n in enumerate(numbers)}
    sent = [np.zeros(2, "f4"), np.array([0], "i8")]
    model, metrics = a_round(api, sent, replies, num_batches=7)
    assert model[1].tolist() == [3]
    assert metrics["byz-rejected"] == 2
