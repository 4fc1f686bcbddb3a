import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flwr_byz.aggregation import geometric_median
from tests.support.reference import best_known_objective, objective

GAMMA = 1e-9


def assert_certified(points, weights=None, gamma=GAMMA):
    """The gap is as asked for, a true bound, and weights and objective say what they promise."""
    result = geometric_median(points, weights, gamma=gamma)
    digits, place_digits = (1e-6, 1e-6) if points.dtype == np.float32 else (1e-12, 1e-9)
    points = np.asarray(points, np.float64)
    best = best_known_objective(points, weights)
    reached = objective(points, result.point, weights)
    assert result.gap <= gamma
    assert np.isclose(result.objective, reached, rtol=digits)
    assert reached <= (1 + result.gap) * best * (1 + 1e-14)
    assert (result.weights >= 0).all()
    assert result.weights.sum() == pytest.approx(1, abs=1e-12)
    largest = np.abs(points).max(initial=0.0)
    assert np.allclose(
        result.weights @ points, result.point, rtol=place_digits, atol=place_digits * 1e-4 * largest
    )
    return result


coordinates = st.floats(-1e3, 1e3, width=32).map(lambda x: round(x, 3))


def point_sets(min_points=1, max_points=12, max_dim=8, elements=coordinates):
    shapes = st.tuples(st.integers(min_points, max_points), st.integers(1, max_dim))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=elements))


@settings(max_examples=200, deadline=None)
@given(point_sets())
def test_any_points_have_a_certified_median(points):
    assert_certified(points)


@settings(max_examples=60, deadline=None)
@given(point_sets(max_points=8), st.data())
def test_any_weights_have_a_certified_median(points, data):
    mass = st.sampled_from([0.0, 1e-9, 0.1, 1.0, 2.0, 1e6])
    weights = data.draw(st.lists(mass, min_size=len(points), max_size=len(points)).filter(any))
    assert_certified(points, weights)


@settings(max_examples=60, deadline=None)
@given(point_sets(max_points=1, max_dim=20))
def test_one_point_is_its_own_median(points):
    assert np.array_equal(assert_certified(points).point, points[0])


@settings(max_examples=60, deadline=None)
@given(point_sets(min_points=2, max_points=2, max_dim=20))
def test_the_median_of_two_points_lies_between_them(points):
    result = assert_certified(points)
    assert result.objective == pytest.approx(np.linalg.norm(points[0] - points[1]))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(coordinates, min_size=1, max_size=11),
    hnp.arrays(np.float64, 6, elements=coordinates),
    hnp.arrays(np.float64, 6, elements=coordinates),
)
def test_collinear_points_have_a_minimiser_although_it_is_not_unique(steps, direction, origin):
    assert_certified(origin + np.outer(steps, direction))


@settings(max_examples=60, deadline=None)
@given(point_sets(min_points=2, max_dim=1, max_points=15))
def test_in_one_dimension_it_is_a_median(points):
    result = assert_certified(points)
    below, above = (points < result.point - 1e-9).sum(), (points > result.point + 1e-9).sum()
    assert 2 * below <= len(points)
    assert 2 * above <= len(points)


@settings(max_examples=60, deadline=None)
@given(point_sets(min_points=1, max_points=5, max_dim=12), st.data())
def test_a_majority_of_exact_duplicates_is_the_median(points, data):
    duplicate = data.draw(hnp.arrays(np.float64, points.shape[1], elements=coordinates))
    all_points = np.concatenate([points, np.tile(duplicate, (len(points) + 1, 1))])
    assert np.array_equal(assert_certified(all_points).point, duplicate)


@settings(max_examples=60, deadline=None)
@given(point_sets(min_points=2, max_points=6, max_dim=12), st.integers(2, 4))
def test_duplicates_short_of_a_majority_are_counted(points, times):
    assert_certified(np.concatenate([points, np.tile(points[0], (times - 1, 1))]))


@settings(max_examples=60, deadline=None)
@given(point_sets(min_points=1, max_points=6, max_dim=30), st.data())
def test_a_median_that_sits_on_a_data_point_is_found_exactly(points, data):
    centre = data.draw(hnp.arrays(np.float64, points.shape[1], elements=st.integers(-9, 9)))
    symmetric = np.concatenate([centre + points, centre - points, centre[None]])
    result = assert_certified(symmetric)
    assert result.objective <= objective(symmetric, centre) * (1 + 1e-13)


@pytest.mark.parametrize("excess", [-1e-3, -1e-9, 0.0, 1e-12, 1e-9, 1e-8, 1e-7, 1e-6, 1e-4, 1e-2])
@pytest.mark.parametrize("dim", [2, 3, 40])
def test_a_median_at_the_edge_of_leaving_a_data_point_is_certified(dim, excess):
    rng = np.random.default_rng(dim)
    points = rng.normal(size=(9, dim))
    units = points[1:] - points[0]
    pull = np.linalg.norm((units / np.linalg.norm(units, axis=1, keepdims=True)).sum(axis=0))
    assert_certified(points, [pull * (1 - excess), *np.ones(8)])


@pytest.mark.parametrize("num_zero", [1, 3, 5])
def test_zero_vectors_are_points_like_others(num_zero):
    points = np.random.default_rng(num_zero).normal(size=(5, 7))
    points[:num_zero] = 0.0
    assert_certified(points)


@pytest.mark.parametrize("draw", ["normal", "standard_cauchy"])
def test_ten_thousand_points_in_few_dimensions(draw):
    points = getattr(np.random.default_rng(0), draw)(size=(10_000, 3))
    assert_certified(points)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32, np.uint8])
