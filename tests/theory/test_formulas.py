"""Every formula at points worked out by hand."""

import math
from fractions import Fraction
from functools import partial
from math import log, sqrt

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from flwr_byz import theory
from flwr_byz.aggregation import geometric_median
from flwr_byz.theory.equilibrium import equilibrium
from simulations import monte_carlo
from tests.support.table import table

ONES = dict.fromkeys(("sigma_1", "alpha_1", "sigma_2", "alpha_2", "M_prime"), 1)
STEEP = theory.Statistics(L=2.0, M=4.0, sigma=3.0, growth=0.5)
X = 0.1 * equilibrium(20, 20, 5)
SHELL = 8 * sqrt(2) / (16 * sqrt(1e9))  # r for which ℓ* = 2σ2²r√n/(α2σ1) is 1
EXAMPLE = {"num_clients": 40, "num_byzantine": 5, "samples_per_client": 50, "dim": 20}
THEOREM = {"num_batches": 20, "num_byzantine": 5, "batch_samples": 1e9, "dim": 20, "alpha": 0.375}
THEOREM |= {"delta": 0.01, "r": 2 * sqrt(2)}  # the conditions of both theorems hold


def theorem(number, **changes):
    arguments = THEOREM | {"constants": theory.linear_regression(1e9, 20, 0.01)} | changes
    return {4: theory.theorem_4, 5: theory.theorem_5}[number](**arguments)


NAMES = (
    vars(math) | vars(theory) | {"equilibrium": equilibrium, "ONES": ONES, "STEEP": STEEP, "X": X}
)
NAMES |= {"plan": partial(theory.plan, **EXAMPLE), "theorem": theorem, "SHELL": SHELL}
FLAT = theory.Statistics.from_matrices(2 * np.eye(20), 4 * np.eye(20))
TURNED = theory.Statistics(sigma=3.0, growth=0.0)
NAMES |= {"FLAT": FLAT, "TURNED": TURNED, "binom": stats.binom}
NAMES |= {"np": np, "APART": np.eye(2, 3)}
# Of the proof of Lemma 7: a net of each shell, of a width that cancels but for this; all shells.
NAMES["NET"] = 7 * log(6) + 7 * log(3 * 2.5 / (2.1 * sqrt(7 / 300)))
NAMES["SHELLS"] = 1.7 * sqrt(7) / (4 * 1.3 / (2 * 2.1**2) * sqrt(7 / 300))
NAMES["SCATTER"] = {"sigma_1": 1.3, "sigma_2": 2.1, "alpha_2": 4, "r": 1.7}

