"""Replies that are added up as they arrive: the same model, and no more than k vectors held."""

import os
import subprocess
import sys

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.client import ClientApp
from flwr.server import ServerApp
from flwr.simulation import run_simulation

from clients.app import message_client_app
from clients.byzantine import Adversary
from clients.experiments import ATTACKS, EXPERIMENTS
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans
from simulations.play import BACKEND
from tests.support import malformed
from tests.support.server import as_content, message_round


def contents(num_clients, seed=0):
    rng = np.random.default_rng(seed)
    return {
        node: as_content([a + 0.1 * rng.normal(size=a.shape).astype("f4") for a in arrays()], 5)
        for node in range(1, num_clients + 1)
    }


def arrays():
    return malformed.model_arrays(1.0)


def flat(model):
    return np.concatenate([np.ravel(a) for a in model])


@pytest.mark.parametrize("reply", ["weights", "gradients"])
@pytest.mark.parametrize("rate", [1.0, 0.5])
@pytest.mark.parametrize("options", [{"num_batches": 20}, {"num_byzantine": 6}, {"num_batches": 1}])
def test_the_model_is_the_same_up_to_the_last_rounding(reply, rate, options):
    options = options | {"reply": reply, "server_learning_rate": rate, "trim_norm": "auto"}
    sent = malformed.named(arrays())
    held, held_metrics = message_round(sent, contents(100), **options)
    model, metrics = message_round(sent, contents(100), shuffle=1, streaming=True, **options)
    assert np.abs(flat(model) - flat(held)).max() <= 4 * np.spacing(np.float32(1.0))
    assert metrics == pytest.approx(held_metrics, rel=1e-4, abs=1e-8)
    assert metrics["byz-batches"] == held_metrics["byz-batches"]


def test_counters_are_the_median_over_one_reply_a_batch_whatever_the_order():
    def reply(node):
        return as_content([np.full(3, node, "f4"), np.array(node * 10, "i8")], 5)

    sent = malformed.named([np.zeros(3, "f4"), np.array(0, "i8")])
    counters = {
        int(
            message_round(
                sent, {n: reply(n) for n in range(1, 10)}, shuffle, num_batches=3, streaming=True
            )[0][1]
        )
        for shuffle in range(5)
    }
    assert counters == {40}


def test_only_the_first_of_two_replies_of_a_client_counts():
    malformed.in_a_run()
    strategy = GeometricMedianOfMeans(
        num_batches=3, streaming=True, min_available_nodes=1, min_train_nodes=1
    )
    once = play(strategy, contents(6), repeated=[])
    twice = play(strategy, contents(6), repeated=[0, 0, 4])
    assert flat(twice[0]).tobytes() == flat(once[0]).tobytes()
    assert twice[1]["byz-rejected"] == 3


@pytest.mark.parametrize("extra", ["a second reply", "a stranger's", "malformed"])
def test_only_a_client_of_which_nothing_is_accepted_shows_that_it_is_byzantine(extra):
    """Of 5 clients with q = 2, 4 batches are too few, 3 and a client that has shown itself not."""
    malformed.in_a_run()
    strategy = GeometricMedianOfMeans(
        num_byzantine=2, streaming=True, min_available_nodes=1, min_train_nodes=1
    )
    made = contents(5)
    if extra == "malformed":
        made[2] = as_content([a * np.float32("nan") for a in arrays()], 5)
    repeated = [0, 0] if extra == "a second reply" else []
    stranger = 77 if extra == "a stranger's" else None
    model, metrics = play(strategy, made, repeated, num_silent=1, stranger=stranger)
    assert metrics["byz-missing"] == 1
    assert metrics["byz-rejected"] == {"a second reply": 2}.get(extra, 1)
    assert (model is not None) == (extra == "malformed")


def play(strategy, made, repeated, num_silent=0, stranger=None):
    class Nodes:
        def get_node_ids(self):
            return list(made)

    sent = strategy.configure_train(1, malformed.named(arrays()), ConfigRecord(), Nodes())
    for number, message in enumerate(sent):
        message.metadata.__dict__["_message_id"] = f"message {number}"
    replies = [malformed.reply_to(m, made[m.metadata.dst_node_id]) for m in sent]
    replies.sort(key=lambda m: m.metadata.src_node_id)
    replies = replies[: len(replies) - num_silent] + [replies[i] for i in repeated]
    if stranger is not None:
        unasked = Message(RecordDict(), dst_node_id=stranger, message_type="train")
        replies.append(malformed.reply_to(unasked, made[1]))
    model, metrics = strategy.aggregate_train(1, iter(replies))
    return None if model is None else model.to_numpy_ndarrays(), dict(metrics)


def test_streaming_needs_batches_that_are_known_beforehand():
    with pytest.raises(ValueError, match="group_by_key"):
        GeometricMedianOfMeans(num_batches=3, streaming=True, group_by_key="partition-id")


