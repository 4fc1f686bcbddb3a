"""Replies that are added up as they arrive: the same model, and no more than k vectors held."""

import tracemalloc

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

from flwr_byz.payload import arrays_layout, to_arrays
from flwr_byz.serverapp.strategy import AsyncGeometricMedianOfMeans
from tests.support.answering_grid import LateGrid
from tests.support.apis import CLASSIC, MESSAGE, STREAMED, flat
from tests.support.malformed import honest_arrays, model_arrays

MODEL = model_arrays(1.0)
ARRAYS = [honest_arrays(client) for client in range(40)]


@pytest.mark.parametrize("reply", ["weights", "gradients"])
@pytest.mark.parametrize("rate", [1.0, 0.5])
@pytest.mark.parametrize("options", [{"num_batches": 20}, {"num_byzantine": 6}, {"num_batches": 1}])
def test_the_model_is_the_same_up_to_the_last_rounding(reply, rate, options):
    options = options | {"reply": reply, "server_learning_rate": rate, "trim_norm": "auto"}
    held, held_metrics = MESSAGE.step(ARRAYS, MODEL, **options)
    model, metrics = STREAMED.step(ARRAYS, MODEL, shuffle=1, **options)
    assert np.abs(flat(model) - flat(held)).max() <= 4 * np.spacing(np.float32(1.0))
    assert metrics == pytest.approx(held_metrics, rel=1e-4, abs=1e-8)
    assert metrics["byz-batches"] == held_metrics["byz-batches"]


def test_counters_are_the_median_over_one_reply_a_batch_whatever_the_order():
    sent, *counts = ([np.full(3, n, "f4"), np.array(n * 10, "i8")] for n in range(10))
    rounds = [STREAMED.step(counts, sent, shuffle, num_batches=3)[0] for shuffle in range(5)]
    assert {int(counter) for _, counter in rounds} == {40}


CONTENTS = {node: MESSAGE.reply(ARRAYS[node]) for node in range(1, 7)}
FAR, NAN = (MESSAGE.reply([a * np.float32(x) for a in MODEL]) for x in (100.0, np.nan))


def streamed(contents, more, **options):
    model, metrics = STREAMED.round(STREAMED.gmom(**options), contents, MODEL, also=more)
    return model and flat(model).tobytes(), metrics


def again(*nodes):
    return lambda asked: [r for node in nodes for r in MESSAGE.replies(asked, {node: FAR})]


def of_a_stranger(asked):
    (reply,) = again(1)(asked)
    reply.metadata.__dict__.update(_reply_to_message_id="never sent", _src_node_id=77)
    return [reply]


def test_only_the_first_of_two_replies_of_a_client_counts():
    once, _ = streamed(CONTENTS, again(), num_batches=3)
    twice, metrics = streamed(CONTENTS, again(1, 1, 5), num_batches=3)
    assert twice == once
    assert metrics["byz-rejected"] == 3


@pytest.mark.parametrize(
    ("more", "bad", "number"),
    [(again(1, 1), {}, 2), (of_a_stranger, {}, 1), (again(), {2: NAN}, 1)],
)
def test_only_a_client_of_which_nothing_is_accepted_shows_that_it_is_byzantine(more, bad, number):
    """Of 5 clients with q = 2, 4 batches are too few, 3 and a client that has shown itself not."""
    contents = {node: CONTENTS[node] for node in range(1, 5)} | {5: None} | bad
    model, metrics = streamed(contents, more, num_byzantine=2)
    assert (metrics["byz-missing"], metrics["byz-rejected"]) == (1, number)
    assert (model is not None) == bool(bad)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("api", "m", "k", "most"),
    [(CLASSIC, 60, 60, 4), (CLASSIC, 60, 20, 23), (STREAMED, 300, 10, 14)],  # the first keeps none
)
def test_a_round_takes_no_more_memory_than_k_vectors_and_a_few(api, m, k, most, monkeypatch):
    monkeypatch.setenv("FLWR_BYZ_NUM_THREADS", "2")
    d, num_bad = 2_000_000, 6 if k == 20 else 0
    numbers = np.random.default_rng(0).standard_normal(d + m, dtype="f4")
    vectors = [numbers[client : client + d] for client in range(m)]
    for client in range(0, 3 * num_bad, 3):  # one in a batch, whose sum is formed with care
        vectors[client] = np.tile(np.array([-1e38, 1e38], "f4"), d // 2)
        vectors[client][-1] = np.nan if client == 0 else 0.0
    strategy = api.gmom(num_batches=k)
    asked = api.begin(strategy, range(m), [np.zeros(d, "f4")])
    arriving = (r for c in range(m) for r in api.replies(asked, {c: api.reply([vectors[c]])}))
    replies = arriving if api is STREAMED else list(arriving)
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


@pytest.mark.slow
@pytest.mark.parametrize("reply", ["weights", "gradients"])
def test_a_training_in_steps_holds_k_models_and_four_at_most(tmp_path, monkeypatch, reply):
    """All that `start` holds counts, also of a training that goes on after a restart.

    Of 24 nodes in 8 batches, a third reply three steps late and a twelfth never does.
    """
    monkeypatch.setenv("FLWR_BYZ_NUM_THREADS", "2")
    m, k, d = 24, 8, 2_000_000
    numbers = np.random.default_rng(0).standard_normal(d + m, dtype="f4")
    layout = arrays_layout(ArrayRecord({"a": Array(numbers[:d])}))

    def model(node, step=0):
        return to_arrays(layout.model([numbers[node : node + d]], []))

    def train(num_steps):
        grid = LateGrid(m, model, lambda node: 3 * (node % 3 == 0) + 99 * (node > 21))
        strategy = AsyncGeometricMedianOfMeans(
            num_byzantine=2,
            num_batches=k,
            quorum=5,
            reply=reply,
            checkpoints=tmp_path / "checkpoints",
            audit=tmp_path / "audit.jsonl",
        )
        tracemalloc.start()
        try:
            result = strategy.start(grid, model(0), num_steps)
            return result.train_metrics_clientapp, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    for num_steps in (6, 9):
        metrics, used = train(num_steps)
        assert used <= (k + 4) * 4 * d + (2 << 20)  # and modules that are imported meanwhile
        assert set(metrics) == set(range(1, num_steps + 1))
        assert max(of_step["byz-staleness"] for of_step in metrics.values()) >= 3
        assert {of_step["byz-rejected"] for of_step in metrics.values()} == {0}
