"""Every formula at points worked out by hand; the working is written in plain numbers."""

from math import exp, inf, log, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flwr_byz import theory
from flwr_byz.aggregation import geometric_median
from flwr_byz.theory import ConditionFails

LOG_6, LOG_3 = 1.791759469228055, 1.0986122886681098


@pytest.mark.parametrize(
    ("alpha", "expected"), [(0.0, 2.0), (0.25, 2 * 0.75 / 0.5), (0.375, 1.25 / 0.25), (0.4, 6.0)]
)
def test_c_alpha(alpha, expected):
    assert theory.c_alpha(alpha) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("alpha", "expected"), [(0.0, 1.0), (0.25, 0.75 / 0.5**0.5), (0.375, 1.25), (0.48, 2.6)]
)
def test_sharp_c_alpha(alpha, expected):
    assert theory.sharp_c_alpha(alpha) == pytest.approx(expected)


@given(st.floats(0, 0.499))
def test_the_sharp_factor_is_at_most_half_of_the_papers(alpha):
    assert theory.sharp_c_alpha(alpha) <= theory.c_alpha(alpha) / 2 * (1 + 1e-12)


@pytest.mark.parametrize(("n", "q"), [(10, 2), (9, 3), (20, 8)])
def test_the_sharp_factor_is_reached(n, q):
    """Seen from the median, half of the honest points lie on either tangent to their circle."""
    pull = q / (n - q)  # what each honest point has to make up for
    side = sqrt(1 - pull**2)
    points = np.array([[-pull, side], [-pull, -side]] * ((n - q) // 2) + [[1e6, 0.0]] * q)
    centre = np.array([-1 / pull, 0.0])
    radius = np.linalg.norm(points[: n - q] - centre, axis=1).max()
    moved = np.linalg.norm(geometric_median(points).point - centre)
    assert moved == pytest.approx(theory.sharp_c_alpha(q / n) * radius, rel=1e-6)


@pytest.mark.parametrize("alpha", [-0.1, 0.5, 0.7, float("nan")])
@pytest.mark.parametrize("constant", [theory.c_alpha, theory.sharp_c_alpha])
def test_c_alpha_outside_of_its_range_is_refused(alpha, constant):
    with pytest.raises(ValueError, match="alpha"):
        constant(alpha)


def test_c_alpha_grows_beyond_bounds_near_one_half():
    assert theory.c_alpha(0.5 - 1e-9) == pytest.approx(1 / 2e-9, rel=1e-6)


@pytest.mark.parametrize(
    ("alpha", "radius", "gamma", "largest", "expected"),
    [
        (0.25, 2.0, 0.0, 0.0, 6.0),
        (0.25, 2.0, 0.01, 100.0, 6.0 + 0.01 * 100 / 0.5),
        (0.4, 1.0, 0.001, 50.0, 6.0 + 0.05 / 0.2),
    ],
)
def test_the_radius_of_an_approximate_median(alpha, radius, gamma, largest, expected):
    found = theory.median_radius(alpha, radius, gamma=gamma, largest=largest)
    assert found == pytest.approx(expected)


def test_a_radius_beyond_the_largest_norm_is_refused():
    with pytest.raises(ValueError, match="largest"):
        theory.median_radius(0.25, 2.0, gamma=0.1, largest=1.0)


@pytest.mark.parametrize(("L", "M", "expected"), [(1, 1, 0.5), (1, 2, 0.125), (3, 5, 0.06)])
def test_step_size(L, M, expected):
    assert theory.step_size(L, M) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("L", "M", "paper", "sharp"),
    [
        (1, 1, 0.8660254037844386, 0.5),  # √3/2, √(1/4)
        (1, 2, 0.9682458365518543, 0.9013878188659973),  # √(15/16), √(13/16)
        (3, 5, 0.9539392014169457, 0.8544003745317531),  # √0.91, √0.73
    ],
)
def test_contractions(L, M, paper, sharp):
    assert theory.population_contraction(L, M) == pytest.approx(paper)
    assert theory.contraction(L, M) == pytest.approx(0.5 + paper / 2)
    assert theory.sharp_population_contraction(L, M) == pytest.approx(sharp)


@pytest.mark.parametrize(("L", "M"), [(0, 1), (1, 0), (2, 1), (-1, 1), (float("nan"), 1)])
def test_curvatures_that_no_function_has_are_refused(L, M):
    for function in (
        theory.step_size,
        theory.population_contraction,
        theory.contraction,
        theory.sharp_population_contraction,
    ):
        with pytest.raises(ValueError, match=r"must be a finite number above 0|L ≤ M"):
            function(L, M)


@pytest.mark.parametrize(
    ("L", "M", "xi_2", "expected"),
    [
        (1, 1, 0.0, 0.1339745962155614),
        (1, 1, 0.1, 0.0839745962155614),
        (1, 2, 0.2, 0.0317541634481457 - 0.025),
    ],
)
def test_rho(L, M, xi_2, expected):
    assert theory.rho(L, M, xi_2) == pytest.approx(expected)


def test_rho_of_zero_and_below_is_refused_with_its_distance_from_zero():
    limit = theory.largest_xi_2(1, 1)
    assert limit == pytest.approx(0.2679491924311228)  # 2 − √3
    with pytest.raises(ConditionFails, match=r"ρ > 0.*-0\.03.*must be below 0\.2679") as failed:
        theory.rho(1, 1, limit + 0.06)
    assert failed.value.value == pytest.approx(-0.03)


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        # ρ = 0.1339746 − 0.05 = 0.0839746; ηξ1/ρ = 0.5·0.02/0.0839746 = 0.1190836
        (0, 3.0 + 0.1190836),
        (1, 0.9160254 * 3 + 0.1190836),
        (50, 0.9160254**50 * 3 + 0.1190836),
    ],
)
def test_the_error_bound_round_by_round(rounds, expected):
    bound = theory.error_bound(rounds, 3.0, L=1, M=1, xi_1=0.02, xi_2=0.1)
    assert bound == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("n", "d", "delta", "sigma", "expected"),
    [
        (100, 20, 0.01, sqrt(2), 2 * sqrt((20 * LOG_6 + 5.703782474656201) / 100)),
        (1, 1, 0.5, 1.0, sqrt(2 * (LOG_6 + LOG_6))),  # 3/δ = 6
        (5000, 3, 1e-6, sqrt(8), 4 * sqrt((3 * LOG_6 + LOG_3 + 6 * 2.302585092994046) / 5000)),
    ],
)
def test_delta_1(n, d, delta, sigma, expected):
    assert theory.delta_1(n, d, delta, sigma) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("n", "d", "delta", "M", "M_prime", "r", "expected"),
    [
        # σ1 = √2, σ2 = √8, α2 = 8: 6σ2²r√n/(α2σ1δ) = 6r√n/(√2·δ), σ2√(2/n) = 4/√n
        (
            100,
            20,
            0.01,
            1.0,
            3.2,
            1.0,
            0.4 * sqrt(20 * log(18 * 3.2 / 2.8284271) + 10 * log(5) + log(60 / 0.014142136)),
        ),
        (
            1e6,
            20,
            1e-3,
            1.0,
            1.1,
            10.0,
            0.004
            * sqrt(20 * log(18 * 1.1 / 2.8284271) + 10 * log(5e4) + log(6e4 / 0.001414213562)),
        ),
        (
            400,
            1,
            0.1,
            2.0,
            1.0,  # M is the larger one
            1.0,
            0.2 * sqrt(log(12.72792206) + 0.5 * log(400) + log(120 / 0.1414213562)),
        ),
    ],
)
def test_delta_2(n, d, delta, M, M_prime, r, expected):
    found = theory.delta_2(
        n, d, delta, sigma_1=sqrt(2), sigma_2=sqrt(8), alpha_2=8, M=M, M_prime=M_prime, r=r
    )
    assert found == pytest.approx(expected, rel=1e-6)