@pytest.mark.slow
def test_a_simulation_that_streams_ends_where_one_that_holds_replies_does():
    experiment = EXPERIMENTS["linear-regression"]
    problem = experiment.problem(12, 0)
    adversary = Adversary.spread(ATTACKS["sign-flip"](), 12, 2)
    app: ClientApp = message_client_app(problem, adversary)
    finals = []
    server_app = ServerApp()

    @server_app.main()
    def main(grid, context):
        for streaming in (False, True):
            strategy = GeometricMedianOfMeans(
                num_batches=12,  # node ids differ between runs; of one client, batches do not
                reply="gradients",
                server_learning_rate=experiment.server_learning_rate,
                streaming=streaming,
                min_train_nodes=12,
                min_available_nodes=12,
                fraction_evaluate=0.0,
            )
            initial = ArrayRecord(problem.initial_arrays())
            result = strategy.start(grid, initial, num_rounds=3, timeout=60)
            finals.append(flat(result.arrays.to_numpy_ndarrays()))
            assert len(result.train_metrics_clientapp) == 3
            assert all(m["byz-missing"] == 0 for m in result.train_metrics_clientapp.values())

    run_simulation(server_app=server_app, client_app=app, num_supernodes=12, backend_config=BACKEND)
    held, streamed = finals
    assert np.allclose(streamed, held, rtol=1e-6, atol=1e-7)


MEMORY = """
import logging, sys, threading, time
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from tests.support import malformed
from tests.support.server import Grid, Proxy
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans as MessageStrategy
from flwr_byz.server.strategy import GeometricMedianOfMeans as ClassicStrategy
logging.getLogger("flwr").setLevel(logging.ERROR)

how, m, d, k = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
rng = np.random.default_rng(0)
numbers = rng.standard_normal(d + m, dtype=np.float32)

def vector(client):
    return numbers[client : client + d]

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def peak_of(call):
    peak, done = [resident()], threading.Event()
    def watch():
        while not done.is_set():
            peak[0] = max(peak[0], resident())
            time.sleep(0.001)
    watcher = threading.Thread(target=watch, daemon=True)
    before = resident()
    watcher.start()
    result = call()
    done.set()
    watcher.join()
    return (max(peak[0], resident()) - before) / (4 * d), result

options = dict(min_available_nodes=1, min_train_nodes=1)
if how == "streamed":
    malformed.in_a_run()
    strategy = MessageStrategy(num_batches=k, streaming=True, **options)
    model = ArrayRecord({"0": Array(np.zeros(d, np.float32))})
    sent = strategy.configure_train(1, model, ConfigRecord(), Grid(range(1, m + 1)))
    for number, message in enumerate(sent):
        message.metadata.__dict__["_message_id"] = f"message {number}"
    header = model["0"].data[: -4 * d]
    def replies():
        for client, message in enumerate(sent):
            data = b"".join((header, vector(client).data))
            arrays = ArrayRecord({"0": Array("float32", (d,), "numpy.ndarray", data)})
            del data
            metrics = MetricRecord({"num-examples": 5, "loss": 0.5})
            yield malformed.reply_to(message, RecordDict({"arrays": arrays, "metrics": metrics}))
    used, (arrays, metrics) = peak_of(lambda: strategy.aggregate_train(1, replies()))
else:
    from flwr.common import ndarrays_to_parameters
    results = [
        (Proxy(str(c)), malformed.fit_res([vector(c)], metrics={"loss": 0.5})) for c in range(m)
    ]
    if how == "attacked":
        for c in range(k // 3):
            forged = np.full(d, 1e38, np.float32)
            forged[::2] *= -1
            if c == 0:
                forged[-1] = np.nan
            results[c * (m // k)] = (Proxy(str(c * (m // k))), malformed.fit_res([forged]))
    strategy = ClassicStrategy(num_batches=k, min_fit_clients=1, min_available_clients=1)
    used, (arrays, metrics) = peak_of(lambda: strategy.aggregate_fit(1, results, []))
assert arrays is not None and metrics["byz-clients"] == m and metrics["byz-gap"] <= 1e-9
print(used)
"""


def extra_vectors(how, m, d, k):
    """Measure in a fresh process by how many vectors of d float32 a call raises its memory."""
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, how, str(m), str(d), str(k)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"FLWR_BYZ_NUM_THREADS": "2"},
    )
    assert run.returncode == 0, run.stderr
    return float(run.stdout)


@pytest.mark.slow
@pytest.mark.parametrize(("m", "k"), [(60, 20), (60, 60), (50, 10)])
@pytest.mark.parametrize("how", ["held", "attacked"])
def test_a_call_takes_no_more_than_k_plus_three_vectors(how, m, k):
    assert extra_vectors(how, m, 2_000_000, k) <= k + 3


@pytest.mark.slow
def test_ten_thousand_clients_take_k_plus_four_vectors_and_two_kilobytes_each():
    m, d, k = 10_000, 1_000_000, 10
    assert extra_vectors("streamed", m, d, k) <= k + 4 + m * 2048 / (4 * d)
