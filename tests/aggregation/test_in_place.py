"""The fast way: float32 replies where they lie, certified gaps, the same bytes for any threads."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_byz import attacks
from flwr_byz.aggregation import (
    BatchSums,
    aggregate_batches,
    aggregate_rows,
    geometric_median,
    geometric_median_of_means,
    split_into_batches,
)
from flwr_byz.aggregation import median_of_means as module
from flwr_byz.aggregation._batch_means import BatchMeans, find_centre
from flwr_byz.aggregation._local_gap import ratio_gap
from flwr_byz.attacks import Knowledge

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def objective(points, place):
    return float(np.linalg.norm(np.asarray(points, "f8") - np.asarray(place, "f8"), axis=1).sum())


def lowest_objective(points):
    """A lower bound on the optimum, from float64 passes that share no code with the fast way."""
    best = module.careful_median(list(points), np.full(len(points), 1 / len(points)), 1e-13)
    return best.objective * len(points) / (1 + best.gap)


def aggregate(vectors, k, dtype=FLOAT32, **options):
    """Aggregate rows of float32 as a strategy does; also return the exact batch means."""
    point = np.empty(vectors.shape[1], dtype)

    def write(block, values):
        point[block.columns] = values

    batches = split_into_batches([(row,) for row in vectors], k)
    result = aggregate_batches(batches, write, dtype=dtype, **options)
    means = [np.mean([row.astype("f8") for row in b], axis=0) for b in np.array_split(vectors, k)]
    return point, result, np.stack(means)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(3, 24),
    st.integers(1, 4),
    st.sampled_from([0.0, 1.0, 1e3]),
    st.sampled_from([1.0, 30.0, 1e6, 1e18, 1e34]),
    st.sampled_from([1e-20, 1e-3, 1.0]),
    st.integers(0, 10**6),
)
def test_float32_replies_get_a_gap_that_holds_on_exact_means(k, b, offset, attack, unit, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(k * b, 700)) + offset * rng.normal(size=700)
    vectors[: k * b // 5] *= -attack
    vectors = (vectors * unit).astype("f4")
    origin = [(offset * np.ones(700) * unit).astype("f4")] if seed % 2 else None
    point, result, means = aggregate(vectors, k, origin=origin)
    assert result.gap <= 1e-9
    # The point is rounded to float32 once more where it is moved back to its place.
    rounding = 2.0**-24 * np.linalg.norm(point.astype("f8")) * k / lowest_objective(means)
    assert objective(means, point) / lowest_objective(means) - 1 <= result.gap + rounding**2 + 1e-14


@pytest.mark.parametrize("offset", [0.0, 10.0, 1e4])
@pytest.mark.parametrize("gamma", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize(
    "attack",
    [
        attacks.SignFlip(10.0),
        attacks.GaussianNoise(200.0),
        attacks.ALittleIsEnough(),
        attacks.InnerProductManipulation(0.5),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_the_gap_holds_under_every_attack(attack, gamma, offset):
    rng = np.random.default_rng(0)
    honest = (rng.normal(size=(40, 3000)) + offset).astype("f4")
    others = honest[8:].astype("f8")
    sent = [
        attack(Knowledge(row.astype("f8"), 40, 8, rng, others)).astype("f4") for row in honest[:8]
    ]
    vectors = np.concatenate([sent, honest[8:]])
    point, result, means = aggregate(vectors, 20, dtype=FLOAT64, gamma=gamma)
    assert result.gap <= gamma
    assert objective(means, point) / lowest_objective(means) - 1 <= result.gap


def test_the_fast_way_is_the_one_that_is_taken(monkeypatch):
    def fail(*args):
        raise AssertionError("float64 copies are needed only for unusual input")

    monkeypatch.setattr(module, "_carefully", fail)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 2000)).astype("f4")
    aggregate(vectors, 20)
    aggregate(vectors * np.float32(1e30), 20)
    aggregate(vectors, 2)
    vectors[:8] = 1e38 * np.sign(vectors[:8])
    aggregate(vectors, 20)
    aggregate(rng.normal(size=(500, 2000)).astype("f4"), 250)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64])
@pytest.mark.parametrize("sits", ["one sits on the mean", "colluders", "half", "all alike"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_median_that_is_a_batch_mean_is_found_the_fast_way(monkeypatch, dtype, sits, batch_size):
    monkeypatch.setattr(module, "_carefully", None)
    k = 20
    vectors = np.random.default_rng(0).normal(size=(k * batch_size, 2000)).astype("f4")
    honest = {"one sits on the mean": 19, "colluders": 13, "half": 10, "all alike": 1}[sits]
    vectors[honest * batch_size :] = vectors[: honest * batch_size].mean(axis=0)
    if sits == "all alike":
        vectors[:] = vectors[0]
    point, result, means = aggregate(vectors, k, dtype=dtype)
    assert result.gap == 0.0
    rounding = 0.0 if batch_size == 1 else 4 * np.finfo(dtype).eps
    assert np.allclose(point, means[-1].astype(dtype), rtol=rounding, atol=rounding)
    assert objective(means, means[-1]) <= lowest_objective(means) * (1 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 20), st.integers(1, 3), st.floats(0.5, 1.5), st.integers(0, 10**6))
def test_a_zero_gap_is_claimed_for_medians_only(k, b, share, seed):
    """Colluders sit where the pull of the rest is about what they can just hold."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(k * b, 500)).astype("f4")
    colluding = max(int(share * k**0.5), 1)
    vectors[: colluding * b] = rng.normal(scale=0.3, size=500).astype("f4")
    point, result, means = aggregate(vectors, k)
    assert result.gap <= 1e-9
    if result.gap == 0.0:
        nearest = np.linalg.norm(means - point, axis=1).argmin()
        assert objective(means, means[nearest]) <= lowest_objective(means) * (1 + 1e-12)


