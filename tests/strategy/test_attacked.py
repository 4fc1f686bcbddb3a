"""Rounds under attack whose result or report once was not what it should be."""

import tracemalloc
from collections.abc import Mapping

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from flwr_byz.aggregation import careful, geometric_median, geometric_median_of_means
from flwr_byz.round import distances_from
from tests.support.malformed import fit_res
from tests.support.server import APIS, a_round

EVERY_API = pytest.mark.parametrize("api", APIS)


def strict_round(api, model, vectors, **options):
    """A round of one array in which NumPy raises whatever it can."""
    replies = {client: [v] for client, v in enumerate(vectors)}
    with np.errstate(all="raise"):
        return a_round(api, [model], replies, **options)


@EVERY_API
@pytest.mark.parametrize(("wide", "narrow"), [("f8", "f4"), ("f8", "f2"), ("f4", "f2")])
def test_numpy_that_raises_does_not_make_small_numbers_malformed(api, wide, narrow):
    vectors = 1e-9 * np.random.default_rng(0).normal(size=(10, 40))
    vectors[:, 0] = 1e-37
    model, metrics = strict_round(api, np.zeros(40, narrow), vectors.astype(wide), num_batches=5)
    assert model is not None
    assert metrics["byz-rejected"] == 0


@EVERY_API
@pytest.mark.parametrize("trim_norm", [None, "auto"])
@pytest.mark.parametrize("exponents", [(-310, -310), (-300, 300), (200, 200), (-160, -160)])
@pytest.mark.parametrize("num_batches", [5, 10])
def test_numpy_that_raises_ends_no_round(api, trim_norm, exponents, num_batches):
    factors = 10.0 ** np.linspace(*exponents, num=40)
    vectors = np.random.default_rng(0).normal(size=(10, 40)) * factors
    options = {"num_batches": num_batches, "trim_norm": trim_norm}
    model, metrics = strict_round(api, np.zeros(40), vectors, **options)
    assert model is not None
    assert 0.0 < metrics["byz-aggregate-norm"] < np.inf


@pytest.mark.parametrize("exponent", [-310, -200, 0, 200, 300])
@pytest.mark.parametrize("dim", [40, 40_000])
def test_the_norm_of_the_aggregate_is_right_at_any_size(exponent, dim):
    norm = geometric_median_of_means(np.ones((5, dim)) * 10.0**exponent, 5).norm
    assert norm == pytest.approx(np.sqrt(dim) * 10.0**exponent, rel=1e-9)


def test_distances_in_the_audit_do_not_depend_on_the_threads_of_blas():
    vectors = [[v] for v in np.random.default_rng(0).normal(size=(20, 200_000)).astype("f4")]
    measured = set()
    for limit in (1, 2, 4):
        with threadpool_limits(limit, user_api="blas"):
            measured.add(tuple(distances_from(vectors, None, np.zeros(200_000, "f4"))))
    assert len(measured) == 1


@pytest.mark.parametrize("attack", ["alike", "huge and tiny"])
def test_colluders_do_not_make_the_threads_hold_much_more_than_the_rows(monkeypatch, attack):
    monkeypatch.setenv("FLWR_BYZ_NUM_THREADS", "16")
    points = np.random.default_rng(0).normal(size=(60, 300_000)).astype("f4")
    sizes = np.float32(10.0) ** np.linspace(-30, 30, 29, dtype="f4")[:, None]
    points[:29] = points[29] if attack == "alike" else points[:29] * sizes
    tracemalloc.start()
    try:
        geometric_median(points)
        assert tracemalloc.get_traced_memory()[1] <= points.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("num_points", "dim", "seed"),
    [(60, 2000, 1881432204), (100, 200, 1290695447), (100, 2000, 1655660902)],
)
def test_colluders_do_not_keep_the_solver_busy_with_roundings(monkeypatch, num_points, dim, seed):
    """Nearly half of the points lie within a few roundings of one place; each is certified once."""
    rng = np.random.default_rng(seed)
    place, spread = rng.uniform(0, 4), 10.0 ** rng.uniform(-10, -5)
    points, direction = rng.normal(size=(num_points, dim)), rng.normal(size=dim)
    num_near = (num_points - 1) // 2
    points[:num_near] = place * direction + spread * points[:num_near]
    certify, calls = careful._certified, []
    monkeypatch.setattr(
        careful, "_certified", lambda *a: calls.append(a[3].tobytes()) or certify(*a)
    )
    result = geometric_median(points.astype("f4"))
    assert result.gap <= 1e-9
    assert result.iterations <= 300
    assert len(calls) == len(set(calls))
    assert calls or dim != 2000


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
    replies = {c: fit_res([v]) for c, v in enumerate(np.random.default_rng(0).normal(size=(10, 9)))}
    replies[3].metrics = Raising()
    model, metrics = a_round("classic", [np.zeros(9)], replies, num_batches=5, **options)
    assert model is not None
    assert metrics["byz-rejected"] == 1
