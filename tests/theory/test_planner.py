import json
import re
from dataclasses import replace
from math import inf, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_byz import theory
from flwr_byz.aggregation import GeometricMedian, NormTrimming, geometric_median, num_batches
from flwr_byz.theory.equilibrium import equilibrium
from simulations.monte_carlo import as_built, root_mean_square, trainings
from tests.support import apis

EXAMPLE = {"num_clients": 40, "num_byzantine": 5, "samples_per_client": 50, "dim": 20}


def plan(**changes):
    return theory.plan(**EXAMPLE | changes)


def final_error(aggregate=None, **settings):
    """Return the root mean square of the last errors of 20 trainings, and its standard error."""
    rule = aggregate or as_built()
    errors = trainings(count=20, seed=0, step=0.5, aggregate=rule, **settings)
    return root_mean_square(errors[:, -1])


@settings(max_examples=15)
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


def test_without_an_attack_the_error_is_the_efficiency_of_the_spatial_median():
    for dim, variance in ((1, np.pi / 2), (2, 4 / np.pi), (1000, 1.0)):
        assert equilibrium(dim, 10**6, 0) == pytest.approx(sqrt(dim * variance / 1e6), rel=0.01)


@pytest.mark.parametrize(
    ("m", "q", "k", "samples", "dim"),
    [
        *((40, 5, 20, 50, 20), (20, 1, 4, 100, 10), (24, 6, 24, 200, 3), (60, 0, 12, 30, 6)),
        *((40, 16, 40, 400, 8), (12, 3, 12, 1000, 2), (60, 3, 60, 60, 30)),
    ],
)
def test_the_expected_error_is_that_of_real_descents(m, q, k, samples, dim):
    sizes = {"num_batches": k, "num_byzantine": q, "batch_samples": m // k * samples}
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
    features, noise = rng.normal(size=(20_000, dim)), rng.exponential(size=20_000) - 1
    features[:, 0] = 1
    pilot = theory.measured_bias(features * noise[:, None], n, seed=0)
    assert pilot == pytest.approx(bias, rel=0.25)


@pytest.mark.parametrize(("kappa", "num_byzantine"), [(3, 8), (10, 3), (10, 0)])
def test_the_expected_error_knows_that_directions_differ(kappa, num_byzantine):
    """Batch means are Gaussian; the adversary pushes where errors shrink least."""
    k, d, runs = 24, 20, 30
    curvatures = np.geomspace(1 / kappa, 1, d)
    statistics = theory.Statistics.from_matrices(np.diag(curvatures), np.diag(curvatures))
    rng, finals = np.random.default_rng(0), []
    for _ in range(runs):
        offsets = rng.normal(size=(k, d)) * np.sqrt(curvatures)
        error = rng.normal(size=d)
        for _ in range(6 * kappa + 20):
            gradients = error * curvatures - offsets
            push = error / curvatures / np.linalg.norm(error / curvatures)
            gradients[np.argsort(gradients @ push)[k - num_byzantine :]] = -1e6 * push
            error = error - geometric_median(gradients, gamma=1e-5).point
        finals.append(np.linalg.norm(error))
    measured, spread = root_mean_square(np.array(finals))
    expected = theory.expected_error(d, k, k, num_byzantine, statistics)
    assert measured == pytest.approx(expected, rel=0.12, abs=2 * spread)
    scalar = theory.Statistics(L=1 / kappa, growth=0.0)
    assert theory.expected_error(d, k, k, num_byzantine, scalar) > 1.5 * measured


@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1e4, 1e8])
def test_expected_errors_do_not_depend_on_the_units(scale):
    """Of the loss, and then of θ."""
    curved, scattered = np.diag([1.0, 2.0, 4.0]), np.diag([3.0, 2.0, 1.0])

    def error(*matrices):
        statistics = theory.Statistics.from_matrices(*matrices)
        return theory.expected_error(3, 2000, 20, 5, statistics)

    expected = error(curved, scattered)
    assert error(scale * curved, scale**2 * scattered) == pytest.approx(expected)
    assert error(curved, scale**2 * scattered) == pytest.approx(scale * expected)


def test_where_no_equilibrium_is_found_nothing_contracts():
    curvatures, variances = np.diag([3e2, 3e-7, 5e6, 2e2]), np.diag([5e-13, 4e-14, 2e-3, 2e7])
    statistics = theory.Statistics.from_matrices(curvatures, variances)
    for value in (theory.expected_error, theory.expected_contraction):
        assert value(4, 36, 18, 3, statistics) == inf


