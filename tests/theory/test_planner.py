import json
import re
from math import inf, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_byz import theory
from flwr_byz.aggregation import geometric_median, num_batches
from flwr_byz.theory.expected import equilibrium
from simulations.monte_carlo import descend, root_mean_square
from tests.support import apis

EXAMPLE = {"num_clients": 40, "num_byzantine": 5, "samples_per_client": 50, "dim": 20}


def plan(**changes):
    return theory.plan(**EXAMPLE | changes)


def final_error(**settings):
    """Return the root mean square of the last errors of 20 descents, and its standard error."""
    final = [descend(**settings, seed=seed)[-1] for seed in range(20)]
    return root_mean_square(np.array(final))


@settings(max_examples=25)
@given(st.integers(1, 300), st.floats(0.05, 3), st.data())
def test_k_is_that_of_the_aggregation_and_the_chosen_one_is_on_the_curve(m, epsilon, data):
    q = data.draw(st.integers(0, (m - 1) // 2))
    sizes = {"num_clients": m, "num_byzantine": q, "samples_per_client": 100, "dim": 5}
    found = theory.plan(**sizes, epsilon=epsilon)
    on_curve = [point.num_batches for point in found.trade_off]
    assert found.num_batches == num_batches(m, q, epsilon=epsilon)
    assert found.num_batches in on_curve
    assert on_curve == sorted(set(on_curve))
    assert (on_curve[0], on_curve[-1]) == (2 * q + 1, m)
    assert found.expected_error >= found.clean_error > 0
    assert 0 <= found.success_probability <= found.exact_success_probability <= 1


def test_without_an_attack_the_error_is_the_efficiency_of_the_spatial_median():
    for dim, variance in ((1, np.pi / 2), (2, 4 / np.pi), (1000, 1.0)):
        assert equilibrium(dim, 10**6, 0) == pytest.approx(sqrt(dim * variance / 1e6), rel=0.01)


@pytest.mark.parametrize(
    ("m", "q", "k", "samples", "dim"),
    [
        *((40, 5, 20, 50, 20), (20, 1, 4, 100, 10), (30, 6, 24, 200, 3), (60, 0, 12, 30, 6)),
        *((40, 16, 40, 400, 8), (12, 3, 12, 1000, 2), (60, 3, 60, 60, 30)),
    ],
)
def test_the_expected_error_is_that_of_real_descents(m, q, k, samples, dim):
    sizes = {"num_clients": m, "num_byzantine": q, "num_batches": k, "samples_per_client": samples}
    error, spread = final_error(**sizes, dim=dim, rounds=30, distance=0.5, reach=1e3)
    expected = theory.expected_error(dim, m * samples, k, q)
    assert error == pytest.approx(expected, rel=0.1, abs=3 * spread)


def test_skewed_data_bias_a_median_of_means_and_the_expected_error_has_it():
    """The bias is across the mean of k batches of n: features with an intercept, skewed noise."""
    dim, k, n, runs, skewness = 10, 40, 20, 100, 2 * 10 / 12
    rng, errors = np.random.default_rng(0), []
    for _ in range(runs):
        features, noise = rng.normal(size=(k, n, dim)), rng.exponential(size=(k, n)) - 1
        features[:, :, 0] = 1
        errors.append(geometric_median(np.einsum("kni,kn->ki", features, noise) / n).point)
    measured = np.sqrt(np.square(errors).sum(axis=1).mean())
    skewed = theory.Statistics(growth=0.0, skewness=skewness)
    assert measured == pytest.approx(theory.expected_error(dim, n * k, k, 0, skewed), rel=0.06)
    bias = np.linalg.norm(np.mean(errors, axis=0))
    assert bias == pytest.approx(skewness / 2 / n, rel=0.25)  # to the first order in 1/n


@pytest.mark.parametrize(("reach", "distance"), [(0.9, None), (0.2, None), (0.9, 20.0)])
def test_the_plans_own_settings_reach_the_expected_error(reach, distance):
    """Also from further off than planned; Byzantine means stand at 0.9τ or nearer."""
    found = plan()
    names = "num_batches", "rounds", "distance", "trim_norm", "gamma"
    own = {name: getattr(found, name) for name in names}
    own |= {"distance": distance or found.distance, "reach": reach * found.trim_norm}
    error, _ = final_error(**EXAMPLE, **own)
    assert 0.8 * found.expected_error < error < 1.15 * found.expected_error


def test_too_few_samples_leave_no_error_to_expect():
    found = plan(num_clients=10, num_byzantine=4, samples_per_client=1, dim=100)
    assert (found.expected_error, found.rounds, found.numbers_sent) == (inf, None, None)
    assert found.to_dict()["expected_error"] is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_theorem_4_is_vacuous_until_the_samples_that_the_plan_names():
    found = plan()
    assert found.guarantee is None
    assert "Δ1" in found.guarantee_fails
    enough = plan(samples_per_client=found.samples_for_guarantee)
    assert enough.guarantee_fails is None
    assert enough.guarantee.floor > enough.expected_error  # safe, and loose
    assert enough.trade_off[-1].floor is None  # smaller batches do not get there yet
    assert plan(samples_per_client=found.samples_for_guarantee - 1).guarantee is None
    uneven = plan(num_clients=41, samples_per_client=10**9, dim=3)  # most batches hold two
    smallest = theory.delta_1(2 * 10**9, 3, uneven.delta, sqrt(2))
    assert uneven.guarantee.delta_1 == pytest.approx(smallest)
    assert plan(**MANY).guarantee
    assert plan(statistics=theory.Statistics(sigma=2.0)).samples_for_guarantee is None


FLAT = theory.Statistics(L=0.1, M=0.1, sigma=1.0, growth=0.0)  # allow for less than constants do
MANY = {"samples_per_client": 10**10, "constants": theory.linear_regression(1e10, 20, 1e-10)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"samples_per_client": 5 * 10**7, "distance": 0.5}, r"^ηξ1/ρ ≤ ‖θ0 − θ\*‖ does not hold"),
        ({"constants": MANY["constants"]}, "Δ1 ≤ σ1²/α1"),
        (MANY | {"statistics": FLAT}, "norms of good batches ≤ τ does not hold"),
        ({"statistics": theory.Statistics(sigma=2.0)}, "not given"),
    ],
)
def test_a_guarantee_that_would_say_nothing_is_none(changes, said):
    found = plan(**changes)
    assert found.guarantee is None
    assert re.search(said, found.guarantee_fails)


@apis.BOTH
def test_both_strategies_take_a_plan(api):
    found = plan()
    options = api.gmom(**found.strategy_options()).settings
    assert options.batches_for(40) == found.num_batches
    assert (options.reply, options.step_size) == ("gradients", -found.step_size)
    for name in ("num_byzantine", "trim_norm", "gamma"):
        assert getattr(options, name) == getattr(found, name)
