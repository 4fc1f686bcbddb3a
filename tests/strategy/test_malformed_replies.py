"""One malformed reply of every kind, and all of them together, among 100 honest ones."""

import numpy as np
import pytest

from tests.support import malformed
from tests.support.malformed import (
    CLASSIC_BAD_METRICS,
    CLASSIC_MALFORMED,
    FALSE,
    MESSAGE_BAD_METRICS,
    MESSAGE_MALFORMED,
    fit_res,
    honest_arrays,
    model_arrays,
)
from tests.support.server import as_content, classic_round, honest_content, message_round

NUM_HONEST = 100


def classic(extra, failures=(), **options):
    results = {c: fit_res(honest_arrays(c)) for c in range(NUM_HONEST)}
    results |= dict(enumerate(extra, start=NUM_HONEST))
    return classic_round(model_arrays(), results, failures, **options)


def message(extra, **options):
    contents = {c: honest_content(c) for c in range(1, NUM_HONEST + 1)}
    contents |= dict(enumerate(extra, start=NUM_HONEST + 1))
    return message_round(malformed.named(model_arrays()), contents, **options)


def flat(arrays):
    return np.concatenate([np.ravel(a).astype("f8") for a in arrays])


# k = m: every client is a batch of its own, so that honest batches are the same with and without
# the extra reply.
@pytest.mark.parametrize("kind", CLASSIC_MALFORMED)
def test_a_malformed_classic_reply_counts_as_no_message(kind):
    alone, _ = classic([], num_batches=100)
    model, metrics = classic([CLASSIC_MALFORMED[kind]], num_batches=101)
    assert [a.tobytes() for a in model] == [a.tobytes() for a in alone]
    assert metrics["byz-rejected"] == 1
    assert metrics["loss"] == 0.5


@pytest.mark.parametrize("kind", MESSAGE_MALFORMED)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_malformed_message_counts_as_no_message(kind, streaming):
    alone, _ = message([], num_batches=100, streaming=streaming)
    model, metrics = message([MESSAGE_MALFORMED[kind]], num_batches=101, streaming=streaming)
    assert [a.tobytes() for a in model] == [a.tobytes() for a in alone]
    assert metrics["byz-rejected"] == 1
    assert metrics["loss"] == 0.5


@pytest.mark.parametrize(
    ("play", "kinds", "lost"),
    [(classic, CLASSIC_MALFORMED, 1), (message, MESSAGE_MALFORMED, 0)],
    ids=["classic", "message"],
)
def test_all_malformed_replies_together_count_as_no_messages(play, kinds, lost):
    failures = {"failures": [ValueError("raised")]} if lost else {}
    alone, _ = play([], num_batches=100)
    model, metrics = play(
        list(kinds.values()), num_batches=NUM_HONEST + len(kinds) + lost, **failures
    )
    assert [a.tobytes() for a in model] == [a.tobytes() for a in alone]
    assert metrics["byz-rejected"] == len(kinds) + lost


@pytest.mark.parametrize("kind", CLASSIC_BAD_METRICS)
@pytest.mark.parametrize("api", ["classic", "message"])
def test_metrics_of_another_make_are_left_out_of_the_metrics(api, kind):
    if api == "classic":
        model, metrics = classic([CLASSIC_BAD_METRICS[kind]], num_byzantine=1)
    else:
        model, metrics = message([MESSAGE_BAD_METRICS[kind]], num_byzantine=1)
    assert np.isfinite(flat(model)).all()
    assert metrics["loss"] == 0.5
    assert metrics["byz-metrics-rejected"] == 1
    assert metrics["byz-rejected"] == 0


def test_a_metric_that_only_some_report_is_left_out():
    _, metrics = classic(
        [fit_res(honest_arrays(0), metrics={"loss": 0.5, "evil": 1e9})], num_byzantine=1
    )
    assert "evil" not in metrics
    assert metrics["loss"] == 0.5


@pytest.mark.parametrize("kind", FALSE)
@pytest.mark.parametrize("api", ["classic", "message"])
@pytest.mark.parametrize("trim_norm", [None, "auto"])
def test_a_well_formed_lie_moves_the_model_no_further_than_lemma_1_allows(api, kind, trim_norm):
    arrays, num_examples = FALSE[kind]
    options = {"num_batches": 101, "trim_norm": trim_norm}
    if api == "classic":
        model, metrics = classic([fit_res(arrays, num_examples)], **options)
    else:
        model, metrics = message([as_content(arrays, num_examples)], **options)
    honest = np.stack([flat(honest_arrays(c)) for c in range(NUM_HONEST + 1)])
    centre = honest.mean(axis=0)
    radius = np.linalg.norm(honest - centre, axis=1).max()
    alpha = 1 / 101
    assert np.linalg.norm(flat(model) - centre) <= 2 * (1 - alpha) / (1 - 2 * alpha) * radius
    assert metrics["byz-rejected"] == 0
    assert metrics["byz-gap"] <= 1e-9


def test_everything_at_once_leaves_a_finite_model_near_the_honest_ones():
    lies = [as_content(arrays, n) for arrays, n in FALSE.values()]
    extra = [*MESSAGE_MALFORMED.values(), *MESSAGE_BAD_METRICS.values(), *lies]
    model, metrics = message(extra, num_byzantine=len(lies), trim_norm="auto")
    assert np.abs(flat(model) - flat(model_arrays(1.0))).max() < 0.3
    assert metrics["byz-rejected"] == len(MESSAGE_MALFORMED)


def test_a_huge_claim_of_examples_weighs_nothing():
    fair, _ = classic([fit_res(honest_arrays(200), 10)], num_byzantine=1)
    greedy, _ = classic([fit_res(honest_arrays(200), 10**12)], num_byzantine=1)
    assert [a.tobytes() for a in fair] == [a.tobytes() for a in greedy]


def test_a_reply_whose_swapped_names_hide_swapped_layers_is_read_by_name():
    record = malformed.named(honest_arrays(1))
    swapped = malformed.ArrayRecord({name: record[name] for name in ("b", "v", "w")})
    plain = {c: honest_content(c) for c in range(1, 6)}
    expected, _ = message_round(malformed.named(model_arrays()), plain, num_byzantine=1)
    plain[1] = malformed.content(swapped)
    model, _ = message_round(malformed.named(model_arrays()), plain, num_byzantine=1)
    assert [a.tobytes() for a in model] == [a.tobytes() for a in expected]


def test_the_reasons_of_rejection_are_logged_in_bounded_size(caplog):
    message([MESSAGE_MALFORMED["an error"]] * 40, num_batches=140)
    assert len(caplog.text) < 20_000
