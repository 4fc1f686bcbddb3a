"""Rounds under attack whose result or report once was not what it should be."""

import tracemalloc
from collections.abc import Mapping

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from flwr_byz.aggregation import careful, geometric_median, geometric_median_of_means
from flwr_byz.round import distances_from
from tests.support.malformed import fit_res, named
from tests.support.server import as_content, classic_round, message_round

APIS = pytest.mark.parametrize("api", ["classic", "message", "streamed"])


def play(api, model, vectors, **options):
    """Play a round of one array in which NumPy raises whatever it can; its model and metrics."""
    if api == "classic":
        results = {client: fit_res([v]) for client, v in enumerate(vectors)}
        with np.errstate(all="raise"):
            return classic_round([model], results, **options)
    contents = {node: as_content([v], 5) for node, v in enumerate(vectors, start=1)}
    arrays, streaming = named([model]), {"streaming": True} if api == "streamed" else {}
    with np.errstate(all="raise"):
        return message_round(arrays, contents, **streaming, **options)


@APIS
@pytest.mark.parametrize(("wide", "narrow"), [("f8", "f4"), ("f8", "f2"), ("f4", "f2")])
def test_numpy_that_raises_does_not_make_small_numbers_malformed(api, wide, narrow):
    vectors = 1e-9 * np.random.default_rng(0).normal(size=(10, 40))
    vectors[:, 0] = 1e-37
    replies = [v.astype(wide) for v in vectors]
    arrays, metrics = play(api, np.zeros(40, narrow), replies, num_batches=5)
    assert arrays is not None
    assert metrics["byz-rejected"] == 0


@APIS
@pytest.mark.parametrize("trim_norm", [None, "auto"])
@pytest.mark.parametrize("exponents", [(-310, -310), (-300, 300), (200, 200), (-160, -160)])
@pytest.mark.parametrize("num_batches", [5, 10])
def test_numpy_that_raises_ends_no_round(api, trim_norm, exponents, num_batches):
    factors = 10.0 ** np.linspace(*exponents, num=40)
    vectors = list(np.random.default_rng(0).normal(size=(10, 40)) * factors)
    options = {"num_batches": num_batches, "trim_norm": trim_norm}
    arrays, metrics = play(api, np.zeros(40), vectors, **options)
    assert arrays is not None
    assert 0.0 < metrics["byz-aggregate-norm"] < np.inf


@pytest.mark.parametrize("exponent", [-310, -200, 0, 200, 300])
@pytest.mark.parametrize("dim", [40, 40_000])
def test_the_norm_of_the_aggregate_is_right_at_any_size(exponent, dim):
    vectors = np.ones((5, dim)) * 10.0**exponent
    norm = geometric_median_of_means(vectors, 5).norm
    assert norm == pytest.approx(np.sqrt(dim) * 10.0**exponent, rel=1e-9)


def test_distances_in_the_audit_do_not_depend_on_the_threads_of_blas():
    vectors = [[v] for v in np.random.default_rng(0).normal(size=(20, 200_000)).astype("f4")]
    point = np.zeros(200_000, "f4")
    measured = []
    for limit in (1, 2, 4):
        with threadpool_limits(limit, user_api="blas"):
            measured.append(distances_from(vectors, None, point))
    assert measured[0] == measured[1] == measured[2]


@pytest.mark.parametrize("attack", ["alike", "huge and tiny"])
def test_colluders_do_not_make_the_threads_hold_much_more_than_the_rows(monkeypatch, attack):
    monkeypatch.setenv("FLWR_BYZ_NUM_THREADS", "16")
    points = np.random.default_rng(0).normal(size=(60, 300_000)).astype("f4")
    if attack == "alike":
        points[:29] = points[29]
    else:
        points[:29] *= np.float32(10.0) ** np.linspace(-30, 30, 29, dtype="f4")[:, None]
    tracemalloc.start()
    try:
        geometric_median(points)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= points.nbytes


def beside_a_tight_cluster(num_points, dim, seed):
    """Nearly half of the points lie within a few roundings of one place."""
    rng = np.random.default_rng(seed)
    place, spread = rng.uniform(0, 4), 10.0 ** rng.uniform(-10, -5)
    points, direction = rng.normal(size=(num_points, dim)), rng.normal(size=dim)
    num_near = (num_points - 1) // 2
    points[:num_near] = place * direction + spread * points[:num_near]
    return points.astype("f4")


def test_a_row_that_takes_all_weight_is_certified_once(monkeypatch):
    certified = []

    def note(rows, scaled, mass, weights, *args):
        certified.append(weights.tobytes())
        return certify(rows, scaled, mass, weights, *args)

    certify = careful._certified
    monkeypatch.setattr(careful, "_certified", note)
    geometric_median(beside_a_tight_cluster(100, 2000, 1655660902))
    assert len(certified) == len(set(certified)) > 0


@pytest.mark.parametrize(
    ("num_points", "dim", "seed"), [(60, 2000, 1881432204), (100, 200, 1290695447)]
)
def test_colluders_do_not_keep_the_solver_busy_with_roundings(num_points, dim, seed):
    result = geometric_median(beside_a_tight_cluster(num_points, dim, seed))
    assert result.gap <= 1e-9
    assert result.iterations <= 300


class Raising(Mapping):
    """Metrics that no client can send, but a proxy can hand on."""

    def __getitem__(self, name):
        raise RuntimeError(name)

    def __iter__(self):
        return iter(["loss"])

    def __len__(self):
        return 1


@pytest.mark.parametrize("options", [{}, {"group_by_key": "loss"}])
def test_metrics_that_raise_end_no_round(options):
    vectors = np.random.default_rng(0).normal(size=(10, 40)).astype("f4")
    results = {client: fit_res([v]) for client, v in enumerate(vectors)}
    results[3].metrics = Raising()
    arrays, metrics = classic_round([np.zeros(40, "f4")], results, num_batches=5, **options)
    assert arrays is not None
    assert metrics["byz-rejected"] == 1
