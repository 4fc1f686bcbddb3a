import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_byz import aggregation
from flwr_byz.aggregation import geometric_median, geometric_median_of_means, mean
from flwr_byz.theory import median_radius
from tests.support.table import table

VECTORS = np.random.default_rng(0).normal(size=(12, 30))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("k", range(1, 13))
def test_it_is_the_geometric_median_of_the_batch_means(k, dtype):
    vectors = VECTORS.astype(dtype)
    result = geometric_median_of_means(vectors, k)
    means = [b.astype("f8").mean(axis=0) for b in np.array_split(vectors, k)]
    assert np.allclose(result.point, geometric_median(means).point, atol=1e-9)
    assert np.allclose(result.batch_norms, np.linalg.norm(means, axis=1))
    assert np.allclose(result.batch_weights @ means, result.point, atol=1e-12)
    assert not result.trimmed.any()
    assert result.gap <= 1e-9


def test_batches_longer_than_tau_are_trimmed_or_than_twice_the_median_norm():
    vectors = VECTORS * np.where(np.arange(12) == 7, 1e6, 1.0)[:, None]
    result = geometric_median_of_means(vectors, 12, trim_norm=100.0)
    kept = np.delete(vectors, 7, axis=0)
    assert result.trimmed.tolist() == [i == 7 for i in range(12)]
    assert result.batch_weights[7] == 0
    assert np.allclose(result.point, geometric_median(kept).point, atol=1e-9)
    vectors = np.eye(5) * [[1.0], [1.0], [1.0], [1.9], [2.1]]
    trimmed = geometric_median_of_means(vectors, 5, trim_norm="auto").trimmed
    assert trimmed.tolist() == [False, False, False, False, True]  # at twice the median norm


@pytest.mark.parametrize(
    ("num_long", "num_byzantine", "trimmed"),
    [(5, None, 5), (5, 3, 5), (6, None, 0), (6, 3, 0), (9, 1, 9)],
)
def test_no_more_batches_are_trimmed_than_leave_the_honest_ones_in_the_majority(
    num_long, num_byzantine, trimmed
):
    """Of 12 batches at most 5 can be Byzantine, or 7 are kept."""
    vectors = VECTORS * np.where(np.arange(12) < num_long, 1e3, 1.0)[:, None]
    result = geometric_median_of_means(vectors, 12, trim_norm=20.0, num_byzantine=num_byzantine)
    assert result.trimmed.sum() == trimmed


def test_a_mean_at_the_end_of_float64_does_not_overflow():
    huge = [np.full(3, 1.7e308)] * 4
    assert np.allclose(mean(huge), 1.7e308)
    assert np.isfinite(geometric_median_of_means(huge, 2).point).all()


@settings(max_examples=60)
@given(st.integers(1, 30), st.data(), st.floats(-1, 38), st.integers(0, 10**6))
@pytest.mark.parametrize("gamma", [1e-9, 0.1])
def test_lemma_1_bounds_what_q_clients_can_do(gamma, m, data, exponent, seed):
    k = data.draw(st.integers(1, m))
    q, rng = data.draw(st.integers(0, (k - 1) // 2)), np.random.default_rng(seed)
    vectors = rng.normal(size=(m, 5))
    means = [batch.mean(axis=0) for batch in np.array_split(vectors, k)]
    vectors[rng.choice(m, size=q, replace=False)] = 10.0**exponent * rng.normal(size=5)
    result = geometric_median_of_means(vectors, k, gamma=gamma)
    radius = np.linalg.norm(means, axis=1).max()
    slack = {"gamma": result.gap, "largest": max(radius, result.batch_norms.max())}
    bound = median_radius(q / k, radius, **slack if gamma > 1e-9 else {})
    assert np.linalg.norm(result.point) <= bound * (1 + 1e-6)


REFUSED = r"""
num_batches(4, 2) : num_byzantine=2 of num_clients=4 | num_batches(0, 0) : num_clients
num_batches(5, -1) : num_byzantine | num_batches(5, 1, epsilon=0.0) : epsilon
num_batches(5, 1, epsilon=np.nan) : epsilon | split_into_batches([1, 2], 3) : num_batches
split_into_batches([1, 2], 0) : num_batches | permute_clients([1], -1, 1) : seed must be .* got -1
permute_clients([1], 1, -1) : server_round must be a whole number of at least 0, got -1
geometric_median([*TWO, [0, np.nan], *TWO]) : points\[2\] | geometric_median([]) : points
geometric_median([*TWO, [0, np.inf], *TWO]) : points\[2\] | geometric_median(5) : points
geometric_median([np.zeros(3), np.zeros(4)]) : points\[1\] | geometric_median([['a']]) : points
geometric_median(np.zeros((0, 3))) : points | geometric_median(np.zeros(3)) : points
geometric_median(TWO.astype(complex)) : points | geometric_median([object()]) : points
geometric_median(TWO, [1.0]) : weights | geometric_median(TWO, [-1.0, 2.0]) : weights
geometric_median(TWO, [0, 0]) : weights | geometric_median(TWO, [np.nan, 1]) : weights
geometric_median(TWO, gamma=0.0) : gamma | geometric_median(TWO, gamma=-1.0) : gamma
geometric_median(TWO, gamma=np.nan) : gamma | geometric_median(TWO, gamma=np.inf) : gamma
gmom(VECTORS, 12, num_byzantine=-1) : num_byzantine | gmom(VECTORS, 4, trim_norm=1e-9) : no batch
gmom(VECTORS, 12, num_byzantine=6) : num_byzantine | gmom(TWO, 2, trim_norm=0.0) : trim_norm
gmom(VECTORS, 12, num_byzantine=1.5) : num_byzantine | gmom(TWO, 2, trim_norm=-1.0) : trim_norm
gmom(TWO, 2, trim_norm='sometimes') : trim_norm | gmom(TWO, 2, trim_norm=np.nan) : trim_norm
gmom([*TWO, [0, np.nan]], 3) : vectors\[2\] | gmom([*TWO, [0, np.inf]], 3) : vectors\[2\]
"""
NAMES = vars(aggregation) | {"np": np, "VECTORS": VECTORS, "TWO": np.zeros((2, 2))}
NAMES["gmom"] = geometric_median_of_means


@pytest.mark.parametrize(("call", "said"), table(REFUSED))
def test_what_cannot_be_aggregated_is_refused_by_name(call, said):
    with pytest.raises((TypeError, ValueError), match=said):
        eval(call, NAMES)
