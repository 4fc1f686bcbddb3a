"""Rows where they lie: certified gaps on the stored numbers, the same bytes for any threads."""

import multiprocessing
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_byz import attacks
from flwr_byz.aggregation import geometric_median, geometric_median_of_means, split_into_batches
from flwr_byz.aggregation.careful import careful_median
from flwr_byz.aggregation.certificate import curvature_gap, residual_bound
from flwr_byz.aggregation.gram import gram
from flwr_byz.aggregation.median_of_means import median_of_means
from flwr_byz.aggregation.rows import BatchSums, StoredRows, cut, form_rows
from flwr_byz.aggregation.threads import map_in_threads
from flwr_byz.attacks import Knowledge

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def objective(points, position):
    return float(
        np.linalg.norm(np.asarray(points, "f8") - np.asarray(position, "f8"), axis=1).sum()
    )


def lowest_objective(points):
    """A lower bound on the optimum, by weak duality in float64, which the fast way does not use."""
    rows = StoredRows(np.asarray(points, "f8"))
    best = careful_median(rows, np.full(len(rows), 1 / len(rows)), 1e-13, None, None)
    return best.objective * len(points) / (1 + best.gap)


def stored(rows):
    """Read rows out as they are stored."""
    return np.concatenate(list(rows.map(np.copy)), axis=1)


def aggregate(vectors, k, dtype=FLOAT32, centre=None):
    """Aggregate vectors as a strategy does; also return the stored rows in float64."""
    batches = split_into_batches([(row,) for row in vectors], k)
    rows = form_rows(batches, dtype, None if centre is None else [centre])
    return median_of_means(rows, gram(rows)), stored(rows).astype("f8")


@settings(max_examples=60, deadline=None)
@given(
    st.integers(3, 24),
    st.integers(1, 4),
    st.sampled_from([0.0, 1.0, 1e3]),
    st.sampled_from([1.0, 30.0, 1e6, 1e18, 1e34]),
    st.sampled_from([1e-20, 1e-3, 1.0]),
    st.integers(0, 10**6),
)
def test_the_gap_of_float32_replies_holds_on_the_stored_rows(k, b, offset, attack, unit, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(k * b, 700)) + offset * rng.normal(size=700)
    vectors[: k * b // 5] *= -attack
    vectors = (vectors * unit).astype("f4")
    centre = (offset * np.ones(700) * unit).astype("f4") if seed % 2 else None
    result, rows = aggregate(vectors, k, centre=centre)
    assert result.gap <= 1e-9
    assert objective(rows, result.point) / lowest_objective(rows) - 1 <= result.gap + 1e-13


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
    for k in (20, 40):
        median = geometric_median(aggregate(vectors, k)[1].astype("f4"), gamma=gamma)
        _, rows = aggregate(vectors, k)
        assert median.gap <= gamma
        assert objective(rows, median.point) / lowest_objective(rows) - 1 <= median.gap + 1e-13


def test_usual_replies_take_one_pass_to_measure_and_one_to_combine(monkeypatch):
    def fail(*args):
        raise AssertionError("float64 is needed for unusual input only")

    module = sys.modules["flwr_byz.aggregation.geometric_median"]
    monkeypatch.setattr(module, "careful_median", fail)
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
def test_a_median_that_is_a_row_is_that_row_to_the_bit(dtype, sits, batch_size):
    k = 20
    vectors = np.random.default_rng(0).normal(size=(k * batch_size, 2000)).astype("f4")
    honest = {"one sits on the mean": 19, "colluders": 13, "half": 10, "all alike": 1}[sits]
    vectors[honest * batch_size :] = vectors[: honest * batch_size].mean(axis=0)
    if sits == "all alike":
        vectors[:] = vectors[0]
    result, rows = aggregate(vectors, k, dtype=dtype)
    assert result.gap <= 1e-12
    assert np.array_equal(result.point, rows[-1])
    assert objective(rows, rows[-1]) <= lowest_objective(rows) * (1 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 20), st.integers(1, 3), st.floats(0.5, 1.5), st.integers(0, 10**6))
