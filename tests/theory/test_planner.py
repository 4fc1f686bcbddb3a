import json
from dataclasses import FrozenInstanceError
from math import hypot, inf, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flwr_byz import theory
from flwr_byz.aggregation import num_batches
from flwr_byz.server.strategy import GeometricMedianOfMeans as ClassicStrategy
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans as MessageStrategy
from flwr_byz.theory import calibration
from simulations.calibrate import measure_factor, num_runs
from simulations.monte_carlo import descend, root_mean_square
from tests.support import malformed
from tests.support.server import as_content, classic_round, message_round

EXAMPLE = {"num_clients": 40, "num_byzantine": 5, "samples_per_client": 50, "dim": 20}


def test_the_settings_are_the_papers():
    found = theory.plan(**EXAMPLE)
    assert found.num_batches == num_batches(40, 5) == 20
    assert found.gamma == 1 / 2000
    assert found.step_size == 0.5
    # ‖θ0 − θ*‖ = √20; batches of 100 samples; variance of a coordinate 1 + 20
    assert found.trim_norm == pytest.approx(2 * sqrt(20 + 20 * 21 / 100))
    assert found.error_rate == pytest.approx(sqrt(0.2))
    assert found.minimax_rate == pytest.approx(0.1)
    assert found.alpha == pytest.approx(0.375)  # (2 + ε)/(4 + 4ε)
    assert found.numbers_sent == 40 * 20 * found.rounds
    with pytest.raises(FrozenInstanceError):
        found.num_batches = 1


def test_a_plan_without_byzantine_clients_is_the_mean():
    found = theory.plan(num_clients=40, num_byzantine=0, samples_per_client=50, dim=20)
    assert found.num_batches == 1
    # x = √(d/N) = 0.1 and the mean needs no correction: e = x/√(1 − x²)
    assert found.expected_error == found.clean_error == pytest.approx(0.1 / sqrt(0.99))


