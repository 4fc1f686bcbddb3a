from math import exp, sqrt

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flwr_byz import theory
from flwr_byz.aggregation import geometric_median
from flwr_byz.theory import ConditionFails
from simulations.monte_carlo import descend

DELTA = exp(-3)


def example(**changes):
    """Return the arguments of a theorem whose conditions hold."""
    arguments = {
        "num_batches": 20,
        "num_byzantine": 5,
        "batch_samples": 1e9,
        "dim": 20,
        "alpha": 0.375,
        "delta": 0.01,
        "constants": theory.linear_regression(1e9, 20, 0.01),
        "r": 2 * sqrt(2),
    }
    return arguments | changes


@pytest.mark.parametrize("n", [1e9, 1e10, 1e11])
def test_theorem_4_in_plain_numbers(n):
    arguments = example(batch_samples=n, constants=theory.linear_regression(n, 20, 0.01))
    found = theory.theorem_4(**arguments)
    m_prime = (1 + sqrt(20 / n) + sqrt(2 * 5.991464547 / n)) ** 2
    shells = np.ceil(2 * 8 * 2 * sqrt(2) * sqrt(n) / (8 * sqrt(2)))
    exponent = 20 * np.log(18 * m_prime / sqrt(8)) + 10 * np.log(n / 20) + np.log(300 * shells)
    xi_2 = 8 * 5 * 4 * sqrt(exponent / n)
    xi_1 = 4 * 5 * 2 * sqrt((20 * 1.791759469 + 5.703782475) / n)
    rho = 1 - sqrt(0.75) - xi_2 / 2
    assert found.xi_1 == pytest.approx(xi_1)
    assert found.xi_2 == pytest.approx(xi_2)
    assert found.contraction == pytest.approx(1 - rho)
    assert found.floor == pytest.approx(0.5 * xi_1 / rho)
    assert found.step_size == 0.5
    assert found.error_after(7, 3.0) == pytest.approx((1 - rho) ** 7 * 3 + 0.5 * xi_1 / rho)


@pytest.mark.parametrize("n", [1e9, 1e10, 1e11])
def test_theorem_5_in_plain_numbers(n):
    arguments = example(batch_samples=n, constants=theory.linear_regression(n, 20, 0.01))
    found = theory.theorem_5(**arguments)
    small = 2 * sqrt((20 * 1.791759469 + 5.703782475) / n)
    assert found.contraction == pytest.approx(0.5 + sqrt(3) / 4)  # Corollary 1
    assert found.floor == pytest.approx(0.5 * 8 * 5 * small / (1 - sqrt(0.75)))


def test_theorem_5_is_theorem_4_rounded_up():
    fourth, fifth = theory.theorem_4(**example()), theory.theorem_5(**example())
    assert fourth.contraction <= fifth.contraction
    assert fourth.floor <= fifth.floor
    assert fourth.success_probability == fifth.success_probability
    assert fourth.exact_success_probability >= fourth.success_probability


def test_the_approximate_median_with_trimming_costs_what_lemma_1_says():
    exact = theory.theorem_4(**example())
    approximate = theory.theorem_4(**example(gamma=1e-4, trim_norm=10.0))
    assert approximate.xi_1 - exact.xi_1 == pytest.approx(1e-4 * 10 / 0.25)
    assert approximate.xi_2 - exact.xi_2 == pytest.approx(1e-4 / 0.25)
    with pytest.raises(ValueError, match="trim_norm"):
        theory.theorem_4(**example(gamma=1e-4))


def test_a_radius_is_rounded_up_to_a_whole_number_of_shells():
    """With r such that ℓ* = 2σ2²r√n/(α2σ1) is 1.5, and 2."""
    shell = 8 * sqrt(2) / (16 * sqrt(1e9))
    between, whole = (theory.theorem_4(**example(r=n * shell)) for n in (1.5, 2 - 1e-12))
    assert between.delta_2 == pytest.approx(whole.delta_2, rel=1e-12)
    assert between.delta_2 < theory.theorem_4(**example(r=2.5 * shell)).delta_2


@pytest.mark.parametrize(
    ("changes", "condition"),
    [
        ({"batch_samples": 50}, "Δ1 ≤ σ1²/α1"),
        ({"batch_samples": 1000}, "Δ2 ≤ σ2²/α2"),
        ({"batch_samples": 1e6}, "ρ > 0"),
        ({"alpha": 0.25}, "α > q/k"),
        ({"alpha": 0.5}, "α < 1/2"),
        ({"delta": 0.126}, "δ ≤ α − q/k"),
        ({"num_byzantine": 10}, "q/k < 1/2"),
    ],
)
def test_a_condition_of_theorem_4_that_fails_is_named(changes, condition):
    with pytest.raises(ConditionFails) as failed:
        theory.theorem_4(**example(**changes))
    assert failed.value.condition == condition


def test_equation_33_is_checked():
    enough = theory.theorem_5(**example(batch_samples=1e9)).delta_2
    assert enough <= (1 - sqrt(0.75)) / 40
    with pytest.raises(ConditionFails, match="33"):
        theory.theorem_5(**example(batch_samples=1e8))
    theory.theorem_4(**example(batch_samples=1e8))  # asks for half of that