@pytest.mark.parametrize("shape", [(9, 4), (9, 300)])
def test_every_real_dtype_has_a_certified_median_in_float64(dtype, shape):
    points = (50 * np.random.default_rng(1).random(size=shape)).astype(dtype)
    assert assert_certified(points).point.dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dim", [3, 200])
def test_huge_vectors_beside_tiny_ones_do_not_move_the_median(dtype, dim):
    rng = np.random.default_rng(dim)
    points = rng.normal(size=(20, dim))
    points[5:8] *= 1e-30
    honest = points[5:].copy()
    points[:5] = 1e38 * np.sign(points[:5])
    result = assert_certified(points.astype(dtype))
    radius = np.linalg.norm(honest, axis=1).max()
    # Lemma 1 with alpha = 5/20: C_alpha = 3, and no term in the longest vector.
    assert np.linalg.norm(result.point) <= 3 * radius


@pytest.mark.parametrize("scale", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("num_far", [1, 4])
def test_a_weight_too_small_for_float32_does_not_pass_unseen(scale, num_far):
    """The gap also holds at the scale of the near points, whose median the far ones pull."""
    rng = np.random.default_rng(0)
    points = (scale * rng.normal(size=(10, 3000))).astype("f4")
    points[:num_far] = 3e38
    result, exact = (geometric_median(p) for p in (points, points.astype("f8")))
    near, pull = points[num_far:].astype("f8"), num_far * np.ones(3000) / np.sqrt(3000)

    def near_objective(x):
        return np.linalg.norm(near - x, axis=1).sum() - pull @ x

    typical = np.linalg.norm(near - exact.point, axis=1).mean()
    excess = near_objective(result.point) - near_objective(exact.point)
    assert excess <= 10 * GAMMA * typical


@pytest.mark.parametrize("exponent", [-320, -300, 300, 308])
def test_magnitudes_at_the_ends_of_float64(exponent):
    points = np.random.default_rng(3).uniform(-1.7, 1.7, size=(9, 30)) * 10.0**exponent
    result = geometric_median(points)
    assert np.isfinite(result.point).all()
    # Near zero, no float64 vector lies nearer to another than about that.
    resolution = len(points[0]) * 2.0**-1074 / np.abs(points).mean()
    assert result.gap <= max(GAMMA, resolution)


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("dim", [5, 1000])
def test_a_tight_cluster_far_from_the_origin(spread, dim):
    rng = np.random.default_rng(dim)
    points = rng.normal(size=dim) + spread * rng.normal(size=(15, dim))
    assert_certified(points)


@settings(max_examples=60, deadline=None)
@given(point_sets(min_points=4, max_points=10, max_dim=6), st.sampled_from([1e-12, 1e-8, 1e-4]))
def test_nearly_collinear_points(points, noise):
    line = points[:, :1] * np.arange(1, points.shape[1] + 1)
    assert_certified(line + noise * points)


def test_points_that_differ_in_their_last_digits():
    base = np.random.default_rng(0).normal(size=50)
    assert_certified(np.stack([base, np.nextafter(base, np.inf)]))


@settings(max_examples=40, deadline=None)
@given(point_sets(min_points=3, max_points=9, max_dim=20), st.randoms())
def test_the_order_of_points_does_not_move_the_median(points, random):
    order = list(range(len(points)))
    random.shuffle(order)
    first, second = geometric_median(points), geometric_median(points[order])
    assert second.objective == pytest.approx(first.objective, rel=1e-9)


def test_a_sequence_of_vectors_gives_what_the_array_gives():
    points = np.random.default_rng(0).normal(size=(7, 500)).astype(np.float32)
    array, rows = geometric_median(points), geometric_median(list(points))
    assert np.allclose(array.point, rows.point, rtol=1e-5, atol=1e-6)
    assert array.gap == rows.gap


def test_lemma_1_holds_for_a_coarse_gap():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(30, 10))
    points[:9] = 1e4
    result = geometric_median(points, gamma=0.1)
    assert result.gap <= 0.1
    alpha, radius = 9 / 30, np.linalg.norm(points[9:], axis=1).max()
    best = best_known_objective(points)
    bound = 2 * (1 - alpha) / (1 - 2 * alpha) * radius + result.gap * best / ((1 - 2 * alpha) * 30)
    assert np.linalg.norm(result.point) <= bound


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_non_finite_row_is_named(value):
    points = np.zeros((4, 3))
    points[2, 1] = value
    with pytest.raises(ValueError, match=r"points\[2\]"):
        geometric_median(points)


def test_a_ragged_row_is_named():
    with pytest.raises(ValueError, match=r"points\[1\]"):
        geometric_median([np.zeros(3), np.zeros(4)])


@pytest.mark.parametrize(
    "points", [np.zeros((0, 3)), [], np.zeros(3), np.zeros((2, 2), complex), [["a"]], 5, [object()]]
)
def test_what_is_no_set_of_real_vectors_is_refused(points):
    with pytest.raises((TypeError, ValueError), match=r"points|vectors"):
        geometric_median(points)


@pytest.mark.parametrize("weights", [[1.0], [-1.0, 2.0], [0.0, 0.0], [np.nan, 1.0]])
def test_weights_that_are_no_masses_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        geometric_median(np.zeros((2, 2)), weights)


@pytest.mark.parametrize("gamma", [0.0, -1.0, np.nan, np.inf])
def test_a_gap_that_cannot_be_asked_for_is_refused(gamma):
    with pytest.raises(ValueError, match="gamma"):
        geometric_median(np.zeros((2, 2)), gamma=gamma)
