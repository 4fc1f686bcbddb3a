"""The paper's regressions, and the attacks that know their true parameters."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from clients.away import AwayAmongShort, AwayFromTruth
from clients.logistic_regression import LogisticRegression, curvature
from clients.pooled_regression import PooledRegression
from clients.regression import LinearRegression, OneShotRegression
from clients.selection import mean_of_smallest_norms
from clients.summarized_regression import SummarizedRegression, summaries
from flwr_byz.attacks import Knowledge

skewed = partial(LinearRegression, is_skewed=True)


def test_a_client_replies_the_gradient_of_its_summaries():
    problem = SummarizedRegression(3, 50, 4)
    replied = [problem.reply(client, [np.ones(4)], 1)[0][0] for client in range(3)]
    _, covariances, noises = summaries(problem)
    np.testing.assert_allclose(replied, covariances @ (1 - problem.optimum()) - noises)


def test_summaries_are_drawn_from_their_distribution():
    m, n, d = 20_000, 12, 3
    sizes, covariances, noises = summaries(SummarizedRegression(m, n, d))
    assert set(sizes) == {n}
    rng = np.random.default_rng(0)
    features = rng.normal(size=(m, n, d))
    real = np.einsum("mni,mnj->mij", features, features) / n
    real_noises = np.einsum("mni,mn->mi", features, rng.normal(size=(m, n))) / n
    for drawn, sampled in ((covariances, real), (noises, real_noises)):
        assert drawn.mean(axis=0) == pytest.approx(sampled.mean(axis=0), abs=0.02)
        assert drawn.std(axis=0) == pytest.approx(sampled.std(axis=0), rel=0.03)
    pairs = (covariances, noises), (real, real_noises)  # the noise grows with the covariance
    drawn, sampled = [np.einsum("mi,mi,mjj->", s, s, c) / m for c, s in pairs]
    assert drawn == pytest.approx(sampled, rel=0.03)
    uneven, _, _ = summaries(SummarizedRegression(1000, 200, 2, unevenness=0.5))
    assert 100 <= uneven.min() < 110
    assert 290 < uneven.max() <= 300


@pytest.mark.parametrize(
    "kind", [LinearRegression, skewed, SummarizedRegression, LogisticRegression, PooledRegression]
)
def test_the_gradient_is_that_of_the_empirical_risk_which_flipped_labels_mirror(kind):
    problem = kind(2, 40, 5)
    theta = np.random.default_rng(2).normal(size=5)
    (gradient,) = problem.reply(1, [theta], 1)[0]
    (flipped,) = problem.relabelled().reply(1, [-theta], 1)[0]
    np.testing.assert_allclose(flipped, -gradient)
    if kind is not SummarizedRegression:  # which knows no risk
        numeric = approx_fprime(theta, lambda at: problem.evaluate_client(1, [at])[0])
        np.testing.assert_allclose(gradient, numeric, atol=1e-6)


def test_skewed_gradients_have_unit_variance_and_the_third_moment_stated():
    features, targets = (problem := skewed(1, 1_000_000, 3)).data(0)
    gradients = features * (features @ problem.optimum() - targets)[:, None]
    np.testing.assert_allclose(np.cov(gradients.T), np.eye(3), atol=0.03)
    third = (gradients * np.square(gradients).sum(axis=1, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(third, [-6, 0, 0], atol=0.3)


@pytest.mark.parametrize("n", [3, 20])
def test_a_one_shot_reply_is_the_client_s_least_squares_solution(n):
    (own,), *_ = OneShotRegression(2, n, 5).reply(1, [np.zeros(5)], 1)
    (gradient,), *_ = LinearRegression(2, n, 5).reply(1, [own], 1)
    np.testing.assert_allclose(gradient, 0, atol=1e-12)


def test_the_logistic_curvature_is_that_of_samples():
    strong, smooth = curvature()
    u = np.random.default_rng(0).normal(size=1_000_000)
    slope_at = 1 / (4 * np.cosh(u / 2) ** 2)
    assert strong == pytest.approx((slope_at * u * u).mean(), rel=0.01)
    assert slope_at.max() == pytest.approx(smooth, rel=1e-6)


def test_away_from_truth_is_sent_far_off_along_the_way_back():
    knowledge = Knowledge(np.zeros(2), 4, 1, np.random.default_rng(0), model=np.array([3.0, 0.0]))
    update = AwayFromTruth((1.0, 0.0))(knowledge)
    gradient = AwayFromTruth((1.0, 0.0))(replace(knowledge, uses_gradients=True))
    assert update[0] > 1e5
    assert update[1] == 0.0
    np.testing.assert_array_equal(gradient, -update)


def test_the_short_reply_away_is_as_long_as_a_selection_of_the_shortest_takes():
    honest, random = np.diag(np.arange(1.0, 7.0)), np.random.default_rng(0)
    knowledge = Knowledge(np.zeros(6), 8, 2, random, model=np.ones(6), honest=honest)
    sent = AwayAmongShort((0.0,) * 6)(knowledge)

    def selects(reply):
        both = (2 * reply + honest[:4].sum(axis=0)) / 6
        selected = mean_of_smallest_norms(np.vstack([honest, reply, reply]), 6)
        return selected == pytest.approx(both)

    assert selects(sent)
    assert not selects(1.0001 * sent)
