"""The sharper bound: each step against simulation, an attained case or SciPy, then the whole."""

from fractions import Fraction
from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from flwr_byz import theory
from flwr_byz.aggregation import geometric_median
from flwr_byz.theory import ConditionFails
from simulations.monte_carlo import as_built, trainings

EXAMPLE = {"num_batches": 20, "num_byzantine": 5, "confidence": 0.99, "step_size": 1.0}


def example(samples_per_client, **changes):
    precision = theory.gaussian_precision(2 * samples_per_client, 20)
    return theory.sharp_bound(**EXAMPLE | {"precision": precision} | changes)


@pytest.mark.parametrize(("samples", "most"), [(300, 4.47), (1000, 0.40), (5000, 0.12)])
def test_forty_clients_have_a_guarantee_from_three_hundred_samples_on(samples, most):
    assert example(samples).floor <= most


@given(st.integers(1, 60), st.data(), st.floats(0.5, 0.9999))
def test_delta_is_the_largest_that_keeps_the_confidence(k, data, confidence):
    j = data.draw(st.integers(0, k - 1))
    delta = theory.largest_delta(k, j, confidence)
    assert binom.cdf(j, k, delta) == pytest.approx(confidence, abs=1e-9)


@pytest.mark.parametrize(("k", "j"), [(1, 0), (20, 0), (20, 3), (50, 49), (1000, 0), (1000, 7)])
@pytest.mark.parametrize("missing", [0.999, 0.3, 1e-3, 1e-12, 1e-15])
def test_delta_is_rounded_down_however_near_1_the_confidence_is(k, j, missing):
    def kept(delta):
        return sum(comb(k, i) * delta**i * (1 - delta) ** (k - i) for i in range(j + 1))

    delta = Fraction(theory.largest_delta(k, j, 1 - missing))
    assert kept(delta) >= 1 - missing > kept(delta * (1 + Fraction(1, 10**9)))


def test_delta_of_a_million_batches():
    delta = theory.largest_delta(10**6, 3000, 0.999)
    assert binom.cdf(3000, 10**6, delta) == pytest.approx(0.999, abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(30, 20), (200, 20), (50, 1), (2000, 5)])
def test_gaussian_batches_leave_their_radii_no_more_often_than_delta(n, d):
    rng, delta, draws = np.random.default_rng([n, d]), 0.05, 2000
    gradient, hessian = (f(n, d, delta) for f in (theory.gradient_radius, theory.hessian_radius))
    left = np.zeros(2)
    for _ in range(draws):
        features, noise = rng.normal(size=(n, d)), rng.normal(size=n)
        curvatures = np.linalg.eigvalsh(features.T @ features / n)
        left += [
            np.linalg.norm(features.T @ noise / n) > gradient,
            np.abs(curvatures - 1).max() > hessian,
        ]
    assert (left <= delta * draws).all()


@pytest.mark.parametrize("radius", [theory.gradient_radius, theory.hessian_radius])
def test_a_radius_falls_with_the_root_of_the_samples(radius):
    assert radius(1e8, 20, 0.01) == pytest.approx(radius(1e6, 20, 0.01) / 10, rel=0.01)


@given(st.integers(3, 20), st.integers(1, 5), st.integers(0, 2**32 - 1), st.data())
def test_a_point_of_certified_residual_is_within_its_factor_of_any_majority(n, d, seed, data):
    num_byzantine = data.draw(st.integers(0, (n - 1) // 2))
    alpha = num_byzantine / n
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, d))
    points[:num_byzantine] = data.draw(st.sampled_from([0.1, 3.0, 1e9])) * rng.normal(size=d)
    radius = np.linalg.norm(points[num_byzantine:], axis=1).max()
    point = geometric_median(points).point + data.draw(st.floats(0, 2)) * rng.normal(size=d)
    offsets = points - point
    residual = np.linalg.norm((offsets / np.linalg.norm(offsets, axis=1)[:, None]).mean(axis=0))
    if residual < 1 - 2 * alpha:
        bound = theory.certified_c_alpha(alpha, float(residual)) * radius
        assert np.linalg.norm(point) <= bound * (1 + 1e-9)


@pytest.mark.parametrize("residual", [0.0, 0.001, 0.2, 0.45])
def test_the_factor_of_a_certified_point_is_attained(residual):
    """Seen from the point 0, near points lie on tangents to their circle about a centre."""
    slope = (0.25 + residual) / 0.75  # what each near point makes up for, and the residual
    side = sqrt(1 - slope**2)
    points = np.array([[-slope, side], [-slope, -side]] * 3 + [[1e6, 0.0]] * 2)
    units = points / np.linalg.norm(points, axis=1)[:, None]
    assert np.linalg.norm(units.mean(axis=0)) == pytest.approx(residual, abs=1e-12)
    radii = np.linalg.norm(points[:6] - [-1 / slope, 0.0], axis=1)
    assert 1 / slope == pytest.approx(theory.certified_c_alpha(0.25, residual) * radii.max())


