"""Rows where they lie: certified gaps on the stored numbers, the same bytes for any threads."""

import hashlib
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flwr_byz.aggregation import geometric_median, median_of_means, split_into_batches
from flwr_byz.aggregation.careful import careful_median
from flwr_byz.aggregation.certificate import curvature_gap, residual_bound
from flwr_byz.aggregation.geometric_median import GeometricMedian
from flwr_byz.aggregation.gram import gram
from flwr_byz.aggregation.rows import BatchSums, StoredRows, form_rows
from flwr_byz.aggregation.threads import map_in_threads
from tests.support.reference import objective

ROOT = Path(__file__).parents[2]
FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def assert_near_optimal(points, position, gap):
    """Compare with a lower bound, by weak duality in float64, which the fast way does not use."""
    rows = StoredRows(np.asarray(points, "f8"))
    best = careful_median(rows, np.full(len(rows), 1 / len(rows)), 1e-13, None, None)
    lowest = best.objective * len(rows) / (1 + best.gap)
    assert objective(rows.matrix, position) <= (1 + gap + 1e-13) * lowest


def aggregate(vectors, k, dtype=FLOAT32, centre=None, gamma=1e-9):
    """Aggregate vectors as a strategy does; also return the stored rows in float64."""
    batches = split_into_batches([(row,) for row in vectors], k)
    rows = form_rows(batches, dtype, None if centre is None else [centre])
    result = median_of_means.aggregate(rows, gram(rows), rule=GeometricMedian(gamma))
    return result, np.concatenate(list(rows.map(np.copy)), axis=1).astype("f8")


def assert_certified(vectors, k, centre=None, gamma=1e-9):
    result, rows = aggregate(vectors, k, centre=centre, gamma=gamma)
    assert result.gap <= gamma
    assert_near_optimal(rows, result.point, result.gap)


