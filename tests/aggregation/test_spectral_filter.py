"""The spectral filter: its certificate holds, and nobody's rows make it fail."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_byz.aggregation import SpectralFilter, geometric_median, robust_mean
from flwr_byz.aggregation.bounds import filter_factor, resilience_factor
from flwr_byz.aggregation.gram import gram
from flwr_byz.aggregation.median_of_means import aggregate
from flwr_byz.aggregation.rows import StoredRows
from flwr_byz.aggregation.spectral_filter import _top_eigenvector


def largest_deviation(rows):
    """Return the largest standard deviation along any direction."""
    return np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)[0] / np.sqrt(len(rows))


def weighted_deviation(rows, weights):
    offsets = rows - weights @ rows
    return np.linalg.svd(np.sqrt(weights)[:, None] * offsets, compute_uv=False)[0]


def colluding(kind, honest, q, size, rng):
    mean, dim = honest.mean(axis=0), honest.shape[1]
    if kind == "together":
        return np.tile(mean + size * np.eye(dim)[0], (q, 1))
    if kind == "spread":
        return mean + size * np.eye(dim)[np.arange(q) % dim]
    if kind == "two sides":
        return mean + size * np.where(np.arange(q) % 2, 1, -1)[:, None] * np.eye(dim)[0]
    if kind == "copies of one":
        return np.tile(honest[0], (q, 1))
    return mean + size * rng.normal(size=(q, dim)) / np.sqrt(dim)


@settings(max_examples=200)
@given(
    st.sampled_from(["together", "spread", "two sides", "copies of one", "noise"]),
    st.integers(3, 40),
    st.sampled_from([1, 5, 100]),
    st.integers(0, 10**6),
    st.floats(-2, 9),
)
def test_the_certificate_holds_for_every_attack(kind, k, dim, seed, exponent):
    rng = np.random.default_rng(seed)
    q = int(rng.integers(0, (k - 1) // 2 + 1))
    honest = rng.normal(size=(k - q, dim)) * rng.exponential(size=dim)
    rows = np.concatenate([colluding(kind, honest, q, 10.0**exponent, rng), honest])
    result = robust_mean(rows, rule=SpectralFilter(), num_byzantine=q).combination
    away = np.linalg.norm(result.point - honest.mean(axis=0))
    certified = result.bound * (result.spread + largest_deviation(honest))
    assert away <= certified * (1 + 1e-6) + 1e-9 * 10**exponent
    assert result.weights.min() >= 0
    assert result.weights.sum() == pytest.approx(1)
    assert result.spread == pytest.approx(
        weighted_deviation(rows, result.weights), rel=1e-4, abs=1e-6 * 10**exponent
    )


@settings(max_examples=100)
@given(st.integers(1, 30), st.integers(0, 14), st.integers(0, 10**6))
def test_the_factor_is_that_of_the_worst_set_of_honest_rows(k, q, seed):
    """The distance of two weighted means, by brute force over directions in a line."""
    q = min(q, (k - 1) // 2)
    rng = np.random.default_rng(seed)
    weights = rng.exponential(size=k) ** 2
    weights /= weights.sum()
    factor = resilience_factor(weights, q)
    for _ in range(20):
        honest = rng.permutation(k)[: k - q]
        rows = rng.normal(size=(k, 1)) * 10.0 ** rng.uniform(-2, 3, size=(k, 1))
        away = abs(float(weights @ rows[:, 0] - rows[honest].mean()))
        spread = weighted_deviation(rows, weights) + largest_deviation(rows[honest])
        assert away <= factor * spread * (1 + 1e-9) + 1e-12


def test_without_byzantine_rows_it_is_the_mean():
    rows = np.random.default_rng(0).normal(size=(10, 30))
    result = robust_mean(rows, rule=SpectralFilter(), num_byzantine=0)
    assert np.allclose(result.point, rows.mean(axis=0))
    assert result.combination.bound == 0


def test_colluders_beyond_the_honest_spread_lose_nearly_all_their_weight():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(40, 500))
    rows[:8] = rows[8:].mean(axis=0) - 3 * np.ones(500) / np.sqrt(500) * np.sqrt(500)
    result = robust_mean(rows, rule=SpectralFilter(), num_byzantine=8)
    assert result.batch_weights[:8].sum() < 0.01


def test_the_error_of_the_filter_does_not_grow_with_the_dimension_as_the_medians_does():
    """Colluders just within the honest rows' distances: the median follows √d, the filter not."""
    rng, errors = np.random.default_rng(2), {}
    for dim in (10, 1000):
        honest = rng.normal(size=(160, dim))
        bias = np.sqrt(dim) * np.eye(dim)[0]
        rows = np.concatenate([np.tile(honest.mean(axis=0) + bias, (40, 1)), honest])
        truth = honest.mean(axis=0)
        filtered = robust_mean(rows, rule=SpectralFilter(), num_byzantine=40).point
        errors[dim] = [
            np.linalg.norm(filtered - truth),
            np.linalg.norm(geometric_median(rows).point - truth),
        ]
    assert errors[1000][1] > 5 * errors[10][1]
    assert errors[1000][0] < 0.2 * errors[1000][1]


