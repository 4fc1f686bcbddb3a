"""Replies that are added up as they arrive: the same model, and no more than k vectors held."""

import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

from tests.support import malformed
from tests.support.answering_grid import train
from tests.support.apis import CLASSIC, MESSAGE, flat
from tests.support.server import Proxy, a_round

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


# Memory, which is measured in processes of their own. -------------------------------------------


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def peak_of(call):
    """Return the bytes by which a call raises the process's memory, and its result."""
    before, peak, done = resident(), [0], threading.Event()

    def watch():
        while not done.is_set():
            peak[0] = max(peak[0], resident())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    result = call()
    done.set()
    watcher.join()
    return max(peak[0], resident()) - before, result


def used_vectors(how, m, d, k):
    """Return by how many vectors of d float32 a round of m clients raises the memory."""
    numbers = np.random.default_rng(0).standard_normal(d + m, dtype=np.float32)
    if how == "streamed":
        strategy = MESSAGE.gmom(num_batches=k, streaming=True)
        sent = MESSAGE.begin(strategy, range(m), [np.zeros(d, np.float32)])
        header = Array(numbers[:d]).data[: -4 * d]

        def arriving():
            for client, message in sent.items():
                data = b"".join((header, numbers[client : client + d].data))
                arrays = ArrayRecord({"w": Array("float32", (d,), "numpy.ndarray", data)})
                del data
                metrics = MetricRecord({"num-examples": 5, "loss": 0.5})
                content = RecordDict({"arrays": arrays, "metrics": metrics})
                yield malformed.reply_to(message, content)

        used, (made, metrics) = peak_of(lambda: strategy.aggregate_train(1, arriving()))
    else:
        vectors = [numbers[client : client + d] for client in range(m)]
        for client in range(0, k // 3 * (m // k) if how == "attacked" else 0, m // k):
            vectors[client] = np.full(d, 1e38, np.float32)
            vectors[client][::2] *= -1
            vectors[client][-1] = np.nan if client == 0 else 0.0
        results = [(Proxy(str(c)), CLASSIC.reply([v])) for c, v in enumerate(vectors)]
        strategy = CLASSIC.gmom(num_batches=k)
        used, (made, metrics) = peak_of(lambda: strategy.aggregate_fit(1, results, []))
    assert made is not None
    assert metrics["byz-clients"] == m
    assert metrics["byz-gap"] <= 1e-9
    return used / (4 * d)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "m", "d", "k", "most"),
    [
        ("held", 60, 2_000_000, 60, 63),
        ("attacked", 60, 2_000_000, 20, 23),
        ("streamed", 1_500, 1_000_000, 10, 14 + 1_500 * 2048 / 4e6),  # and two kilobytes a client
    ],
)
def test_a_round_takes_no_more_memory_than_k_vectors_and_a_few(how, m, d, k, most, monkeypatch):
    monkeypatch.setenv("FLWR_BYZ_NUM_THREADS", "2")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        assert fresh.submit(used_vectors, how, m, d, k).result() <= most