def test_delta_2_is_what_the_net_of_its_proof_needs():
    """Equation (31), in which the shell ℓ cancels."""
    n, d, delta, sigma_1, sigma_2, alpha_2, largest, r = 300, 7, 0.03, 1.3, 2.1, 4.0, 2.5, 1.7
    tau = alpha_2 * sigma_1 / (2 * sigma_2**2) * sqrt(d / n)
    shells = r * sqrt(d) / tau
    for shell in (1, 5):
        width = sigma_2 * tau * shell / largest * sqrt(d / n)
        exponent = d * log(6) + d * log(3 * tau * shell / width) + log(3 * shells / delta)
        expected = sqrt(2) * sigma_2 * sqrt(exponent / n)
        found = theory.delta_2(
            n,
            d,
            delta,
            sigma_1=sigma_1,
            sigma_2=sigma_2,
            alpha_2=alpha_2,
            M=2.5,
            M_prime=1.0,
            r=r,
        )
        assert found == pytest.approx(expected)


def test_a_net_coarser_than_what_it_covers_is_refused():
    with pytest.raises(ConditionFails, match="σ2"):
        theory.delta_2(1, 100, 0.1, sigma_1=1, sigma_2=3, alpha_2=1, M=1, M_prime=1, r=1)


@pytest.mark.parametrize(
    ("alpha", "delta", "first", "second"),
    [(0.25, 0.1, 1.2, 2.4), (0.375, 0.01, 0.2, 0.4), (0.4, 2.0, 48.0, 96.0)],
)
def test_xi(alpha, delta, first, second):
    assert theory.xi_1(alpha, delta) == pytest.approx(first)
    assert theory.xi_2(alpha, delta) == pytest.approx(second)