@pytest.mark.parametrize(
    "rows",
    [np.zeros((9, 5)), np.ones((9, 5)), np.ones((1, 5)), np.arange(9.0)[:, None], np.eye(9, 20)],
    ids=["zeros", "equal", "one row", "a line", "orthogonal"],
)
def test_degenerate_rows_have_a_mean(rows):
    for q in range((len(rows) + 1) // 2):
        result = robust_mean(rows, rule=SpectralFilter(), num_byzantine=q)
        assert np.isfinite(result.point).all()
        assert rows.min() - 1e-12 <= result.point.min() <= result.point.max() <= rows.max() + 1e-12


@settings(max_examples=100)
@given(st.integers(3, 40), st.integers(0, 10**6), st.floats(-1, 3), st.booleans())
def test_the_factor_before_any_row_is_seen_holds_for_every_q(k, seed, exponent, spread):
    rng = np.random.default_rng(seed)
    q = int(rng.integers(0, (k - 1) // 2 + 1))
    honest = rng.normal(size=(k - q, 8)) * rng.exponential(size=8)
    kind = "spread" if spread else "together"
    rows = np.concatenate([colluding(kind, honest, q, 10.0**exponent, rng), honest])
    point = robust_mean(rows, rule=SpectralFilter(), num_byzantine=q).point
    sigma = largest_deviation(honest)
    assert np.linalg.norm(point - honest.mean(axis=0)) <= filter_factor(k, q) * sigma + 1e-9


@pytest.mark.parametrize("n", [1, 2, 20, 100])
@pytest.mark.parametrize("rank", [1, 3, 200])
def test_the_direction_is_that_of_the_largest_eigenvalue(n, rank):
    rng = np.random.default_rng(n)
    factors = rng.normal(size=(n, rank)) * 0.8 ** np.arange(rank)
    matrix = factors @ factors.T
    found, vector = _top_eigenvector(matrix / matrix.max())
    value = np.linalg.eigvalsh(matrix / matrix.max())[-1]
    assert found == pytest.approx(value, rel=1e-3)
    assert vector @ (matrix / matrix.max()) @ vector == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("dim", [3, 300])
@pytest.mark.parametrize("k", [20, 100])
@pytest.mark.parametrize("size", [1.3e154, 1.339e154])
def test_rows_whose_squares_nearly_overflow_neither_end_a_round_nor_take_it_over(k, dim, size):
    rows = np.random.default_rng(3).normal(size=(k, dim))
    rows[:3] = size * np.array([[1.0], [1.0], [-1.0]]) * np.eye(dim)[0]
    result = robust_mean(rows, rule=SpectralFilter(), num_byzantine=3)
    assert np.linalg.norm(result.point) < 3 * np.sqrt(dim)
    assert result.batch_weights[:3].tolist() == [0, 0, 0]


@pytest.mark.parametrize("k", [20, 100])
@pytest.mark.parametrize("offset", [1e2, 1e4, 1e5])
def test_what_all_rows_have_in_common_hides_nothing(k, offset):
    """Sums in float32 leave fewer digits of the products than the rows' differences need."""
    rng, q, dim = np.random.default_rng(4), k // 5, 2000
    rows = (rng.normal(size=(k, dim)) + offset).astype("f4")
    honest = rows[q:].astype("f8")
    along = np.where(np.arange(dim) % 2, 1, -1) / np.sqrt(dim)
    rows[:q] = honest.mean(axis=0) + 1000 * along
    stored = StoredRows(rows)
    result = aggregate(stored, gram(stored), rule=SpectralFilter(), num_byzantine=q)
    assert result.batch_weights[:q].sum() < 1e-3
    true = weighted_deviation(rows.astype("f8"), result.batch_weights)
    assert result.combination.spread == pytest.approx(true, rel=0.02)
