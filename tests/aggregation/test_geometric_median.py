import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flwr_byz.aggregation import geometric_median
from tests.support.reference import best_known_objective, objective

GAMMA = 1e-9


def assert_certified(points, weights=None):
    """The gap is as asked for, a true bound, and weights and objective are those of the point."""
    result = geometric_median(points, weights, gamma=GAMMA)
    digits, point_digits = (1e-6, 1e-6) if points.dtype == np.float32 else (1e-12, 1e-9)
    points = np.asarray(points, np.float64)
    best = best_known_objective(points, weights)
    reached = objective(points, result.point, weights)
    atol = point_digits * 1e-4 * np.abs(points).max(initial=0.0)
    assert result.gap <= GAMMA
    assert result.point.dtype == np.float64
    assert np.isclose(result.objective, reached, rtol=digits)
    assert reached <= (1 + result.gap) * best * (1 + 1e-14)
    assert (result.weights >= 0).all()
    assert result.weights.sum() == pytest.approx(1, abs=1e-12)
    assert np.allclose(result.weights @ points, result.point, rtol=point_digits, atol=atol)
    return result


def point_sets(max_points=12, max_dim=8):
    coordinates = st.floats(-1e3, 1e3, width=32).map(lambda x: round(x, 3))
    shapes = st.tuples(st.integers(1, max_points), st.integers(1, max_dim))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=coordinates))


SPECIAL = {
    "scattered": lambda points: points,
    "one point": lambda points: points[:1],
    "two points": lambda points: points[:2],
    "one dimension": lambda points: points[:, :1],
    "collinear": lambda points: points[:1] + points[:, :1] * points[-1],  # the median may be many
    "nearly collinear": lambda points: points[:, :1] + 1e-8 * points,
    "duplicates": lambda points: np.concatenate([points, np.tile(points[0], (2, 1))]),
    "last digits": lambda points: points[0] + [[1e4], [1e4 + 2e-12]],
    "zeros": lambda points: points * (np.arange(len(points)) % 2)[:, None],
}


@pytest.mark.parametrize("kind", SPECIAL)
@settings(max_examples=15)
@given(point_sets(), st.data())
def test_any_points_of_any_weights_have_a_certified_median(kind, points, data):
    points = SPECIAL[kind](points)
    assert_certified(points)
    masses = st.sampled_from([0.0, 1e-9, 0.1, 1.0, 2.0, 1e6])
    weights = data.draw(st.lists(masses, min_size=len(points), max_size=len(points)).filter(any))
    assert_certified(points, weights)


@settings(max_examples=30)
@given(point_sets(max_points=6, max_dim=30), st.data())
def test_a_median_that_is_a_data_point_is_found_exactly(points, data):
    centre = data.draw(hnp.arrays(np.float64, points.shape[1], elements=st.integers(-9, 9)))
    majority = np.concatenate([points, np.tile(centre, (len(points) + 1, 1))])
    assert np.array_equal(assert_certified(majority).point, centre)
    symmetric = np.concatenate([centre + points, centre - points, centre[None]])
    result = assert_certified(symmetric)
    assert result.objective <= objective(symmetric, centre) * (1 + 1e-13)


@pytest.mark.parametrize("excess", [-1e-3, -1e-9, 0.0, 1e-12, 1e-9, 1e-7, 1e-4, 1e-2])
@pytest.mark.parametrize("dim", [2, 40])
def test_a_median_at_the_edge_of_leaving_a_data_point_is_certified(dim, excess):
    points = np.random.default_rng(dim).normal(size=(9, dim))
    units = points[1:] - points[0]
    held = np.linalg.norm((units / np.linalg.norm(units, axis=1, keepdims=True)).sum(axis=0))
    assert_certified(points, [held * (1 - excess), *np.ones(8)])


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4", "u1"])
@pytest.mark.parametrize("shape", [(9, 4), (9, 300)])
def test_points_of_every_real_dtype_also_in_a_sequence_have_a_median(dtype, shape):
    points = (50 * np.random.default_rng(1).random(size=shape)).astype(dtype)
    result, of_sequence = assert_certified(points), geometric_median(list(points))
    assert np.allclose(of_sequence.point, result.point, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dim", [3, 200])
def test_huge_vectors_beside_tiny_ones_do_not_move_the_median(dtype, dim):
    points = np.random.default_rng(dim).normal(size=(20, dim))
    points[:5] = 1e38 * np.sign(points[:5])
    points[5:8] *= 1e-30
    result = assert_certified(points.astype(dtype))
    # Lemma 1 with alpha = 5/20: C_alpha = 3, and no term in the longest vector.
    assert np.linalg.norm(result.point) <= 3 * np.linalg.norm(points[5:], axis=1).max()


@pytest.mark.parametrize("scale", [1e-2, 1e-4])
@pytest.mark.parametrize("num_far", [1, 4])
def test_a_weight_too_small_for_float32_does_not_pass_unseen(scale, num_far):
    """The gap also holds at the scale of the near points, which the far ones draw one way."""
    points = (scale * np.random.default_rng(0).normal(size=(10, 3000))).astype("f4")
    points[:num_far] = 3e38
    result, exact = (geometric_median(p).point for p in (points, points.astype("f8")))
    near, others = points[num_far:].astype("f8"), num_far * np.ones(3000) / np.sqrt(3000)
    excess = objective(near, result) - objective(near, exact) - others @ (result - exact)
    assert excess <= 10 * GAMMA * objective(near, exact) / len(near)


@pytest.mark.parametrize("exponent", [-320, -300, 300, 308])
def test_magnitudes_at_the_ends_of_float64(exponent):
    points = np.random.default_rng(3).uniform(-1.7, 1.7, size=(9, 30)) * 10.0**exponent
    result = geometric_median(points)
    assert np.isfinite(result.point).all()
    # Near zero, no float64 vector lies nearer to another than about that.
    assert result.gap <= max(GAMMA, 30 * 2.0**-1074 / np.abs(points).mean())


@pytest.mark.parametrize("spread", [1.0, 1e-4, 1e-6])
@pytest.mark.parametrize(("n", "dim"), [(3, 100), (15, 5), (15, 300), (9999, 3)])
def test_many_points_or_coordinates_and_a_tight_cluster_far_from_the_origin(spread, n, dim):
    rng = np.random.default_rng(dim)
    assert_certified(rng.normal(size=dim) + spread * rng.standard_t(2, size=(n, dim)))


def test_far_points_do_not_end_the_search_early():
    vectors = np.random.default_rng(0).normal(size=(250, 1000))
    vectors[:50] *= 1e20
    units = vectors - geometric_median(vectors).point
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    assert np.linalg.norm(units.mean(axis=0)) <= 2e-9