@pytest.mark.parametrize("num_byzantine", [0, 5])
def test_in_one_dimension_a_direction_is_a_scalar(num_byzantine):
    rng = np.random.default_rng(0)
    features, thetas = rng.normal(size=(500, 1)), np.array([[0.0], [0.5], [1.0]])
    gradients = features**2 * thetas[:, None] - features * rng.exponential(size=(500, 1))
    along = theory.estimate_statistics(thetas, gradients)
    scalar = replace(along, curvatures=None, variances=None, skewnesses=None)
    for name in ("expected_error", "clean_error", "expected_contraction"):
        of_both = [
            getattr(plan(dim=1, num_byzantine=num_byzantine, statistics=statistics), name)
            for statistics in (along, scalar)
        ]
        assert of_both[0] == pytest.approx(of_both[1])


def test_local_steps_end_where_gradients_do_and_take_fewer_rounds():
    """Clients of a hundred samples a parameter; their weights are aggregated."""
    m, q, n, d, steps = 20, 4, 400, 4, 3
    made = theory.plan(
        num_clients=m, num_byzantine=q, samples_per_client=n, dim=d, local_steps=steps
    )
    assert made.num_batches == m
    rng, finals = np.random.default_rng(0), []
    for _ in range(40):
        features, noise = rng.normal(size=(m, n, d)), rng.normal(size=(m, n))
        hessians = np.einsum("mni,mnj->mij", features, features) / n
        offsets = np.einsum("mni,mn->mi", features, noise) / n
        error = np.full(d, made.distance / sqrt(d))
        for _ in range(4 * made.rounds):
            replies = np.tile(error, (m, 1))
            for _ in range(steps):
                change = np.einsum("mij,mj->mi", hessians, replies) - offsets
                replies = replies - made.step_size * change
            away = error / np.linalg.norm(error)
            replies[np.argsort(replies @ away)[:q]] = 1e6 * away
            error = geometric_median(replies, gamma=1e-6).point
        finals.append(np.linalg.norm(error))
    measured, spread = root_mean_square(np.array(finals))
    assert measured == pytest.approx(made.expected_error, rel=0.1, abs=2 * spread)
    by_gradients = theory.plan(num_clients=m, num_byzantine=q, samples_per_client=n, dim=d)
    assert made.rounds < by_gradients.rounds
    assert made.strategy_options()["reply"] == "weights"


@pytest.mark.parametrize(("reach", "distance"), [(0.9, None), (0.2, None), (0.9, 20.0)])
def test_the_plans_own_settings_reach_the_expected_error(reach, distance):
    """Also from further off than planned; Byzantine means stand at 0.9τ or nearer."""
    found = plan()
    own = {"num_batches": 40, "num_byzantine": 5, "batch_samples": 50, "dim": 20}
    own |= {"rounds": found.rounds, "distance": distance or found.distance}
    own |= {"reach": reach * found.trim_norm}
    error, _ = final_error(as_built(found.trim_norm, found.gamma), **own)
    assert 0.8 * found.expected_error < error < 1.15 * found.expected_error


def test_too_few_samples_leave_no_error_to_expect():
    found = plan(num_clients=10, num_byzantine=4, samples_per_client=1, dim=100)
    assert (found.expected_error, found.rounds, found.numbers_sent) == (inf, None, None)
    assert found.to_dict()["expected_error"] is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_fewest_samples_for_a_guarantee_are_found():
    found = plan(num_batches=20)
    assert found.guarantee is None
    assert "ηξ2 < 1" in found.guarantee_fails
    assert any(f"{found.samples_for_guarantee} samples" in hint for hint in found.hints)
    enough = plan(num_batches=20, samples_per_client=found.samples_for_guarantee)
    assert enough.guarantee_fails is None
    assert enough.guarantee.floor > 3 * enough.expected_error  # safe, and loose
    assert (
        plan(num_batches=20, samples_per_client=found.samples_for_guarantee - 1).guarantee is None
    )
    uneven = plan(num_clients=41, num_batches=20, samples_per_client=1000)  # most batches hold two
    assert uneven.guarantee == plan(num_batches=20, samples_per_client=1000).guarantee
    assert plan(statistics=theory.Statistics(sigma=2.0)).samples_for_guarantee is None
    assert "not given" in plan(statistics=theory.Statistics(sigma=2.0)).guarantee_fails
    assert "weights" in plan(local_steps=3).guarantee_fails
    near = plan(samples_per_client=400, num_batches=20, distance=0.1)
    assert near.guarantee_fails.startswith("floor ≤ ‖θ0 − θ*‖ does not hold")


def test_a_plan_near_half_with_millions_of_samples_has_a_guarantee():
    found = theory.plan(num_clients=2000, num_byzantine=990, samples_per_client=10**6, dim=5)
    assert found.guarantee.floor > found.expected_error


def test_the_medians_of_a_plan_have_the_residual_of_its_guarantee():
    found = plan(samples_per_client=400)

    @given(st.integers(0, 2**32 - 1), st.integers(0, 19), st.sampled_from([0.1, 10.0, 1e6]))
    def check(seed, num_byzantine, far):
        rng = np.random.default_rng(seed)
        points = rng.normal(size=(40, 20)).astype(rng.choice([np.float32, np.float64]))
        points[:num_byzantine] = far * rng.normal(size=20)
        median = geometric_median(points, gamma=found.gamma)
        assert median.residual <= found.guarantee.residual

    check()