@given(st.integers(1, 300), st.floats(0.05, 3), st.data())
def test_k_is_that_of_the_aggregation_and_the_chosen_one_is_on_the_curve(m, epsilon, data):
    q = data.draw(st.integers(0, (m - 1) // 2))
    found = theory.plan(
        num_clients=m, num_byzantine=q, samples_per_client=100, dim=5, epsilon=epsilon
    )
    assert found.num_batches == num_batches(m, q, epsilon=epsilon)
    on_curve = [point.num_batches for point in found.trade_off]
    assert found.num_batches in on_curve
    assert on_curve == sorted(set(on_curve))
    assert on_curve[0] == 2 * q + 1
    assert on_curve[-1] == m
    assert found.expected_error >= found.clean_error > 0
    assert 0 <= found.success_probability <= found.exact_success_probability <= 1


@given(st.integers(3, 60), st.integers(1, 50), st.data())
def test_more_data_help_and_more_byzantine_clients_harm(m, dim, data):
    q = data.draw(st.integers(1, (m - 1) // 2))
    k = data.draw(st.integers(2 * q + 1, m))
    samples = data.draw(st.integers(10, 10**6))
    here = calibration.error_strength(dim, samples, k, q)
    assert calibration.error_strength(dim, 4 * samples, k, q) == pytest.approx(here / 2)
    assert calibration.error_strength(dim, samples, k, q - 1) < here
    assert calibration.error_strength(dim, samples, k + 1, q) < here


def test_the_strength_in_plain_numbers():
    # √(20/2000)·(√(20/15) + 5/√10), √(1/100)·1, √(4/100)·(√(3/2) + 2)
    strength = calibration.error_strength
    assert strength(20, 2000, 20, 5) == pytest.approx(0.1 * (1.1547005 + 1.5811388))
    assert strength(1, 100, 7, 0) == pytest.approx(0.1)
    assert strength(4, 100, 3, 1, c=2.0) == pytest.approx(0.2 * (1.2247449 + 2))
    with pytest.raises(theory.ConditionFails, match="q/k < 1/2"):
        calibration.error_strength(4, 100, 2, 1)


def test_the_calibrated_error_in_plain_numbers():
    c = calibration.attack_factor(20, 20, 5)
    x = 0.1 * (1.1547005 + c * 1.5811388)
    assert theory.calibrated_error(20, 2000, 20, 5) == pytest.approx(x / sqrt(1 - x**2))
    steep = theory.Statistics(L=2.0, M=4.0, sigma=3.0, growth=0.5)
    expected = 3 * x / sqrt(4 - 0.25 * x**2)
    assert theory.calibrated_error(20, 2000, 20, 5, steep) == pytest.approx(expected)
    factor = sqrt(13 / 16) + 2 / 32 * 0.5 * x
    assert theory.calibrated_contraction(20, 2000, 20, 5, steep) == pytest.approx(factor)
    x = calibration.median_factor(20, 20) * 0.1
    assert theory.calibrated_error(20, 2000, 20, 0) == pytest.approx(x / sqrt(1 - x**2))


def test_the_attack_factor_is_interpolated_in_the_logarithm_of_d_and_in_q_over_k():
    factor = calibration.attack_factor
    assert factor(2, 16, 3) == pytest.approx((factor(2, 8, 1) + factor(2, 4, 1)) / 2)
    assert factor(5, 8, 1) == pytest.approx(
        factor(4, 8, 1) + np.log(5 / 4) / np.log(2) * (factor(8, 8, 1) - factor(4, 8, 1))
    )
    assert factor(10**6, 8, 1) == factor(64, 8, 1)
    assert factor(8, 1000, 1) == factor(8, 40, 1)


@pytest.mark.parametrize(("dim", "share"), [(32, 0.25), (16, 0.45)])
def test_a_cell_of_the_table_comes_out_again(dim, share):
    factor, standard_error = measure_factor(dim, share, range(num_runs(dim, share)))
    q = round(40 * share)
    stored = calibration.attack_factor(dim, 40, q) if q else calibration.median_factor(dim, 40)
    assert stored == pytest.approx(factor, abs=2e-4)
    assert standard_error < 0.03


@pytest.mark.parametrize(("dim", "efficiency"), [(1, 2 / np.pi), (2, np.pi / 4)])
def test_a_median_loses_beside_a_mean_what_is_known_of_gaussian_samples(dim, efficiency):
    """The relative efficiencies of the median, and of the spatial median in the plane."""
    assert calibration.median_factor(dim, 40) == pytest.approx(1 / sqrt(efficiency), rel=0.05)


def test_the_attack_factor_is_one_in_many_dimensions_and_more_in_few():
    for k, q in ((40, 5), (40, 10), (40, 15), (40, 18)):
        factors = [calibration.attack_factor(d, k, q) for d in calibration.DIMS]
        assert 0.8 < factors[-1] < 1.3
        assert factors[0] > factors[-1]
    assert calibration.median_factor(5, 1) == calibration.median_factor(5, 2) == 1.0


@pytest.mark.parametrize(
    ("m", "q", "k", "samples", "dim"),
    [
        (40, 5, 20, 50, 20),
        (40, 5, 40, 50, 20),
        (20, 1, 4, 100, 10),
        (30, 6, 24, 200, 3),
        (10, 2, 8, 100, 25),
        (60, 0, 12, 30, 6),
        (9, 4, 9, 2000, 5),
    ],
)
def test_the_calibrated_error_is_that_of_real_descents(m, q, k, samples, dim):
    """Where it was not calibrated: other m, k, batch sizes, and samples where terms of x² count."""
    final = [
        descend(
            num_clients=m,
            num_byzantine=q,
            num_batches=k,
            samples_per_client=samples,
            dim=dim,
            rounds=10,
            distance=0.5,
            reach=1e3,
            seed=seed,
        )[-1]
        for seed in range(20)
    ]
    error, standard_error = root_mean_square(np.array(final))
    expected = theory.calibrated_error(dim, m * samples, k, q)
    assert error == pytest.approx(expected, rel=0.12, abs=3 * standard_error)


@pytest.mark.parametrize("reach", [0.9, 0.2])
def test_the_plans_own_settings_reach_the_expected_error(reach):
    """With its τ, γ and rounds, from its start; Byzantine means stand at 0.9τ or nearer."""
    found = theory.plan(**EXAMPLE)
    final = [
        descend(
            num_clients=40,
            num_byzantine=5,
            num_batches=found.num_batches,
            samples_per_client=50,
            dim=20,
            rounds=found.rounds,
            distance=found.distance,
            reach=reach * found.trim_norm,
            trim_norm=found.trim_norm,
            gamma=found.gamma,
            seed=seed,
        )[-1]
        for seed in range(20)
    ]
    error, _ = root_mean_square(np.array(final))
    assert 0.8 * found.expected_error < error < 1.15 * found.expected_error


def test_too_few_samples_leave_no_error_to_expect():
    found = theory.plan(num_clients=10, num_byzantine=4, samples_per_client=1, dim=100)
    assert found.expected_error == inf
    assert found.rounds is None
    assert found.numbers_sent is None
    assert found.to_dict()["expected_error"] is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_theorem_4_is_vacuous_until_the_samples_that_the_plan_names():
    found = theory.plan(**EXAMPLE)
    assert found.guarantee is None
    assert "Δ1" in found.guarantee_fails
    enough = theory.plan(**EXAMPLE | {"samples_per_client": found.samples_for_guarantee})
    assert enough.guarantee is not None
    assert enough.guarantee_fails is None
    assert enough.guarantee.floor > enough.expected_error  # safe, and loose
    assert enough.trade_off[-1].floor is None  # smaller batches do not get there yet
    short = theory.plan(**EXAMPLE | {"samples_per_client": found.samples_for_guarantee - 1})
    assert short.guarantee is None


def test_a_bound_beyond_where_a_training_starts_is_none():
    enough = EXAMPLE | {"samples_per_client": 5 * 10**7}
    assert theory.plan(**enough).guarantee.floor > 0.5
    found = theory.plan(**enough, distance=0.5)
    assert found.guarantee is None
    assert found.guarantee_fails.startswith("ηξ1/ρ ≤ ‖θ0 − θ*‖ does not hold")


def test_a_trim_norm_that_could_reach_honest_batches_proves_nothing():
    """Statistics that make little of the gradient, beside constants that allow for more."""
    flat = theory.Statistics(L=0.1, M=0.1, sigma=1.0, growth=0.0)
    found = theory.plan(
        **EXAMPLE | {"samples_per_client": 10**10},
        statistics=flat,
        constants=theory.linear_regression(1e10, 20, 1e-10),
    )
    assert found.guarantee is None
    assert "≤ τ does not hold" in found.guarantee_fails


def test_an_attack_never_helps():
    """One of ten thousand batches in one dimension, where a median loses most beside a mean."""
    attacked, clean = (theory.calibrated_error(1, 10**6, 10**4, q) for q in (1, 0))
    assert attacked == clean


def test_what_is_proved_takes_the_smallest_batch():
    """Of 41 clients in 20 batches, most batches hold two."""
    samples = 10**9
    found = theory.plan(num_clients=41, num_byzantine=5, samples_per_client=samples, dim=3)
    delta_1 = theory.delta_1(2 * samples, 3, found.delta, sqrt(2))
    assert found.guarantee.delta_1 == pytest.approx(delta_1)


def test_statistics_of_ones_own_scale_what_is_expected_and_prove_nothing():
    own = theory.Statistics(L=1.0, M=1.0, sigma=2.0, growth=1.0)
    found = theory.plan(**EXAMPLE, statistics=own)
    assert found.expected_error == pytest.approx(2 * theory.plan(**EXAMPLE).expected_error)
    assert found.guarantee is None
    assert found.samples_for_guarantee is None
    assert "not given" in found.guarantee_fails


def test_constants_of_ones_own_are_what_is_proved():
    own = theory.linear_regression(1e12, 20, 0.1)
    assert theory.plan(**EXAMPLE | {"samples_per_client": 10**10}, constants=own).guarantee
    found = theory.plan(**EXAMPLE, constants=own)
    assert found.guarantee is None
    # A variance is at most σ²: σ1² = 2 and σ2² = 8.
    deviation = hypot(sqrt(2), sqrt(8 * 20)) * sqrt(0.2)
    assert found.trim_norm == pytest.approx(2 * hypot(sqrt(20), deviation))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_byzantine": 20}, "num_byzantine"),
        ({"num_byzantine": -1}, "num_byzantine"),
        ({"num_byzantine": 1.5}, "num_byzantine"),
        ({"num_clients": 0}, "num_clients"),
        ({"samples_per_client": 0}, "samples_per_client"),
        ({"dim": 0}, "dim"),
        ({"dim": "20"}, "dim"),
        ({"dim": True}, "dim"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"distance": 0.0}, "distance"),
        ({"distance": inf}, "distance"),
    ],
)
def test_nonsense_is_refused_by_name(wrong, message):
    with pytest.raises((TypeError, ValueError), match=message):
        theory.plan(**EXAMPLE | wrong)


@pytest.mark.parametrize("strategy", [MessageStrategy, ClassicStrategy])
def test_both_strategies_take_a_plan(strategy):
    found = theory.plan(**EXAMPLE)
    settings = strategy(**found.strategy_options()).settings
    assert settings.batches_for(40) == found.num_batches
    assert settings.num_byzantine == found.num_byzantine
    assert settings.reply == "gradients"
    assert settings.step_size == -found.step_size
    assert settings.trim_norm == found.trim_norm
    assert settings.gamma == found.gamma


@pytest.mark.parametrize("distance", [4.5, 10.0, 20.0])
@pytest.mark.parametrize("api", ["classic", "message"])
def test_a_planned_training_reaches_theta_star_from_further_off_than_planned(api, distance):
    """Five Byzantine clients, one a batch, make its mean just too short to be trimmed."""
    found = theory.plan(**EXAMPLE)
    options = found.strategy_options()
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 50, 20))
    truth = rng.normal(size=20)
    labels = features @ truth + rng.normal(size=(40, 50))
    direction = rng.normal(size=20)
    theta = truth + distance * direction / np.linalg.norm(direction)
    for _ in range(found.rounds):
        errors = np.einsum("csd,d->cs", features, theta) - labels
        gradients = np.einsum("cs,csd->cd", errors, features) / 50
        wrong = -(theta - truth) / np.linalg.norm(theta - truth)
        for client in range(0, 10, 2):
            mean = 0.999 * found.trim_norm * wrong
            gradients[client] = 2 * mean - gradients[client + 1]
        if api == "classic":
            replies = {client: malformed.fit_res([g]) for client, g in enumerate(gradients)}
            model, _ = classic_round([theta], replies, **options)
        else:
            contents = {node: as_content([g], 50) for node, g in enumerate(gradients, start=1)}
            model, _ = message_round(malformed.named([theta]), contents, **options)
        theta = theta if model is None else model[0]
    assert np.linalg.norm(theta - truth) < 0.4