@settings(max_examples=100)
@given(st.integers(3, 40), st.integers(1, 4), st.integers(0, 10**6), st.floats(0.5, 1.5), st.data())
def test_the_gap_of_float32_replies_holds_on_the_stored_rows(k, b, seed, share, data):
    """Also where colluders sit at about the limit of what they can just hold."""
    rng, offset = np.random.default_rng(seed), data.draw(st.sampled_from([0.0, 1.0, 1e3, 1e5]))
    vectors = rng.normal(size=(k * b, 700)) + offset * rng.normal(size=700)
    if attack := data.draw(st.sampled_from([None, 1.0, 30.0, 1e6, 1e18, 1e32])):
        vectors[: k * b // 5] *= -attack
    else:
        vectors[: max(int(share * k**0.5), 1) * b] = 0.3 * rng.normal(size=700) + offset
    unit = data.draw(st.sampled_from([1e-20, 1e-3, 1.0]))
    centre = (offset * np.ones(700) * unit).astype("f4") if seed % 2 else None
    gamma = data.draw(st.sampled_from([1e-3, 1e-9]))
    assert_certified((vectors * unit).astype("f4"), k, centre, gamma)


def test_usual_replies_take_one_pass_to_measure_and_one_to_combine(monkeypatch):
    module = sys.modules["flwr_byz.aggregation.geometric_median"]
    monkeypatch.delattr(module, "careful_median")  # in float64, for unusual input only
    vectors = np.random.default_rng(0).normal(size=(500, 2000)).astype("f4")
    far = vectors[:40].copy()
    far[:8] = 1e38 * np.sign(far[:8])
    few, large = vectors[:40], vectors[:40] * np.float32(1e30)
    for usual, k in ((few, 20), (large, 20), (few, 2), (far, 20), (vectors, 250), (vectors, 500)):
        assert_certified(usual, k)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
@pytest.mark.parametrize(("alike", "honest"), [(False, 19), (False, 13), (False, 10), (True, 1)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_median_that_is_a_row_is_that_row_to_the_bit(dtype, alike, honest, batch_size):
    """One row sits on the mean, or so many colluders as can hold the median, or all rows."""
    vectors = np.random.default_rng(0).normal(size=(20 * batch_size, 2000)).astype("f4")
    vectors[honest * batch_size :] = vectors[: honest * batch_size].mean(axis=0)
    if alike:
        vectors[:] = vectors[0]
    result, rows = aggregate(vectors, 20, dtype=dtype)
    assert result.gap <= 1e-12
    assert np.array_equal(result.point, rows[-1])
    assert_near_optimal(rows, rows[-1], 1e-12)


@settings(max_examples=50)
@given(st.integers(3, 9), st.integers(2, 30), st.floats(-9, -1), st.integers(0, 10**6))
def test_the_curvature_bounds_the_gap_of_any_point_near_the_median(n, d, noise, seed):
    rng = np.random.default_rng(seed)
    points, mass = rng.normal(size=(n, d)), rng.random(n) + 0.1
    mass /= mass.sum()
    best = geometric_median(points, mass, gamma=1e-12)
    weights = best.weights * (1 + 10.0**noise * rng.uniform(-1, 1, n))
    weights /= weights.sum()
    offsets = points - weights @ points
    distances = np.linalg.norm(offsets, axis=1)
    assume(distances.min() >= 1e-6)
    residual = residual_bound(distances, mass, weights)
    assert np.linalg.norm((mass / distances) @ offsets) <= residual * (1 + 1e-9) + 1e-15
    gap = curvature_gap(offsets @ offsets.T, distances, mass, np.zeros(n), residual, 0.0, 0.0)
    assert mass @ distances <= (1 + gap) * best.objective * (1 + 1e-12)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("centred", [False, True])
def test_sums_of_what_is_let_go_give_the_same_rows(dtype, centred):
    rng, sizes = np.random.default_rng(0), [0, 100_000, 0, 5, 70_000]
    vectors = [[rng.normal(size=size).astype(dtype) for size in sizes] for _ in range(30)]
    centre = [np.linspace(0, 1, size, dtype=dtype) for size in sizes] if centred else None
    sums = BatchSums(np.full((4, 170_005), np.nan, dtype), sizes)
    for i in rng.permutation([i for i in range(30) if i % 4 != 2]):
        sums.add(int(i % 4), vectors[i], centre)
    rows, filled = sums.rows()
    assert filled == [0, 1, 3]
    flat = np.stack([np.concatenate(vector, dtype="f8") for vector in vectors])
    exact = np.stack([flat[batch::4].mean(axis=0) for batch in filled])
    exact -= np.concatenate(centre, dtype="f8") if centred else 0
    assert np.allclose(rows.matrix, exact, atol=8 * np.finfo(dtype).eps)
    before, point = (
        rows.matrix.copy(),
        median_of_means.aggregate(rows, gram(rows), rule=GeometricMedian()).point,
    )
    assert np.array_equal(rows.matrix, before)
    assert np.allclose(point, geometric_median(before).point, atol=1e-6)


def digest():
    """Hash what comes of points of several sizes; of the last, it takes float64."""
    rng, found = np.random.default_rng(0), []
    sizes = (40, 20, 300_001), (60, 3, 200_000), (97, 97, 40_000), (398, 199, 9_000)
    for m, k, dim in (*sizes, (600, 300, 5_000)):
        vectors = rng.standard_normal((m, dim), dtype=np.float32)
        result, _ = aggregate(vectors, k)
        found += [result.point, result.batch_norms, result.batch_weights, np.array(result.gap)]
        found.append(geometric_median(vectors[:20]).point)
    hard = rng.normal(size=(160, 3)) @ rng.normal(size=(3, 2000))
    hard += 1e-9 * rng.normal(size=hard.shape)
    hard[:40] = hard[0]
    found.append(geometric_median(hard).point)
    return hashlib.sha256(b"".join(part.tobytes() for part in found)).hexdigest()


def test_any_number_of_threads_gives_the_same_bytes():
    def elsewhere(own, blas):
        threads = {"FLWR_BYZ_NUM_THREADS": str(own), "OPENBLAS_NUM_THREADS": str(blas)}
        command = [sys.executable, "-c", f"import {__name__} as test; print(test.digest())"]
        return subprocess.check_output(command, env=os.environ | threads, cwd=ROOT)

    assert elsewhere(1, 1) == elsewhere(3, 2) == elsewhere(7, 4)


def test_no_thread_works_on_after_an_error(monkeypatch):
    monkeypatch.setenv("FLWR_BYZ_NUM_THREADS", "4")
    working, done = [], []

    def work(item):
        working.append(item)
        if item == 0:
            raise OSError("disk")
        time.sleep(0.05)
        done.append(item)

    with pytest.raises(OSError, match="disk"):
        list(map_in_threads(work, range(4)))
    assert len(done) == len(working) - 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork, which Windows does not have")
def test_a_process_that_is_forked_has_threads_of_its_own(monkeypatch):
    monkeypatch.setenv("FLWR_BYZ_NUM_THREADS", "2")
    list(map_in_threads(time.sleep, [0.05] * 4))  # starts both threads
    child = multiprocessing.get_context("fork").Process(
        target=lambda: sys.exit(list(map_in_threads(abs, [-1, -2])) != [1, 2])
    )
    child.start()
    child.join(30)
    child.kill()
    assert child.exitcode == 0
