"""The sharded aggregation, on a real Ray cluster of three nodes on this machine."""

import os
import signal
import threading

import numpy as np
import pytest

from flwr_byz.aggregation import geometric_median_of_means

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sharded():
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    from flwr_byz import cluster

    head = {"num_cpus": 1, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, log_to_driver=False)
    assert len([node for node in ray.nodes() if node["Alive"]]) == 3
    yield cluster.geometric_median_of_means
    ray.shutdown()
    nodes.shutdown()


def vectors(num_clients=30, dim=200_000):
    rows = np.random.default_rng(0).normal(size=(num_clients, dim)).astype("f4")
    rows[:5] *= -20
    return rows


def assert_same(there, here):
    assert np.linalg.norm(there.point - here.point) <= 1e-6 * np.linalg.norm(here.point)
    assert np.allclose(there.batch_weights, here.batch_weights, atol=1e-9)
    assert np.allclose(there.batch_norms, here.batch_norms, rtol=1e-9)
    assert there.trimmed.tolist() == here.trimmed.tolist()
    assert there.gap <= 1e-9


@pytest.mark.parametrize("trim_norm", [None, "auto"])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_three_nodes_agree_with_one_machine(sharded, trim_norm, offset):
    rows = vectors() + np.float32(offset)
    here = geometric_median_of_means(rows, 20, trim_norm=trim_norm)
    assert_same(sharded(rows, 20, trim_norm=trim_norm), here)


def test_a_killed_worker_is_survived(sharded):
    import psutil

    rows, killed, done = vectors(60, 500_000), [], threading.Event()

    def kill_one_at_work():
        while not killed and not done.is_set():
            for process in psutil.process_iter(["cmdline"]):
                if (process.info["cmdline"] or [""])[0].startswith("ray::_map_shard"):
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                    break

    killer = threading.Thread(target=kill_one_at_work)
    killer.start()
    there = sharded(rows, 60, num_shards=12)
    done.set()
    killer.join()
    assert killed
    assert_same(there, geometric_median_of_means(rows, 60))


def test_vectors_that_are_not_finite_and_wrong_numbers_are_named(sharded):
    rows = vectors(dim=1000)
    for name, wrong in (("num_byzantine", 5), ("num_shards", 0)):
        with pytest.raises(ValueError, match=name):
            sharded(rows, 10, **{name: wrong})
    rows[7, 3] = np.nan
    with pytest.raises(ValueError, match=r"vectors\[7\]"):
        sharded(rows, 10)
