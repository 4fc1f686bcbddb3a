from math import sqrt

import numpy as np
import pytest

from flwr_byz import theory
from flwr_byz.theory import ConditionFails
from simulations.monte_carlo import descend

NEEDED = {"num_batches": 20, "num_byzantine": 5, "batch_samples": 1e9, "dim": 20, "alpha": 0.375}
EXAMPLE = NEEDED | {"delta": 0.01, "r": 2 * sqrt(2)}  # the conditions of both theorems hold


def theorem(number, **changes):
    arguments = EXAMPLE | {"constants": theory.linear_regression(1e9, 20, 0.01)} | changes
    return {4: theory.theorem_4, 5: theory.theorem_5}[number](**arguments)


@pytest.mark.parametrize("n", [1e9, 1e11])
def test_both_theorems_in_plain_numbers(n):
    constants = theory.linear_regression(n, 20, 0.01)
    fourth, fifth = (theorem(t, batch_samples=n, constants=constants) for t in (4, 5))
    exponent = 20 * np.log(18 * constants.M_prime / sqrt(8)) + 10 * np.log(n / 20)
    exponent += np.log(300 * np.ceil(4 * sqrt(n)))  # shells, of r = 2√2
    small = 2 * sqrt((20 * 1.791759469 + 5.703782475) / n)
    xi_1, xi_2 = 4 * 5 * small, 8 * 5 * 4 * sqrt(exponent / n)
    rho = 1 - sqrt(0.75) - xi_2 / 2
    assert (fourth.xi_1, fourth.xi_2) == pytest.approx((xi_1, xi_2))
    assert (fourth.contraction, fourth.floor) == pytest.approx((1 - rho, 0.5 * xi_1 / rho))
    assert fourth.step_size == 0.5
    assert fourth.error_after(7, 3.0) == pytest.approx((1 - rho) ** 7 * 3 + 0.5 * xi_1 / rho)
    assert fifth.contraction == pytest.approx(0.5 + sqrt(3) / 4)  # Corollary 1
    assert fifth.floor == pytest.approx(0.5 * 8 * 5 * small / (1 - sqrt(0.75)))
    theorem(4, batch_samples=1e8)  # asks for half of what Theorem 5 asks for
    assert fourth.contraction <= fifth.contraction  # Theorem 5 is Theorem 4 rounded up
    assert fourth.floor <= fifth.floor
    assert fourth.success_probability == fifth.success_probability
    assert fourth.exact_success_probability >= fourth.success_probability


def test_the_approximate_median_with_trimming_costs_what_lemma_1_says():
    exact, approximate = theorem(4), theorem(4, gamma=1e-4, trim_norm=10.0)
    assert approximate.xi_1 - exact.xi_1 == pytest.approx(1e-4 * 10 / 0.25)
    assert approximate.xi_2 - exact.xi_2 == pytest.approx(1e-4 / 0.25)
    with pytest.raises(ValueError, match="trim_norm"):
        theorem(4, gamma=1e-4)


def test_a_radius_is_rounded_up_to_a_whole_number_of_shells():
    """With r such that ℓ* = 2σ2²r√n/(α2σ1) is 1.5, 2, and 2.5."""
    shell = 8 * sqrt(2) / (16 * sqrt(1e9))
    between, whole, more = (theorem(4, r=n * shell).delta_2 for n in (1.5, 2 - 1e-12, 2.5))
    assert between == pytest.approx(whole, rel=1e-12)
    assert between < more


@pytest.mark.parametrize(
    ("number", "changes", "condition"),
    [
        (4, {"batch_samples": 50}, "Δ1 ≤ σ1²/α1"),
        (4, {"batch_samples": 1000}, "Δ2 ≤ σ2²/α2"),
        (4, {"batch_samples": 1e6}, "ρ > 0"),
        (4, {"delta": 0.126}, "δ ≤ α − q/k"),
        (5, {"batch_samples": 1e8}, "33"),
    ],
)
def test_a_condition_that_fails_is_named(number, changes, condition):
    with pytest.raises(ConditionFails) as failed:
        theorem(number, **changes)
    assert condition in failed.value.condition
    assert f"{failed.value.condition} does not hold: {failed.value.value:.4g}" in str(failed.value)


@pytest.mark.parametrize(("k", "q"), [(4, 1), (10, 2), (1, 0), (9, 4)])
@pytest.mark.parametrize("reach", [0.5, 5.0, 1e4])
def test_theorem_2_bounds_algorithm_2_on_small_instances(k, q, reach):
    """With ξ1 and ξ2 measured on the very data, so that the good event holds by construction."""
    dim, samples, rng = 2, 20_000, np.random.default_rng(3)  # as `descend` draws its data
    gradients, roughness = [], []
    for _ in range(k):
        features, noise = rng.normal(size=(samples, dim)), rng.normal(size=samples)
        gradients.append(np.linalg.norm(features.T @ noise / samples))
        hessian = features.T @ features / samples
        roughness.append(np.linalg.norm(hessian - np.eye(dim), ord=2))
    factor = theory.c_alpha(q / k)  # no other batch is bad
    xi = {"xi_1": factor * max(gradients), "xi_2": factor * max(roughness)}
    sizes = {"num_clients": k, "num_byzantine": q, "num_batches": k, "samples_per_client": samples}
    errors = descend(**sizes, dim=dim, rounds=25, distance=2.0, reach=reach, seed=3)
    for rounds, error in enumerate(errors):
        assert error <= theory.error_bound(rounds, 2.0, L=1, M=1, **xi)