def test_more_points_than_pay_for_inner_products_are_measured_only(monkeypatch):
    monkeypatch.setattr(BatchMeans, "gram", None)
    vectors = np.random.default_rng(0).normal(size=(400, 3000)).astype("f4")
    for k in (200, 400):
        point, result, means = aggregate(vectors, k)
        assert result.gap <= 1e-9
        assert objective(means, point) / lowest_objective(means) - 1 <= result.gap


def test_far_points_do_not_end_the_passes_early():
    vectors = np.random.default_rng(0).normal(size=(250, 1000))
    vectors[:50] *= 1e20
    result = geometric_median(vectors)
    units = vectors - result.point
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    assert np.linalg.norm(units.mean(axis=0)) <= 2e-9


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 9), st.integers(1, 6), st.integers(0, 10**6))
def test_the_ratio_gap_bounds_the_gap_of_any_combination(n, d, seed):
    rng = np.random.default_rng(seed)
    points, mass, weights = rng.normal(size=(n, d)), rng.random(n) + 0.1, rng.random(n) + 1e-3
    mass, weights = mass / mass.sum(), weights / weights.sum()
    distances = np.linalg.norm(points - weights @ points, axis=1)
    best = geometric_median(points, mass, gamma=1e-12)
    gap = ratio_gap(distances, mass, weights)
    assert mass @ distances <= (1 + gap) * best.objective * (1 + 1e-12)


def test_vectors_close_together_far_from_the_origin_are_centred_on_one_of_them():
    rng = np.random.default_rng(0)
    far = 1e4 * rng.normal(size=500)
    vectors = [(far + rng.normal(size=500)).astype("f4") for _ in range(12)]
    vectors[3] = np.full(500, 1e38, "f4")
    batches = split_into_batches([(v,) for v in vectors], 6)
    centre = find_centre(batches, FLOAT32, None)
    assert np.linalg.norm(centre[0] - far) < 100
    assert find_centre(split_into_batches([(v - far,) for v in vectors], 6), FLOAT64, None) is None


