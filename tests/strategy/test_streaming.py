"""Replies that are added up as they arrive: the same model, and no more than k vectors held."""

import tracemalloc
from copy import deepcopy

import numpy as np
import pytest

from tests.support import malformed
from tests.support.answering_grid import train
from tests.support.apis import CLASSIC, MESSAGE, flat
from tests.support.server import a_round

MODEL = malformed.model_arrays(1.0)


def replies(num_clients):
    return {node: malformed.honest_arrays(node) for node in range(1, num_clients + 1)}


@pytest.mark.parametrize("reply", ["weights", "gradients"])
@pytest.mark.parametrize("rate", [1.0, 0.5])
@pytest.mark.parametrize("options", [{"num_batches": 20}, {"num_byzantine": 6}, {"num_batches": 1}])
def test_the_model_is_the_same_up_to_the_last_rounding(reply, rate, options):
    options = options | {"reply": reply, "server_learning_rate": rate, "trim_norm": "auto"}
    held, held_metrics = a_round("message", MODEL, replies(40), **options)
    model, metrics = a_round("streamed", MODEL, replies(40), shuffle=1, **options)
    assert np.abs(flat(model) - flat(held)).max() <= 4 * np.spacing(np.float32(1.0))
    assert metrics == pytest.approx(held_metrics, rel=1e-4, abs=1e-8)
    assert metrics["byz-batches"] == held_metrics["byz-batches"]


def test_a_training_that_streams_ends_where_one_that_holds_replies_does(tmp_path):
    ways = (False, True)
    held, streamed = (train(tmp_path / str(way), 3, streaming=way) for way in ways)
    assert np.allclose(flat(streamed.arrays), flat(held.arrays), rtol=1e-6, atol=1e-7)
    assert streamed.asked == held.asked


def test_counters_are_the_median_over_one_reply_a_batch_whatever_the_order():
    counts = {n: [np.full(3, n, "f4"), np.array(n * 10, "i8")] for n in range(1, 10)}
    sent = [np.zeros(3, "f4"), np.array(0, "i8")]
    rounds = [a_round("streamed", sent, counts, shuffle=s, num_batches=3)[0] for s in range(5)]
    assert {int(counter) for _, counter in rounds} == {40}


def streamed(made, repeated=(), num_silent=0, stranger=False, **options):
    """A round in which some replies come again, the last do not come, or a stranger's comes."""
    strategy = MESSAGE.gmom(streaming=True, **options)
    asked = MESSAGE.begin(strategy, made, MODEL)
    contents = {node: MESSAGE.reply(arrays) for node, arrays in made.items()}
    came = MESSAGE.replies(asked, dict([*contents.items()][: len(made) - num_silent]))
    came += [deepcopy(came[i]) for i in repeated]
    if stranger:
        came.append(deepcopy(came[0]))
        came[-1].metadata.__dict__.update(_reply_to_message_id="never sent", _src_node_id=77)
    model, metrics = MESSAGE.end(strategy, iter(came))
    return model and flat(model), metrics


def test_only_the_first_of_two_replies_of_a_client_counts():
    once, _ = streamed(replies(6), num_batches=3)
    twice, metrics = streamed(replies(6), repeated=[0, 0, 4], num_batches=3)
    assert twice.tobytes() == once.tobytes()
    assert metrics["byz-rejected"] == 3


@pytest.mark.parametrize("extra", ["a second reply", "a stranger's", "malformed"])
def test_only_a_client_of_which_nothing_is_accepted_shows_that_it_is_byzantine(extra):
    """Of 5 clients with q = 2, 4 batches are too few, 3 and a client that has shown itself not."""
    made = replies(5)
    if extra == "malformed":
        made[2] = [a * np.float32("nan") for a in MODEL]
    repeated, stranger = [0, 0] * (extra == "a second reply"), extra == "a stranger's"
    model, metrics = streamed(made, repeated, 1, stranger, num_byzantine=2)
    assert metrics["byz-missing"] == 1
    assert metrics["byz-rejected"] == {"a second reply": 2}.get(extra, 1)
    assert (model is not None) == (extra == "malformed")


# Memory. ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("api", "m", "k", "most"),
    [(CLASSIC, 60, 60, 4), (CLASSIC, 60, 20, 23), (MESSAGE, 300, 10, 14)],  # the first stores none
)
def test_a_round_takes_no_more_memory_than_k_vectors_and_a_few(api, m, k, most, monkeypatch):
    monkeypatch.setenv("FLWR_BYZ_NUM_THREADS", "2")
    d, num_bad = 2_000_000, 6 if k == 20 else 0
    numbers = np.random.default_rng(0).standard_normal(d + m, dtype="f4")
    vectors = [numbers[client : client + d] for client in range(m)]
    for client in range(0, 3 * num_bad, 3):  # one in a batch, whose sum is formed with care
        vectors[client] = np.tile(np.array([-1e38, 1e38], "f4"), d // 2)
        vectors[client][-1] = np.nan if client == 0 else 0.0
    strategy = api.gmom(num_batches=k, **{"streaming": True} if api is MESSAGE else {})
    asked = api.begin(strategy, range(m), [np.zeros(d, "f4")])
    arriving = (r for c in range(m) for r in api.replies(asked, {c: api.reply([vectors[c]])}))
    replies = arriving if api is MESSAGE else list(arriving)
    tracemalloc.start()
    try:
        model, metrics = api.end(strategy, replies)
        used = tracemalloc.get_traced_memory()[1] / (4 * d)
    finally:
        tracemalloc.stop()
    assert model is not None
    assert (metrics["byz-clients"], metrics["byz-rejected"]) == (m, num_bad > 0)
    assert metrics["byz-gap"] <= 1e-9
    assert used <= most