def test_a_deviation_outside_of_the_sub_exponential_regime_is_refused():
    theory.check_delta("1", sqrt(2), sqrt(2), sqrt(2))
    with pytest.raises(ConditionFails, match=r"Δ1 ≤ σ1²/α1.*1\.5.*1\.414"):
        theory.check_delta("1", 1.5, sqrt(2), sqrt(2))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (0.5, 0.25, 0.5 * log(2) + 0.5 * log(2 / 3)),
        (0.125, 0.05, 0.0425780055269189),  # 0.125·log 2.5 + 0.875·log(0.875/0.95)
        (0.3, 0.3, 0.0),
        (0.0, 0.25, log(4 / 3)),
        (1.0, 0.25, log(4)),
        (0.5, 0.0, inf),
        (0.0, 0.0, 0.0),
    ],
)
def test_binary_divergence(a, b, expected):
    assert theory.binary_divergence(a, b) == pytest.approx(expected)


@pytest.mark.parametrize(("a", "b"), [(-0.1, 0.5), (0.5, 1.1), (float("nan"), 0.5)])
def test_a_divergence_of_no_probability_is_refused(a, b):
    with pytest.raises(ValueError, match="must be a finite number"):
        theory.binary_divergence(a, b)


@pytest.mark.parametrize(
    ("k", "q", "alpha", "delta", "expected", "chernoff"),
    [
        # At most ⌊20·0.375⌋ − 5 = 2 of 20 batches are bad.
        (
            20,
            5,
            0.375,
            0.05,
            0.95**20 + 20 * 0.05 * 0.95**19 + 190 * 0.05**2 * 0.95**18,
            1 - exp(-20 * 0.0425780055269189),
        ),
        (1, 0, 0.25, 0.1, 0.9, 1 - exp(-(0.25 * log(2.5) + 0.75 * log(0.75 / 0.9)))),
        (4, 1, 0.375, 0.1, 0.9**4, 1 - exp(-4 * (0.125 * log(1.25) + 0.875 * log(0.875 / 0.9)))),
        # 0.3·10 is 3 in decimals, so one may be bad beside the two Byzantine ones.
        (10, 2, 0.3, 0.01, 0.99**10 + 10 * 0.01 * 0.99**9, None),
    ],
)
def test_success_probabilities(k, q, alpha, delta, expected, chernoff):
    exact = theory.exact_success_probability(k, q, alpha=alpha, delta=delta)
    assert exact == pytest.approx(expected)
    if chernoff is not None:
        found = theory.success_probability(k, q, alpha=alpha, delta=delta)
        assert found == pytest.approx(chernoff)