@given(st.floats(0.01, 1), st.floats(1, 10), st.floats(0.01, 0.99))
def test_the_contraction_of_a_step_is_attained_by_a_quadratic(L, M, share):
    step = share * 2 / M
    moved = np.abs(1 - step * np.array([L, M])).max()
    assert theory.step_contraction(step, L, M) == pytest.approx(moved)
    assert theory.step_contraction(theory.longest_step(L, M), L, M) <= moved + 1e-12


@pytest.mark.parametrize(
    ("changes", "condition"),
    [
        ({"num_byzantine": 10}, "q/k < 1/2"),
        ({"precision": theory.gaussian_precision(20, 20)}, "ηξ2 < 1"),
        ({"step_size": 2.5}, "ηM − 1) < 1"),
    ],
)
def test_a_condition_of_the_sharp_bound_that_fails_is_named(changes, condition):
    with pytest.raises(ConditionFails, match="does not hold") as failed:
        example(1000, **changes)
    assert condition in failed.value.condition


@pytest.mark.parametrize("samples", [300, 1000])
def test_the_bound_holds_in_every_round_of_simulated_trainings(samples):
    bound = example(samples)
    sizes = {"num_batches": 20, "num_byzantine": 5, "dim": 20, "batch_samples": 2 * samples}
    sizes |= {"count": 10, "rounds": 15, "distance": sqrt(20), "seed": 0}
    errors = trainings(**sizes, aggregate=as_built())
    for rounds, error in enumerate(errors.T):
        assert (error <= bound.error_after(rounds, sqrt(20))).all()
    assert bound.floor <= 15 * errors[:, -1].max()


def test_measured_radii_are_kept_by_all_but_delta_of_the_pilot_batches():
    firsts, seconds = np.random.default_rng(0).exponential(size=(2, 1000))
    for delta in (0.01, 0.1, 0.5):
        for first, second in theory.measured_precision(firsts, seconds)(delta):
            assert ((firsts > first) | (seconds > second)).mean() <= delta + 1e-9


def test_the_floor_is_nearly_the_smallest_over_all_numbers_of_bad_batches():
    rng, pilot = np.random.default_rng(0), []
    for _ in range(1000):
        features, noise = rng.normal(size=(200, 20)), rng.normal(size=200)
        curvatures = np.linalg.eigvalsh(features.T @ features / 200)
        pilot.append([np.linalg.norm(features.T @ noise / 200), np.abs(curvatures - 1).max()])
    precision = theory.measured_precision(*np.transpose(pilot))
    changes = {"num_batches": 100, "num_byzantine": 10, "confidence": 0.999}
    found = example(200, precision=precision, **changes)
    floors = []
    for num_bad in range(40):
        factor = theory.certified_c_alpha((10 + num_bad) / 100, 0.0)
        for first, second in precision(theory.largest_delta(100, num_bad, 0.999)):
            if factor * second < 1:
                floors.append(factor * first / (1 - factor * second))
    assert min(floors) <= found.floor <= 1.1 * min(floors)


def test_a_heavy_tailed_mean_keeps_chebyshevs_radius():
    rng, delta = np.random.default_rng(0), 0.1
    means = rng.standard_t(2.5, size=(4000, 40, 3)).mean(axis=1)
    variance = 3 * 2.5 / 0.5
    ((radius, none),) = theory.finite_variance_precision(40, variance)(delta)
    assert none == 0
    assert (np.linalg.norm(means, axis=1) > radius).mean() <= delta


@given(st.integers(2, 30), st.integers(1, 6), st.integers(0, 2**32 - 1), st.data())
def test_the_spectral_certificate_of_a_mean_holds_whatever_is_sent(k, d, seed, data):
    q = data.draw(st.integers(0, k - 1))
    rng, far = np.random.default_rng(seed), data.draw(st.sampled_from([0.1, 3.0, 1e6]))
    vectors = rng.normal(size=(k, d))
    vectors[:q] = far * rng.normal(size=d) + data.draw(st.sampled_from([0, 1])) * vectors[:q]
    offset = np.linalg.norm(vectors.mean(axis=0) - vectors[q:].mean(axis=0))
    assert offset <= theory.spectral_certificate(vectors, q) * (1 + 1e-9)


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e200, 1e300, 1.7e308])
def test_the_spectral_certificate_is_in_the_units_of_the_vectors(scale):
    vectors = np.array([[1.0, 1.0], [1.0, 0.9], [0.9, 0.9], [-1.0, 1.0]])
    expected = theory.spectral_certificate(vectors, 1)
    assert theory.spectral_certificate(scale * vectors, 1) / scale == pytest.approx(expected, 1e-3)
    assert theory.spectral_certificate(0 * vectors, 1) == 0