def test_no_good_batch_is_longer_than_the_trim_norm_of_a_guarantee():
    found = plan(num_batches=20, samples_per_client=1000)
    rng, bound = np.random.default_rng(0), found.guarantee
    for _ in range(50):
        features, noise = rng.normal(size=(2000, 20)), rng.normal(size=2000)
        start = np.full(20, found.distance / sqrt(20))
        mean = features.T @ (features @ start - noise) / 2000
        hessian = np.abs(np.linalg.eigvalsh(features.T @ features / 2000) - 1).max()
        is_good = np.linalg.norm(features.T @ noise / 2000) <= bound.radius_1
        if is_good and hessian <= bound.radius_2:
            assert np.linalg.norm(mean) <= found.trim_norm


@pytest.mark.parametrize("num_batches", [None, 20])
@pytest.mark.parametrize("name", ["samples_per_client", "num_clients", "num_byzantine"])
def test_a_target_is_reached_with_what_is_left_out_and_not_with_one_step_less(name, num_batches):
    sizes = EXAMPLE | {"samples_per_client": 1000, "num_batches": num_batches}
    found = plan(**sizes | {"target_error": 0.06, name: None})
    assert found.expected_error <= 0.06
    assert found.num_batches == num_batches or num_batches is None
    worse = getattr(found, name) + (1 if name == "num_byzantine" else -1)
    assert plan(**sizes | {name: worse}).expected_error > 0.06


def test_the_fewest_batches_that_reach_a_target_are_found():
    found = plan(samples_per_client=1000, target_error=0.06)
    worse = plan(samples_per_client=1000, num_batches=found.num_batches - 1)
    assert found.expected_error <= 0.06 < worse.expected_error


def test_k_is_the_best_of_all():
    for skewness in (0.0, 2.0, 10.0):
        skewed = theory.Statistics(skewness=skewness)
        found = plan(num_clients=100, statistics=skewed)
        each = [theory.expected_error(20, 5000, k, 5, skewed) for k in range(11, 101)]
        assert found.expected_error <= 1.01 * min(each)
        assert (found.num_batches == 100) == (skewness < 10)


def test_sizes_may_be_of_numpy_and_millions_of_clients():
    sizes = {name: np.int64(size) for name, size in EXAMPLE.items()}
    assert theory.plan(**sizes) == plan()
    of_each = plan(samples_per_client=np.full(40, 50))
    assert of_each.expected_error == pytest.approx(plan().expected_error)
    assert plan(samples_per_client=range(50, 90)).samples_per_client == tuple(range(50, 90))
    assert plan(samples_per_client=np.array(50)) == plan()
    assert plan(num_clients=10**6, num_byzantine=10**5).num_batches == 4 * 10**5


def test_the_plan_says_what_would_help_and_where_it_does_not_know():
    helped = plan(num_batches=18)
    assert [hint.split()[0] for hint in helped.hints] == ["40", "20", "a", "258"]
    assert plan(num_batches=40).expected_error < 0.9 * helped.expected_error
    assert plan(num_batches=20).expected_error < 1.1 * helped.expected_error
    samples, clients = map(
        int, re.search(r"(\d+) samples .* (\d+) clients", helped.hints[3]).groups()
    )
    assert plan(num_batches=18, samples_per_client=samples).guarantee is not None
    assert plan(num_batches=18, num_clients=clients).guarantee is not None
    skewed = theory.Statistics(skewness=5.0)
    sizes = {"num_clients": 101, "samples_per_client": 5, "dim": 5, "statistics": skewed}
    assert not any("equal size" in hint for hint in plan(**sizes).hints)
    assert plan(step_size=1.0, samples_per_client=1000).hints == ()
    assert plan().doubts == ()
    (few,) = plan(dim=2, samples_per_client=1000).doubts
    (scarce,) = plan(samples_per_client=3).doubts
    (local,) = plan(samples_per_client=150, local_steps=5).doubts
    (bare,) = plan(num_byzantine=2, num_batches=5, samples_per_client=1000).doubts
    assert bare == "k = 2q + 1 batches are few"
    assert "directions" in few
    assert "few" in scarce
    assert "local steps" in local


@apis.BOTH
def test_both_strategies_take_a_plan(api):
    found = plan()
    options = api.gmom(**found.strategy_options()).settings
    assert options.batches_for(40) == found.num_batches
    assert (options.reply, options.step_size) == ("gradients", -found.step_size)
    assert options.num_byzantine == found.num_byzantine
    assert options.pre_aggregation == (NormTrimming(found.trim_norm),)
    assert options.rule == GeometricMedian(found.gamma)