VALUES = """
c_alpha(0) : 2 | c_alpha(0.375) : 5 | sharp_c_alpha(0) : 1 | sharp_c_alpha(0.48) : 2.6
median_radius(0.25, 2.0) : 6 | median_radius(0.25, 2.0, gamma=0.01, largest=100.0) : 6 + 1 / 0.5
step_size(3, 5) : 0.06 | population_contraction(3, 5) : sqrt(0.91)
contraction(3, 5) : 0.5 + sqrt(0.91) / 2
rho(1, 2, 0.2) : 0.0317541634481457 - 0.025 | largest_xi_2(1, 1) : 2 - sqrt(3)
xi_1(0.375, 0.01) : 0.2 | xi_2(0.4, 2.0) : 96
error_bound(50, 3, L=1, M=1, xi_1=0.02, xi_2=0.1) : 0.9160254038**50 * 3 + 0.119083633
delta_2(300, 7, 0.03, **SCATTER, M=2.5, M_prime=1) : 2.1 * sqrt((NET + log(100 * SHELLS)) / 150)
delta_2(300, 7, 0.03, **SCATTER, M=1, M_prime=2.5) : 2.1 * sqrt((NET + log(100 * SHELLS)) / 150)
delta_1(5000, 3, 0.1, sqrt(8)) : 4 * sqrt((3 * log(6) + log(30)) / 5000)
check_delta('1', sqrt(2), sqrt(2), sqrt(2)) or 0 : 0
binary_divergence(0.5, 0.25) : 0.5 * log(2) + 0.5 * log(2 / 3) | binary_divergence(0.3, 0.3) : 0
binary_divergence(0.0, 0.25) : log(4 / 3) | binary_divergence(1.0, 0.25) : log(4)
binary_divergence(0.5, 0.0) : inf | binary_divergence(0.0, 0.0) : 0
success_probability(20, 5, alpha=0.375, delta=0.05) : 1 - exp(-20 * 0.0425780055269189)
error_rate(20, 20, 2000) : sqrt(0.2) | error_rate(8, 2, 1) : 4 | minimax_rate(1, 400) : 0.05
paper_rate(20, 5, 2000) : sqrt(0.05) | paper_rate(20, 0, 2000) : 0.1
communication(40, 20, 12) : 40 * 20 * 12 | rounds_to_floor(0.0, 5.0, 1.0) : 1
server_computation(20, 40, 20, 2000) : 40 * 20 + 20 * 20 * 7.600902459542082**3
client_computation(5, 8, 1) : 0.625
linear_regression(800, 2, 0.01).M_prime : (1 + 0.05 + sqrt(2 * 5.991464547 / 800)) ** 2
linear_regression(9, 9, 0.5).alpha_1 ** 2 : 2
expected_error(20, 2000, 20, 5) : X / sqrt(1 - X**2)
expected_error(20, 2000, 20, 5, STEEP) : 3 * X / sqrt(4 - 0.25 * X**2)
expected_error(100, 1000, 2, 0) : 0.1**0.5 / 0.9**0.5
expected_error(20, 2000, 20, 0) : 1 / sqrt(100 / equilibrium(20, 20, 0)**2 - 1)
expected_contraction(20, 2000, 20, 5, STEEP) : 1 - 2 / 32 * (2 - 0.5 * X)
expected_contraction(20, 2000, 20, 5, local_steps=3) : 1 / 8 + 7 / 8 * X
expected_contraction(20, 2000, 20, 5, step=1.2) : 0.2 + 0.8 * X
expected_error(20, 2000, 20, 5, TURNED) : 3 * expected_error(20, 2000, 20, 5, FLAT)
exact_success_probability(12, 4, alpha=5 / 12, delta=0.0302) : binom.cdf(1, 12, 0.0302)
exact_success_probability(10, 1, alpha=0.3, delta=0.2) : binom.cdf(2, 10, 0.2)
success_probability(np.int64(20), 5, alpha=np.float32(0.375), delta=np.float32(0.125)) : 0
exact_success_probability(20, 5, alpha=np.float32(0.375), delta=0.01) : binom.cdf(2, 20, 0.01)
equilibrium(7, 2, 0) : sqrt(7 / 2) | equilibrium(7, 1, 0, 5.0) : sqrt(7)
plan().num_batches : 40 | plan().gamma : 1 / 2000 | plan().step_size : 0.5
plan(num_batches=20).trim_norm : 2 * sqrt(20 + 20 * 21 / 100)
plan(samples_per_client=20).gamma : 0.0005 | plan(epsilon=1.0).num_batches : 20
plan(num_batches=20).error_rate : sqrt(0.2) | plan().numbers_sent : 800 * plan().rounds
plan(samples_per_client=[100, 50] * 20).error_rate : sqrt(800 * 20 * (1 / 100 + 1 / 50)) / 40
plan().minimax_rate : 0.1 | plan(num_byzantine=0).num_batches : 1
plan(num_byzantine=0).clean_error : 0.1 / sqrt(0.99)
plan(num_byzantine=0).expected_error : 0.1 / sqrt(0.99)
plan(statistics=Statistics(sigma=2.0)).expected_error : 2 * plan().expected_error
theorem(4, gamma=1e-4, trim_norm=10.0).xi_1 : theorem(4).xi_1 + 1e-4 * 10 / 0.25
theorem(4, gamma=1e-4, trim_norm=10.0).xi_2 : theorem(4).xi_2 + 1e-4 / 0.25
theorem(4, r=1.5 * SHELL).delta_2 : theorem(4, r=(2 - 1e-12) * SHELL).delta_2
theorem(4, r=2.5 * SHELL).delta_2 : theorem(4, r=(3 - 1e-12) * SHELL).delta_2
"""
REFUSED = """
c_alpha(-0.1) : alpha | c_alpha(0.5) : alpha | sharp_c_alpha(0.7) : alpha
sharp_c_alpha(nan) : alpha | median_radius(0.25, 2.0, gamma=0.1, largest=1.0) : largest
step_size(0, 1) : L must be .* above 0 | population_contraction(1, 0) : M must be .* above 0
contraction(2, 1) : L ≤ M | step_contraction(0.1, nan, 1) : L must be a finite number
rho(1, 1, 0.3279491924311228) : ρ > 0.*-0\\.03.*must be below 0\\.2679
delta_2(1, 100, 0.1, sigma_1=1, sigma_2=3, alpha_2=1, M=1, M_prime=1, r=1) : σ2
check_delta('1', 1.5, sqrt(2), sqrt(2)) : Δ1 ≤ σ1²/α1.*1\\.5.*1\\.414
binary_divergence(-0.1, 0.5) : a must be a finite number | binary_divergence(0.5, 1.1) : b must
binary_divergence(nan, 0.5) : a must be a finite number
success_probability(20, 5, alpha=0.25, delta=0.01) : α > q/k
success_probability(20, 5, alpha=0.5, delta=0.01) : α < 1/2
success_probability(20, 10, alpha=0.49, delta=0.01) : q/k < 1/2
exact_success_probability(20, 5, alpha=0.375, delta=0.2) : δ ≤ α − q/k
exact_success_probability(20, 5, alpha=0.375, delta=0.0) : δ > 0
rounds_to_floor(1.0, 10.0, 1.0) : contraction | rounds_to_floor(-0.1, 10.0, 1.0) : contraction
rounds_to_floor(0.5, 10.0, 0.0) : floor | expected_error(4, 100, 2, 1) : q/k < 1/2
Constants(**ONES, L=2, M=1) : L ≤ M | Constants(**ONES, L=0, M=1) : L must
Constants(**dict(ONES, sigma_1=-1), L=1, M=1) : sigma_1 must
Constants(**dict(ONES, M_prime=inf), L=1, M=1) : M_prime must
Statistics(L=2.0) : L ≤ M | Statistics(sigma=0.0) : sigma must
Statistics(growth=-1.0) : growth must | Statistics(M=inf) : M must
Statistics(curvatures=(0.1, 9.0), variances=(1.0, 1.0), skewnesses=(0.0, 0.0)) : L=0.1, M=9
Statistics(curvatures=(1.0,), variances=(1.0,), skewnesses=(nan,)) : skewnesses must
Statistics.from_matrices([[1, 5], [0, 1]], np.eye(2)) : hessian must be symmetric
Statistics.from_matrices(np.eye(2), [[1, 2], [2, 1]]) : covariance must
plan(num_byzantine=20) : num_byzantine | plan(num_byzantine=-1) : num_byzantine
plan(num_byzantine=1.5) : num_byzantine | plan(num_clients=0) : num_clients | plan(dim=0) : dim
plan(samples_per_client=0) : samples_per_client | plan(epsilon=0.0) : epsilon | plan(dim='20') : dim
plan(num_clients=None, num_byzantine=None, target_error=1.0) : num_clients and num_byzantine
plan(num_batches=20, target_error=1.0) : leave one | plan(samples_per_client=None) : plan needs
plan(samples_per_client=[50] * 39) : 39 sizes | plan(samples_per_client=[0] * 40) : samples_per
plan(num_batches=10) : num_batches | plan(confidence=1.0) : confidence | plan(local_steps=0) : local
plan(target_error=0.01) : out of reach: num_batches=40 leaves 0\\.227 | plan(step_size=2.0) : step
plan(num_byzantine=None, target_error=0.01) : out of reach: num_byzantine=0
plan(dim=7, statistics=FLAT) : 20 directions | measured_bias(np.ones(3), 5, seed=0) : shape
plan(epsilon=0.5, num_batches=20) : give one
plan(num_clients=None, samples_per_client=[50] * 40, target_error=1.0) : samples_per_client
plan(num_clients=None, num_byzantine=10**9, target_error=1.0) : num_byzantine
plan(dim=True) : dim | plan(distance=0.0) : distance | plan(distance=inf) : distance
theorem(4, gamma=1e-4) : trim_norm | theorem(4, batch_samples=50) : Δ1 ≤ σ1²/α1 does not hold: 1.823
theorem(4, delta=0.126) : δ ≤ α − q/k | theorem(4, batch_samples=1000) : Δ2 ≤ σ2²/α2 does not hold
theorem(4, batch_samples=1e6) : ρ > 0 does not hold | theorem(5, batch_samples=1e8) : 33.* not hold
estimate_statistics(np.zeros(3), np.zeros((3, 2, 1))) : parameters must have shape
estimate_statistics(np.zeros((1, 3)), np.zeros((1, 2, 3))) : parameters must have shape
estimate_statistics(APART, np.zeros((2, 2, 4))) : gradients must have shape
estimate_statistics(APART, np.zeros((2, 1, 3))) : gradients must have shape
estimate_statistics(np.zeros((2, 3)), np.ones((2, 2, 3))) : equal
estimate_statistics(np.full((2, 3), nan), np.ones((2, 2, 3))) : finite
estimate_statistics(APART, nan * np.ones((2, 2, 3))) : finite
estimate_statistics(APART, -APART[:, None] * np.ones((2, 2, 3))) : strongly convex
"""


