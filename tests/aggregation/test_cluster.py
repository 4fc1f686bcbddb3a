"""The sharded aggregation, on a real Ray cluster of three nodes on this machine."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import product

import numpy as np
import pytest

from flwr_byz.aggregation import (
    AdaptiveClipping,
    GeometricMedian,
    NearestNeighborMixing,
    SpectralFilter,
    geometric_median_of_means,
    robust_mean,
)


@pytest.fixture
def three_nodes():
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    nodes = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(2):
            nodes.add_node(num_cpus=1)
        ray.init(address=nodes.address, log_to_driver=False)
        assert len([node for node in ray.nodes() if node["Alive"]]) == 3
        yield
    finally:
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
    assert not there.gap > 1e-9  # NaN of the spectral filter


def with_one_worker_killed(function, *arguments, **options):
    """Kill the first worker that is seen at work on a shard; return what comes of it."""
    import psutil

    killed = False
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(function, *arguments, **options)
        while not (killed or running.done()):
            for process in psutil.process_iter(["cmdline"]):
                if (process.info["cmdline"] or [""])[0].startswith("ray::_map_shard"):
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
                        killed = True
                        break
        assert killed
        return running.result()


@pytest.mark.slow
def test_three_nodes_agree_with_one_machine_also_when_a_worker_is_killed(three_nodes):
    """One test, so that the cluster starts once."""
    from flwr_byz.cluster import geometric_median_of_means as sharded
    from flwr_byz.cluster import robust_mean as sharded_mean

    for rule in (GeometricMedian(), SpectralFilter()):
        options = {"rule": rule, "num_byzantine": 4}
        options["pre_aggregation"] = [AdaptiveClipping(), NearestNeighborMixing()]
        assert_same(sharded_mean(vectors(), 20, **options), robust_mean(vectors(), 20, **options))
    for trim_norm, offset in product((None, "auto"), (0.0, 1e4)):
        rows = vectors() + np.float32(offset)
        here = geometric_median_of_means(rows, 20, trim_norm=trim_norm)
        assert_same(sharded(rows, 20, trim_norm=trim_norm), here)
    rows = vectors(60, 500_000)
    there = with_one_worker_killed(sharded, rows, 60, num_shards=12)
    assert_same(there, geometric_median_of_means(rows, 60))
    rows = vectors(dim=1000)
    for name, wrong in (("num_byzantine", 5), ("num_shards", 0)):
        with pytest.raises(ValueError, match=name):
            sharded(rows, 10, **{name: wrong})
    rows[7, 3] = np.nan
    with pytest.raises(ValueError, match=r"vectors\[7\]"):
        sharded(rows, 10)
