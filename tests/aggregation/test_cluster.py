"""The sharded aggregation, on a real Ray cluster of three nodes on this machine."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from flwr_byz.aggregation import geometric_median_of_means

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    for _ in range(2):
        nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, log_to_driver=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


def vectors(num_clients=30, dim=200_000, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(num_clients, dim)).astype("f4")
    rows[:5] *= -20
    return rows


@pytest.mark.parametrize("trim_norm", [None, "auto"])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_three_nodes_agree_with_one_machine(cluster, trim_norm, offset):
    import ray

    from flwr_byz.cluster import geometric_median_of_means as sharded

    assert len([node for node in ray.nodes() if node["Alive"]]) == 3
    rows = vectors() + np.float32(offset)
    here = geometric_median_of_means(rows, 20, trim_norm=trim_norm)
    there = sharded(rows, 20, trim_norm=trim_norm)
    assert np.linalg.norm(there.point - here.point) <= 1e-6 * np.linalg.norm(here.point)
    assert np.allclose(there.batch_weights, here.batch_weights, atol=1e-9)
    assert np.allclose(there.batch_norms, here.batch_norms, rtol=1e-9)
    assert there.trimmed.tolist() == here.trimmed.tolist()
    assert there.gap <= 1e-9


def test_a_killed_worker_is_survived(cluster):
    from flwr_byz.cluster import geometric_median_of_means as sharded

    rows = vectors(num_clients=60, dim=500_000, seed=1)
    killed = []

    def kill_one_at_work():
        deadline = time.monotonic() + 60
        while not killed and time.monotonic() < deadline:
            for pid in workers_at("ray::_map_shard"):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                break

    killer = threading.Thread(target=kill_one_at_work)
    killer.start()
    there = sharded(rows, 60, num_shards=12)
    killer.join()
    here = geometric_median_of_means(rows, 60)
    assert killed
    assert np.linalg.norm(there.point - here.point) <= 1e-6 * np.linalg.norm(here.point)


def workers_at(task):
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if command.startswith(task.encode()):
                yield int(process.name)


def test_a_vector_that_is_not_finite_is_named(cluster):
    from flwr_byz.cluster import geometric_median_of_means as sharded

    rows = vectors(dim=1000)
    rows[7, 3] = np.nan
    with pytest.raises(ValueError, match=r"vectors\[7\]"):
        sharded(rows, 10)


def test_shards_of_no_number_are_refused(cluster):
    from flwr_byz.cluster import geometric_median_of_means as sharded

    with pytest.raises(ValueError, match="num_byzantine"):
        sharded(vectors(dim=100), 10, num_byzantine=5)
    with pytest.raises(ValueError, match="num_shards"):
        sharded(vectors(dim=100), 10, num_shards=0)
