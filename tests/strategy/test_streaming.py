"""Replies that are added up as they arrive: the same model, and no more than k vectors held."""

import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from flwr_byz.server.strategy import GeometricMedianOfMeans as ClassicStrategy
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans
from tests.support import malformed
from tests.support.answering_grid import train
from tests.support.server import Grid, Proxy, a_round, as_content, pushed

LEAST = {"min_available_nodes": 1, "min_train_nodes": 1}
MODEL = malformed.model_arrays(1.0)


def replies(num_clients):
    rng = np.random.default_rng(0)
    return {
        node: [a + 0.1 * rng.normal(size=a.shape).astype("f4") for a in MODEL]
        for node in range(1, num_clients + 1)
    }


def flat(model):
    return np.concatenate([np.ravel(a) for a in model])


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
    held, streamed = (
        train(tmp_path / str(streaming), 3, streaming=streaming) for streaming in (False, True)
    )
    assert np.allclose(flat(streamed.arrays), flat(held.arrays), rtol=1e-6, atol=1e-7)
    assert streamed.asked == held.asked


def test_counters_are_the_median_over_one_reply_a_batch_whatever_the_order():
    counts = {n: [np.full(3, n, "f4"), np.array(n * 10, "i8")] for n in range(1, 10)}
    sent = [np.zeros(3, "f4"), np.array(0, "i8")]
    rounds = [a_round("streamed", sent, counts, shuffle=s, num_batches=3)[0] for s in range(5)]
    assert {int(counter) for _, counter in rounds} == {40}


def streamed(made, repeated=(), num_silent=0, stranger=None, **options):
    """A round in which some replies come again, the last do not come, or a stranger's comes."""
    malformed.in_a_run()
    strategy = GeometricMedianOfMeans(streaming=True, **LEAST, **options)
    sent = strategy.configure_train(1, malformed.named(MODEL), ConfigRecord(), Grid(list(made)))
    came = [malformed.reply_to(m, as_content(made[m.metadata.dst_node_id])) for m in pushed(sent)]
    came.sort(key=lambda m: m.metadata.src_node_id)
    came = came[: len(came) - num_silent] + [deepcopy(came[i]) for i in repeated]
    if stranger is not None:
        unasked = Message(RecordDict(), dst_node_id=stranger, message_type="train")
        came.append(malformed.reply_to(unasked, as_content(made[1])))
    model, metrics = strategy.aggregate_train(1, iter(came))
    return None if model is None else flat(model.to_numpy_ndarrays()), dict(metrics)


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
    repeated = [0, 0] if extra == "a second reply" else []
    stranger = 77 if extra == "a stranger's" else None
    model, metrics = streamed(made, repeated, num_silent=1, stranger=stranger, num_byzantine=2)
    assert metrics["byz-missing"] == 1
    assert metrics["byz-rejected"] == {"a second reply": 2}.get(extra, 1)
    assert (model is not None) == (extra == "malformed")


def test_streaming_needs_batches_that_are_known_beforehand():
    with pytest.raises(ValueError, match="group_by_key"):
        GeometricMedianOfMeans(num_batches=3, streaming=True, group_by_key="partition-id")


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
        malformed.in_a_run()
        strategy = GeometricMedianOfMeans(num_batches=k, streaming=True, **LEAST)
        model = ArrayRecord({"0": Array(np.zeros(d, np.float32))})
        nodes = Grid(range(1, m + 1))
        sent = pushed(strategy.configure_train(1, model, ConfigRecord(), nodes))
        header = model["0"].data[: -4 * d]

        def arriving():
            for client, message in enumerate(sent):
                data = b"".join((header, numbers[client : client + d].data))
                arrays = ArrayRecord({"0": Array("float32", (d,), "numpy.ndarray", data)})
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
        results = [(Proxy(str(c)), malformed.fit_res([v])) for c, v in enumerate(vectors)]
        strategy = ClassicStrategy(num_batches=k, min_fit_clients=1, min_available_clients=1)
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