@given(st.integers(1, 200), st.data())
def test_the_exact_probability_is_at_least_chernoffs(k, data):
    q = data.draw(st.integers(0, (k - 1) // 2))
    alpha = data.draw(st.floats(q / k, 0.5, exclude_min=True, exclude_max=True))
    room = alpha - q / k
    assume(room > 1e-12)
    delta = data.draw(st.floats(min(1e-12, room), room))
    chernoff = theory.success_probability(k, q, alpha=alpha, delta=delta)
    exact = theory.exact_success_probability(k, q, alpha=alpha, delta=delta)
    assert 0 <= chernoff <= exact + 1e-12 <= 1 + 1e-12


@given(st.floats(0, 0.4999), st.floats(0, 0.4999))
def test_c_alpha_grows(first, second):
    smaller, larger = sorted((first, second))
    assert theory.c_alpha(smaller) <= theory.c_alpha(larger)


@given(st.floats(0.01, 0.999), st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_the_rounds_to_the_floor_are_the_fewest(contraction, distance, floor):
    rounds = theory.rounds_to_floor(contraction, distance, floor)
    assert contraction**rounds * distance <= floor
    assert rounds == 0 or contraction ** (rounds - 1) * distance > floor


@pytest.mark.parametrize("power", range(1, 40))
def test_rounds_that_are_a_whole_number_are_not_rounded_up(power):
    assert theory.rounds_to_floor(0.3, 7.0, 0.3**power * 7.0) == power


@given(st.floats(1e-3, 1e3), st.floats(0.01, 1), st.floats(0, 0.99))
def test_a_round_contracts_less_the_rougher_the_gradient(M, ratio, share):
    L = M * ratio
    limit = theory.largest_xi_2(L, M)
    assume(theory.population_contraction(L, M) < 1)
    rho = theory.rho(L, M, share * limit)
    assert 0 < rho <= 1 - theory.population_contraction(L, M) + 1e-15
    assert theory.sharp_population_contraction(L, M) <= theory.population_contraction(L, M)
    assert theory.contraction(L, M) >= theory.population_contraction(L, M)


@given(st.integers(1, 10**6), st.integers(1, 1000), st.floats(1e-9, 0.99))
def test_deviations_fall_with_samples_and_grow_with_dimension(n, d, delta):
    here = theory.delta_1(n, d, delta, 1.0)
    assert theory.delta_1(4 * n, d, delta, 1.0) == pytest.approx(here / 2)
    assert theory.delta_1(n, d + 1, delta, 1.0) > here
    assert theory.delta_1(n, d, delta / 2, 1.0) > here


@given(st.integers(3, 30), st.integers(1, 6), st.integers(0, 2**32 - 1), st.data())
def test_lemma_1_bounds_the_median_whatever_the_others_are(n, d, seed, data):
    num_byzantine = data.draw(st.integers(0, (n - 1) // 2))
    scale = data.draw(st.sampled_from([0.1, 1.0, 3.0, 1e6]))
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, d))
    radius = np.linalg.norm(points[num_byzantine:], axis=1).max()
    points[:num_byzantine] = scale * rng.normal(size=d)
    median = geometric_median(points)
    bound = theory.median_radius(
        num_byzantine / n,
        radius,
        gamma=median.gap,
        largest=np.linalg.norm(points, axis=1).max(),
    )
    assert np.linalg.norm(median.point) <= bound * (1 + 1e-9)


@pytest.mark.parametrize(("k", "q"), [(4, 1), (10, 2), (1, 0), (9, 4)])
@pytest.mark.parametrize("reach", [0.5, 5.0, 1e4])
def test_theorem_2_bounds_algorithm_2_on_small_instances(k, q, reach):
    """With ξ1 and ξ2 measured on the very data, so that the good event holds by construction."""
    dim, samples, seed, distance = 2, 40_000, 3, 2.0
    rng = np.random.default_rng(seed)  # as `descend` draws its data
    gradients_at_optimum, roughness = [], []
    for _ in range(k):
        features = rng.normal(size=(samples, dim))
        noise = rng.normal(size=samples)
        gradients_at_optimum.append(np.linalg.norm(features.T @ noise / samples))
        hessian = features.T @ features / samples
        roughness.append(np.linalg.norm(hessian - np.eye(dim), ord=2))
    alpha = q / k  # no other batch is bad
    xi_1 = theory.c_alpha(alpha) * max(gradients_at_optimum)
    xi_2 = theory.c_alpha(alpha) * max(roughness)
    errors = descend(
        num_clients=k,
        num_byzantine=q,
        num_batches=k,
        samples_per_client=samples,
        dim=dim,
        rounds=25,
        distance=distance,
        reach=reach,
        seed=seed,
    )
    for rounds, error in enumerate(errors):
        bound = theory.error_bound(rounds, distance, L=1, M=1, xi_1=xi_1, xi_2=xi_2)
        assert error <= bound
