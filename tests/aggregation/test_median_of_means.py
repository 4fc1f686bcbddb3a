import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_byz.aggregation import geometric_median, geometric_median_of_means, mean

VECTORS = np.random.default_rng(0).normal(size=(12, 30))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.sampled_from([np.float16, np.float32, np.float64]))
def test_it_is_the_geometric_median_of_the_batch_means(k, dtype):
    vectors = VECTORS.astype(dtype)
    result = geometric_median_of_means(vectors, k)
    means = [b.astype("f8").mean(axis=0) for b in np.array_split(vectors, k)]
    assert np.allclose(result.point, geometric_median(means).point, atol=1e-9)
    assert np.allclose(result.batch_norms, np.linalg.norm(means, axis=1))
    assert np.allclose(result.batch_weights @ means, result.point, atol=1e-12)
    assert not result.trimmed.any()
    assert result.gap <= 1e-9


def test_k_1_is_the_mean():
    assert np.allclose(geometric_median_of_means(VECTORS, 1).point, VECTORS.mean(axis=0))


def test_batches_longer_than_tau_are_trimmed():
    vectors = VECTORS.copy()
    vectors[7] *= 1e6
    result = geometric_median_of_means(vectors, 12, trim_norm=100.0)
    kept = np.delete(vectors, 7, axis=0)
    assert result.trimmed.tolist() == [i == 7 for i in range(12)]
    assert result.batch_weights[7] == 0
    assert np.allclose(result.point, geometric_median(kept).point, atol=1e-9)


def test_auto_trims_at_twice_the_median_norm():
    vectors = np.eye(5) * [[1.0], [1.0], [1.0], [1.9], [2.1]]
    trimmed = geometric_median_of_means(vectors, 5, trim_norm="auto").trimmed
    assert trimmed.tolist() == [False, False, False, False, True]


@pytest.mark.parametrize(
    ("num_long", "options", "trimmed"),
    [
        (5, {}, 5),
        (6, {}, 0),  # of 12 batches no more than 5 are outvoted
        (5, {"num_byzantine": 3}, 5),
        (6, {"num_byzantine": 3}, 0),  # 7 have to be kept
        (9, {"num_byzantine": 1}, 9),
    ],
)
def test_no_more_batches_are_trimmed_than_leave_the_honest_ones_in_the_majority(
    num_long, options, trimmed
):
    vectors = VECTORS.copy()
    vectors[:num_long] *= 1e3
    result = geometric_median_of_means(vectors, 12, trim_norm=20.0, **options)
    assert result.trimmed.sum() == trimmed


@pytest.mark.parametrize("num_byzantine", [-1, 6, 1.5])
def test_a_number_of_byzantine_clients_that_the_batches_cannot_outvote_is_refused(num_byzantine):
    with pytest.raises((TypeError, ValueError), match="num_byzantine"):
        geometric_median_of_means(VECTORS, 12, num_byzantine=num_byzantine)


def test_trimming_every_batch_is_refused():
    with pytest.raises(ValueError, match="leaves no batch"):
        geometric_median_of_means(VECTORS, 4, trim_norm=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 3), st.floats(0, 38), st.integers(0, 10**6))
def test_lemma_1_bounds_what_q_clients_can_do(q, exponent, seed):
    rng = np.random.default_rng(seed)
    honest = rng.normal(size=(12, 5))
    vectors = honest.copy()
    vectors[rng.choice(12, size=q, replace=False)] = 10.0**exponent * rng.normal(size=5)
    k = max(4 * q, 1)
    point = geometric_median_of_means(vectors, k).point
    means = np.stack([b.mean(axis=0) for b in np.array_split(honest, k)])
    alpha = q / k
    radius = np.linalg.norm(means, axis=1).max()
    assert np.linalg.norm(point) <= 2 * (1 - alpha) / (1 - 2 * alpha) * radius * (1 + 1e-6)


def test_a_mean_of_vectors_at_the_end_of_float64_does_not_overflow():
    huge = [np.full(3, 1.7e308)] * 4
    assert np.allclose(mean(huge), 1.7e308)
    assert np.isfinite(geometric_median_of_means(huge, 2).point).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_non_finite_vector_is_named(value):
    vectors = VECTORS.copy()
    vectors[4, 2] = value
    with pytest.raises(ValueError, match=r"vectors\[4\]"):
        geometric_median_of_means(vectors, 3)


@pytest.mark.parametrize("trim_norm", [0.0, -1.0, np.nan, "sometimes"])
def test_a_trimming_norm_that_is_none_is_refused(trim_norm):
    with pytest.raises((TypeError, ValueError), match="trim_norm"):
        geometric_median_of_means(VECTORS, 3, trim_norm=trim_norm)