def test_colluders_that_may_just_hold_the_median_are_judged_rightly(k, b, share, seed):
    """Colluders sit where the pull of the rest is about what they can just hold."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(k * b, 500)).astype("f4")
    colluding = max(int(share * k**0.5), 1)
    vectors[: colluding * b] = rng.normal(scale=0.3, size=500).astype("f4")
    result, rows = aggregate(vectors, k)
    assert result.gap <= 1e-9
    assert objective(rows, result.point) <= lowest_objective(rows) * (1 + result.gap + 1e-13)


@pytest.mark.parametrize("k", [200, 400, 1000])
def test_hundreds_of_rows_are_certified(k):
    vectors = np.random.default_rng(0).normal(size=(1000, 3000)).astype("f4")
    result, rows = aggregate(vectors, k)
    assert result.gap <= 1e-9
    assert objective(rows, result.point) / lowest_objective(rows) - 1 <= result.gap + 1e-13


def test_far_points_do_not_end_the_search_early():
    vectors = np.random.default_rng(0).normal(size=(250, 1000))
    vectors[:50] *= 1e20
    result = geometric_median(vectors)
    units = vectors - result.point
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    assert np.linalg.norm(units.mean(axis=0)) <= 2e-9


@settings(max_examples=100, deadline=None)
@given(st.integers(3, 9), st.integers(2, 30), st.floats(-9, -1), st.integers(0, 10**6))
def test_the_curvature_bounds_the_gap_of_any_point_near_the_median(n, d, noise, seed):
    rng = np.random.default_rng(seed)
    points, mass = rng.normal(size=(n, d)), rng.random(n) + 0.1
    mass /= mass.sum()
    best = geometric_median(points, mass, gamma=1e-12)
    weights = best.weights * (1 + 10.0**noise * rng.uniform(-1, 1, n))
    weights /= weights.sum()
    point = weights @ points
    distances = np.linalg.norm(points - point, axis=1)
    if distances.min() < 1e-6:
        return
    units = (points - point) / distances[:, None]
    residual = residual_bound(distances, mass, weights)
    assert np.linalg.norm(mass @ units) <= residual * (1 + 1e-9) + 1e-15
    gap = curvature_gap(
        (points - point) @ (points - point).T,
        distances,
        mass,
        residual=residual,
        product_errors=np.zeros(n),
        distance_error=0.0,
        moved=0.0,
    )
    assert mass @ distances <= (1 + gap) * best.objective * (1 + 1e-12)


def test_vectors_close_together_far_from_the_origin_are_certified():
    rng = np.random.default_rng(0)
    far = 1e4 * rng.normal(size=500)
    vectors = np.stack([(far + rng.normal(size=500)).astype("f4") for _ in range(12)])
    vectors[3] = 1e38
    for k in (6, 12):
        result, _ = aggregate(vectors, k)
        assert result.gap <= 1e-9
        assert np.linalg.norm(result.point - far) <= 100


def test_pieces_of_any_size_and_dtype_are_one_vector():
    rng = np.random.default_rng(0)
    sizes = [1, 0, 300, 7, 129, 10_000]
    pieces = [[rng.normal(size=n) for n in sizes] for _ in range(9)]
    dtypes = ["f4", "f8", ">f4", "f2", "f4", "f8"]
    pieces = [[p.astype(t) for p, t in zip(ps, dtypes, strict=True)] for ps in pieces]
    whole = np.stack([np.concatenate(p, dtype="f8") for p in pieces])
    for k in (3, 9):
        rows = form_rows(split_into_batches(pieces, k), FLOAT64)
        assert np.allclose(stored(rows), [b.mean(axis=0) for b in np.array_split(whole, k)])
        expected = geometric_median_of_means(whole, k)
        assert np.allclose(median_of_means(rows, gram(rows)).point, expected.point, atol=1e-13)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(1, 40))
def test_coordinates_are_cut_into_blocks_that_cover_each_of_them_once(sizes, width):
    vector = [np.arange(n) + 1000 * i for i, n in enumerate(sizes)]
    blocks = cut(sizes, width)
    assert all(b.stop - b.start <= width for b in blocks)
    whole = np.concatenate(vector)
    assert np.array_equal(np.concatenate([whole[:0], *(b.of(vector) for b in blocks)]), whole)
    copied = [np.zeros_like(piece) for piece in vector]
    for b in blocks:
        b.write(copied, whole[b.start : b.stop])
    assert np.array_equal(np.concatenate(copied), whole)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("centred", [False, True])
def test_sums_of_what_is_let_go_give_the_same_rows(dtype, centred):
    rng = np.random.default_rng(0)
    vectors = [[rng.normal(size=100_000).astype(dtype), rng.normal(size=5)] for _ in range(30)]
    centre = [np.full(100_000, 0.5, dtype), np.ones(5)] if centred else None
    sums = BatchSums(np.full((4, 100_005), np.nan, dtype), [100_000, 5], centre)
    for i in rng.permutation(30):
        if i % 4 != 2:
            sums.add(int(i % 4), vectors[i])
    rows, filled = sums.rows()
    assert filled == [0, 1, 3]
    for row, batch in zip(rows.matrix, filled, strict=True):
        members = [np.concatenate(v, dtype="f8") for i, v in enumerate(vectors) if i % 4 == batch]
        exact = np.mean(members, axis=0) - (np.concatenate(centre, dtype="f8") if centred else 0)
        assert np.allclose(row, exact, atol=8 * np.finfo(dtype).eps)
    before = rows.matrix.copy()
    result = median_of_means(rows, gram(rows))
    assert np.array_equal(rows.matrix, before)
    assert np.allclose(result.point, geometric_median(before).point, atol=1e-6)


PROGRAM = """
import hashlib
import numpy as np
from flwr_byz.aggregation import geometric_median, split_into_batches
from flwr_byz.aggregation.gram import gram
from flwr_byz.aggregation.median_of_means import median_of_means
from flwr_byz.aggregation.rows import form_rows
rng = np.random.default_rng(0)
digest = hashlib.sha256()
sizes = [(40, 20, 700_001), (97, 97, 90_000), (398, 199, 20_000), (600, 300, 9_000)]
for m, k, dim in sizes + [(60, 3, 400_000)]:
    vectors = rng.standard_normal((m, dim), dtype=np.float32)
    batches = split_into_batches([(v,) for v in vectors], k)
    rows = form_rows(batches, np.dtype(np.float32))
    result = median_of_means(rows, gram(rows))
    for part in (result.point, result.batch_norms, result.batch_weights, np.float64(result.gap)):
        digest.update(part.tobytes())
    digest.update(geometric_median(vectors[:20]).point.tobytes())
hard = rng.normal(size=(160, 3)) @ rng.normal(size=(3, 2000)) + 1e-9 * rng.normal(size=(160, 2000))
hard[:40] = hard[0]
digest.update(geometric_median(hard).point.tobytes())
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


def test_nothing_works_on_after_an_error(monkeypatch):
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


@pytest.mark.skipif(
    not hasattr(os, "fork"), reason="Windows has no fork: a new process has no threads to inherit"
)
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