@pytest.mark.parametrize(("formula", "value"), table(VALUES))
def test_a_formula_has_the_value_worked_out_by_hand(formula, value):
    assert eval(formula, NAMES) == pytest.approx(eval(value, NAMES))


@pytest.mark.parametrize(("formula", "said"), table(REFUSED))
def test_what_is_out_of_range_is_refused_by_name(formula, said):
    with pytest.raises((TypeError, ValueError), match=said):
        eval(formula, NAMES)


@pytest.mark.parametrize(("n", "q"), [(10, 2), (9, 3), (20, 8)])
def test_the_sharp_factor_is_reached(n, q):
    """Seen from the median, half of the honest points lie on either tangent to their circle."""
    slope = q / (n - q)  # what each honest point has to make up for
    side = sqrt(1 - slope**2)
    points = np.array([[-slope, side], [-slope, -side]] * ((n - q) // 2) + [[1e6, 0.0]] * q)
    centre = np.array([-1 / slope, 0.0])
    radius = np.linalg.norm(points[: n - q] - centre, axis=1).max()
    moved = np.linalg.norm(geometric_median(points).point - centre)
    assert moved == pytest.approx(theory.sharp_c_alpha(q / n) * radius, rel=1e-6)


def test_lemmas_6_and_8_hold_as_often_as_they_say():
    rng = np.random.default_rng(0)
    n, d, delta = 12, 4, 0.3
    limit = theory.linear_regression(n, d, delta).M_prime
    assert limit < d + 2 * sqrt(d * log(4 / delta)) + 2 * log(4 / delta)  # what is printed
    largest = np.linalg.norm(rng.normal(size=(2000, n, d)), ord=2, axis=(1, 2)) ** 2 / n
    assert (largest > limit).mean() <= delta / 3
    n, d, delta = 60, 3, 0.5
    gradients = rng.normal(size=(2000, n, d)) * rng.normal(size=(2000, n, 1))
    deviations = np.linalg.norm(gradients.mean(axis=1), axis=1)
    assert (deviations > 2 * theory.delta_1(n, d, delta, sqrt(2))).mean() <= delta / 3


@given(st.integers(1, 4000), st.data())
def test_the_exact_probability_is_scipys_and_at_least_chernoffs(k, data):
    q = data.draw(st.integers(0, (k - 1) // 2))
    alpha = data.draw(st.floats(q / k, 0.5, exclude_min=True, exclude_max=True))
    room = alpha - q / k
    assume(room > 1e-12)
    delta = data.draw(st.floats(min(1e-12, room), room))
    chernoff = theory.success_probability(k, q, alpha=alpha, delta=delta)
    exact = theory.exact_success_probability(k, q, alpha=alpha, delta=delta)
    assert 0 <= chernoff <= exact + 1e-12 <= 1 + 1e-12
    most_bad = math.floor(Fraction(repr(alpha)) * k) - q
    assert exact == pytest.approx(stats.binom.cdf(most_bad, k, delta), rel=1e-9)


@given(st.integers(3, 199), st.data())
def test_delta_may_be_all_that_byzantine_batches_leave_of_alpha(k, data):
    q = data.draw(st.integers(0, (k - 1) // 2 - 1))
    bad = data.draw(st.integers(q + 1, (k - 1) // 2))
    for delta in (float(Fraction(bad - q, k)), bad / k - q / k):
        exact = theory.exact_success_probability(k, q, alpha=bad / k, delta=delta)
        assert exact == pytest.approx(stats.binom.cdf(bad - q, k, delta))


@given(st.floats(0.01, 0.999), st.floats(1e-6, 1e6), st.floats(1e-6, 1e6), st.integers(1, 39))
def test_the_rounds_to_the_floor_are_the_fewest(contraction, distance, floor, power):
    rounds = theory.rounds_to_floor(contraction, distance, floor)
    assert contraction**rounds * distance <= floor
    assert rounds == 0 or contraction ** (rounds - 1) * distance > floor
    assert theory.rounds_to_floor(0.3, 7.0, 0.3**power * 7.0) == power


def test_the_statistics_are_those_along_the_axes_and_the_growth_that_shows():
    parameters = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 3.0]])
    offsets = np.array([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
    gradients = (parameters * [2.0, 5.0])[:, None, :] + offsets
    found = theory.estimate_statistics(parameters, gradients, samples_per_gradient=9)
    sigma = 3 * np.sqrt(4 / 3)  # offsets of ±1, n − 1 = 3
    assert (found.L, found.M, found.sigma, found.growth) == pytest.approx((2, 5, sigma, 0))
    assert found.curvatures == pytest.approx((2, 5))
    assert found.variances == pytest.approx((12, 12))
    few = theory.estimate_statistics(parameters[1:], gradients[1:], samples_per_gradient=9)
    assert (few.L, few.M, few.curvatures) == (5, 5, None)  # the one direction that shows
    # Two samples at ±1 of the mean in 0 and 1, at ±3 in 2: differences of 0, ±2 and ±2, n − 1 = 1.
    parameters = np.array([[0.0], [1.0], [2.0]])
    gradients = parameters[:, None, :] + np.array([1, 1, 3])[:, None, None] * [[1.0], [-1.0]]
    found = theory.estimate_statistics(parameters, gradients, samples_per_gradient=4)
    assert found.growth == pytest.approx(2 * np.sqrt((0 + 8 + 8 / 4) / 3))  # distances 1, 1 and 2
    assert found.sigma == pytest.approx(2 * np.sqrt(2))  # at 0, where the mean gradient is 0


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
    with pytest.raises(theory.ConditionFails) as failed:
        theorem(5, batch_samples=1e8)
    assert failed.value.condition.startswith("(33): Δ2 ≤ ")
    assert failed.value.value > failed.value.limit
    theorem(4, batch_samples=1e8)  # asks for half of what Theorem 5 asks for
    assert fourth.contraction <= fifth.contraction  # Theorem 5 is Theorem 4 rounded up
    assert fourth.floor <= fifth.floor
    assert fourth.success_probability == fifth.success_probability
    assert fourth.exact_success_probability >= fourth.success_probability


def test_theorem_4_holds_from_13_million_samples_a_client_on():
    """Of forty clients, two to a batch, with δ = e^(−d) as in the paper, whatever α is."""
    delta = math.exp(-20)

    def fourth(samples, alpha):
        n = 2 * samples
        constants = theory.linear_regression(n, 20, delta)
        changes = {"batch_samples": n, "delta": delta, "r": 1.0, "constants": constants}
        return theorem(4, alpha=alpha, **changes)

    assert fourth(13_396_600, 0.2505).contraction < 1
    tried = [(13_300_000, alpha) for alpha in (0.25 + 2 * delta, *np.linspace(0.2505, 0.45, 50))]
    for samples, alpha in [(13_396_599, 0.2505), *tried]:
        with pytest.raises(theory.ConditionFails, match="ρ > 0"):
            fourth(samples, alpha)


@pytest.mark.parametrize(("k", "q"), [(4, 1), (10, 2), (1, 0), (9, 4)])
@pytest.mark.parametrize("reach", [0.5, 5.0, 1e4])
def test_theorem_2_bounds_algorithm_2_on_small_instances(k, q, reach):
    """With ξ1 and ξ2 measured on the very data, so that the good event holds by construction."""
    dim, samples = 2, 20_000
    hessians, offsets = monte_carlo.batches(k, samples, dim, seed=3)
    roughness = np.linalg.norm(hessians - np.eye(dim), ord=2, axis=(1, 2))
    factor = theory.c_alpha(q / k)  # no other batch is bad
    xi = {"xi_1": factor * np.linalg.norm(offsets, axis=1).max(), "xi_2": factor * roughness.max()}
    sizes = {"num_batches": k, "num_byzantine": q, "batch_samples": samples, "dim": dim}
    sizes |= {"count": 1, "rounds": 25, "distance": 2.0, "reach": reach, "step": 0.5, "seed": 3}
    (errors,) = monte_carlo.trainings(**sizes, aggregate=monte_carlo.as_built())
    for rounds, error in enumerate(errors):
        assert error <= theory.error_bound(rounds, 2.0, L=1, M=1, **xi)