def test_pieces_of_any_size_and_dtype_are_one_vector():
    rng = np.random.default_rng(0)
    sizes = [1, 0, 300, 7, 129, 1000]
    pieces = [[rng.normal(size=n) for n in sizes] for _ in range(9)]
    dtypes = ["f4", "f8", ">f4", "f2", "f4", "f8"]
    pieces = [[p.astype(t) for p, t in zip(ps, dtypes, strict=True)] for ps in pieces]
    out = [np.empty(n) for n in sizes]

    def write(block, values):
        block.of(out)[...] = values

    result = aggregate_batches(split_into_batches(pieces, 3), write)
    expected = geometric_median_of_means([np.concatenate(p, dtype="f8") for p in pieces], 3)
    assert np.allclose(np.concatenate(out), expected.point, rtol=1e-12, atol=1e-13)
    assert np.allclose(result.batch_norms, expected.batch_norms)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("centred", [False, True])
def test_sums_of_what_is_let_go_give_the_same_means(dtype, centred):
    rng = np.random.default_rng(0)
    vectors = [[rng.normal(size=100_000).astype(dtype), rng.normal(size=5)] for _ in range(30)]
    centre = [np.full(100_000, 0.5, dtype), np.ones(5)] if centred else None
    sums = BatchSums(np.full((4, 100_005), np.nan, dtype), centre)
    for i in rng.permutation(30):
        if i % 4 != 2:
            sums.add(int(i % 4), vectors[i])
    means, filled = sums.means()
    assert filled == [0, 1, 3]
    for row, batch in zip(means, filled, strict=True):
        members = [np.concatenate(v, dtype="f8") for i, v in enumerate(vectors) if i % 4 == batch]
        exact = np.mean(members, axis=0) - (np.concatenate(centre, dtype="f8") if centred else 0)
        assert np.allclose(row, exact, atol=8 * np.finfo(dtype).eps)
    rows = means.copy()
    point = np.empty(100_005)

    def write(block, values):
        point[block.columns] = values

    aggregate_rows(means, [100_000, 5], write)
    assert np.array_equal(means, rows)
    assert np.allclose(point, geometric_median(rows).point, atol=1e-6)


PROGRAM = """
import hashlib, sys
import numpy as np
from flwr_byz.aggregation import aggregate_batches, geometric_median, split_into_batches
rng = np.random.default_rng(0)
digest = hashlib.sha256()
sizes = [(40, 20, 700_001), (97, 97, 90_000), (398, 199, 20_000), (600, 300, 9_000)]
for m, k, dim in sizes + [(60, 3, 400_000)]:
    vectors = rng.standard_normal((m, dim), dtype=np.float32)
    point = np.empty(dim, np.float32)
    def write(block, values):
        point[block.columns] = values
    batches = split_into_batches([(v,) for v in vectors], k)
    result = aggregate_batches(batches, write, dtype=np.dtype(np.float32))
    for part in (point, result.batch_norms, result.batch_weights, np.float64(result.gap)):
        digest.update(part.tobytes())
    digest.update(geometric_median(vectors[:20]).point.tobytes())
print(digest.hexdigest())
"""


def test_any_number_of_threads_gives_the_same_bytes():
    digests = set()
    for ours, blas in ((1, 1), (2, 2), (3, 1), (7, 4)):
        threads = {"FLWR_BYZ_NUM_THREADS": str(ours), "OPENBLAS_NUM_THREADS": str(blas)}
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=os.environ | threads,
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(run.stdout)
    assert len(digests) == 1


def test_a_number_of_threads_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("FLWR_BYZ_NUM_THREADS", "many")
    with pytest.raises(ValueError, match="FLWR_BYZ_NUM_THREADS"):
        geometric_median(np.eye(3, 1000))