@pytest.mark.parametrize("delta", [1e-9, 0.01, 0.06, 0.1249])
@pytest.mark.parametrize("k", [40, 400, 4000])
def test_the_exact_probability_is_scipys(k, delta):
    exact = theory.exact_success_probability(k, k // 4, alpha=0.375, delta=delta)
    assert exact == pytest.approx(stats.binom.cdf(k // 8, k, delta), rel=1e-9)


@pytest.mark.parametrize(
    ("k", "q", "alpha", "delta", "condition"),
    [
        (20, 5, 0.25, 0.01, "α > q/k"),
        (20, 5, 0.5, 0.01, "α < 1/2"),
        (20, 5, 0.375, 0.2, "δ ≤ α − q/k"),
        (20, 5, 0.375, 0.0, "δ > 0"),
        (20, 10, 0.49, 0.01, "q/k < 1/2"),
    ],
)
def test_a_condition_of_lemma_5_that_fails_is_named(k, q, alpha, delta, condition):
    for function in (theory.success_probability, theory.exact_success_probability):
        with pytest.raises(ConditionFails) as failed:
            function(k, q, alpha=alpha, delta=delta)
        assert failed.value.condition == condition
        assert condition in str(failed.value)


@pytest.mark.parametrize(
    ("dim", "k", "samples", "expected"), [(20, 20, 2000, sqrt(0.2)), (1, 1, 100, 0.1), (8, 2, 1, 4)]
)
def test_error_rate(dim, k, samples, expected):
    assert theory.error_rate(dim, k, samples) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("dim", "q", "samples", "paper", "minimax"),
    [(20, 5, 2000, sqrt(0.05), 0.1), (20, 0, 2000, 0.1, 0.1), (1, 4, 400, 0.1, 0.05)],
)
def test_the_rates_of_the_abstract(dim, q, samples, paper, minimax):
    assert theory.paper_rate(dim, q, samples) == pytest.approx(paper)
    assert theory.minimax_rate(dim, samples) == pytest.approx(minimax)


@pytest.mark.parametrize(
    ("contraction", "distance", "floor", "expected"),
    [
        (0.5, 8.0, 1.0, 3),  # exactly: 8 halved three times
        (0.5, 8.1, 1.0, 4),
        (0.9, 10.0, 1.0, 22),  # log 10/−log 0.9 = 21.85
        (0.5, 1.0, 2.0, 0),
        (0.0, 5.0, 1.0, 1),
    ],
)
def test_rounds_to_floor(contraction, distance, floor, expected):
    assert theory.rounds_to_floor(contraction, distance, floor) == expected


@pytest.mark.parametrize(("contraction", "floor"), [(1.0, 1.0), (-0.1, 1.0), (0.5, 0.0)])
def test_rounds_that_never_end_are_refused(contraction, floor):
    with pytest.raises(ValueError, match=r"contraction|floor"):
        theory.rounds_to_floor(contraction, 10.0, floor)


@pytest.mark.parametrize(("m", "d", "rounds"), [(40, 20, 12), (100, 1, 3), (1, 10**6, 0)])
def test_communication(m, d, rounds):
    assert theory.communication(m, d, rounds) == m * d * rounds


@pytest.mark.parametrize(
    ("d", "m", "k", "samples", "server", "client"),
    [
        (20, 40, 20, 2000, 800 + 400 * 7.600902459542082**3, 1000),
        (1, 10, 1, 10, 10 + 2.302585092994046**3, 1),
        (5, 8, 4, 1, 40, 0.625),
    ],
)
def test_computation(d, m, k, samples, server, client):
    assert theory.server_computation(d, m, k, samples) == pytest.approx(server)
    assert theory.client_computation(d, m, samples) == pytest.approx(client)


@pytest.mark.parametrize(
    ("n", "d", "delta", "M_prime"),
    [
        (100, 20, 0.01, (1 + sqrt(0.2) + sqrt(2 * 5.991464547 / 100)) ** 2),
        (1, 4, 4 / exp(2), (1 + 2 + 2) ** 2),
        (800, 2, 4 / exp(4), (1 + 0.05 + 0.1) ** 2),
    ],
)
def test_the_constants_of_linear_regression(n, d, delta, M_prime):
    found = theory.linear_regression(n, d, delta)
    assert found.M_prime == pytest.approx(M_prime)
    assert (found.L, found.M, found.alpha_2) == (1, 1, 8)
    assert found.sigma_1**2 == pytest.approx(2)
    assert found.alpha_1**2 == pytest.approx(2)
    assert found.sigma_2**2 == pytest.approx(8)


def test_the_lipschitz_constant_of_lemma_8_holds_as_often_as_it_says():
    n, d, delta = 12, 4, 0.3
    rng = np.random.default_rng(0)
    limit = theory.linear_regression(n, d, delta).M_prime
    printed = d + 2 * sqrt(d * log(4 / delta)) + 2 * log(4 / delta)
    features = rng.normal(size=(2000, n, d))
    largest = np.linalg.norm(features, ord=2, axis=(1, 2)) ** 2 / n
    assert limit < printed
    assert (largest > limit).mean() <= delta / 3


def test_the_deviation_of_lemma_6_holds_as_often_as_it_says():
    n, d, delta = 60, 3, 0.5
    rng = np.random.default_rng(0)
    limit = 2 * theory.delta_1(n, d, delta, sqrt(2))
    gradients = rng.normal(size=(2000, n, d)) * rng.normal(size=(2000, n, 1))
    assert (np.linalg.norm(gradients.mean(axis=1), axis=1) > limit).mean() <= delta / 3


@pytest.mark.parametrize(
    "wrong", [{"L": 2.0}, {"L": 0.0}, {"sigma_1": -1.0}, {"M_prime": inf}, {"alpha_2": 0.0}]
)
def test_constants_that_no_problem_has_are_refused(wrong):
    right = dict(L=1, M=1, sigma_1=1, alpha_1=1, sigma_2=1, alpha_2=1, M_prime=1)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        theory.Constants(**(right | wrong))
