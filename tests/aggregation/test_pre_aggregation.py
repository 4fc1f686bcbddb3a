"""Pre-aggregation against plain NumPy on the vectors themselves, in any order, whatever comes."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_byz.aggregation import (
    AdaptiveClipping,
    Bucketing,
    FilteredClipping,
    GeometricMedian,
    NearestNeighborMixing,
    NormTrimming,
    SpectralFilter,
    geometric_median,
    robust_mean,
)
from flwr_byz.aggregation.bounds import certified_c_alpha, mixed_kappa
from flwr_byz.aggregation.gram import gram
from flwr_byz.aggregation.median_of_means import aggregate
from flwr_byz.aggregation.rows import StoredRows
from tests.support.table import table

RULES = pytest.mark.parametrize("rule", [GeometricMedian(), SpectralFilter()], ids=repr)


def trimmed(vectors, q):
    norms = np.linalg.norm(vectors, axis=1)
    kept = norms <= 2 * np.median(norms)
    return vectors[kept] if kept.sum() > 2 * q else vectors


def mixed(vectors, q):
    distances = np.linalg.norm(vectors[:, None] - vectors, axis=2)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, : len(vectors) - q]
    return vectors[nearest].mean(axis=1)


def clipped(vectors, q):
    norms, k = np.linalg.norm(vectors, axis=1), len(vectors)
    limit = np.sort(norms)[::-1][int(2 * q / k * (k - q))]
    return vectors * np.minimum(1, limit / norms)[:, None]


def clipped_about_the_filter(vectors, q):
    q = min(q, (len(vectors) - 1) // 2)
    centre = robust_mean(vectors, rule=SpectralFilter(), num_byzantine=q).point
    distances = np.linalg.norm(vectors - centre, axis=1)
    factors = np.minimum(1, np.median(distances) / np.maximum(distances, 1e-300))
    return centre + factors[:, None] * (vectors - centre)


def bucketed(vectors, q):
    order = np.random.default_rng([7, 3]).permutation(len(vectors))
    return np.array([vectors[order[i : i + 2]].mean(axis=0) for i in range(0, len(vectors), 2)])


ENTRIES = {
    NormTrimming(): trimmed,
    NearestNeighborMixing(): mixed,
    AdaptiveClipping(): clipped,
    FilteredClipping(): clipped_about_the_filter,
    Bucketing(2, seed=7): bucketed,
}


@settings(max_examples=60)
@given(
    st.sampled_from([order for n in range(1, 5) for order in permutations(ENTRIES, n)]),
    st.integers(9, 25),
    st.sampled_from([2, 300]),
    st.integers(0, 10**6),
    st.floats(-2, 6),
)
@RULES
def test_any_entries_in_any_order_map_the_rows_as_they_map_the_vectors(
    rule, order, n, dim, seed, exponent
):
    rng = np.random.default_rng(seed)
    q = int(rng.integers(0, (n + 1) // 4))  # fewer than half of the buckets
    vectors = rng.normal(size=(n, dim))
    vectors[:q] += 10.0**exponent
    expected = vectors
    for entry in order:
        expected = ENTRIES[entry](expected, q)
    options = {"pre_aggregation": order, "num_byzantine": q, "server_round": 3}
    if len(expected) <= 2 * q:
        with pytest.raises(ValueError, match="no honest majority"):
            robust_mean(vectors, rule=rule, **options)
        return
    result = robust_mean(vectors, rule=rule, **options)
    alone = robust_mean(expected, rule=rule, num_byzantine=q)
    scale = 1e-6 * np.linalg.norm(expected, axis=1).max()
    assert np.allclose(result.point, alone.point, rtol=0, atol=max(scale, 1e-6))
    assert np.allclose(result.batch_weights @ vectors, result.point, atol=max(scale, 1e-9))
    assert result.num_rows == len(expected)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(("gamma", "largest_gap"), [(None, 1e-5), (1e-9, 1e-9)])
def test_a_median_of_mixed_rows_is_certified_on_these_rows(dtype, gamma, largest_gap):
    rng, q = np.random.default_rng(0), 5
    vectors = rng.normal(size=(30, 5000)).astype(dtype)
    vectors[:q] += 0.2
    rows = StoredRows(vectors)
    for entry, by_hand in ((NearestNeighborMixing(), mixed), (AdaptiveClipping(), clipped)):
        result = aggregate(
            rows,
            gram(rows),
            rule=GeometricMedian(gamma),
            pre_aggregation=[entry],
            num_byzantine=q,
        )
        expected = geometric_median(by_hand(vectors.astype("f8"), q), gamma=1e-12)
        reached = np.linalg.norm(by_hand(vectors.astype("f8"), q) - result.point, axis=1).sum()
        assert result.gap <= largest_gap
        assert reached <= expected.objective * (1 + result.gap + 1e-9)
        assert result.point.dtype == dtype
        assert result.combination.bound == certified_c_alpha(q / 30, result.residual)


def test_rows_with_the_same_neighbours_count_as_often_as_they_are_there():
    vectors = np.concatenate([np.zeros((5, 9)), np.ones((4, 9))])
    near, far = np.zeros(9), 4 / 6 * np.ones(9)  # the mean of four ones and two zeros
    result = robust_mean(
        vectors, rule=GeometricMedian(), pre_aggregation=[NearestNeighborMixing()], num_byzantine=3
    )
    expected = geometric_median([near + 1 / 6] * 5 + [far] * 4)  # five zeros and a one
    assert np.allclose(result.point, expected.point)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("dim", [3, 400])
@pytest.mark.parametrize("size", [1e-200, 1e-30, 1e30, 1e152, 1e170, 1e308])
@RULES
def test_rows_of_any_length_neither_end_a_round_nor_take_it_over(rule, dtype, dim, size):
    with np.errstate(all="ignore"):
        size = np.clip(size, float(np.finfo(dtype).tiny), float(np.finfo(dtype).max) / 2)
        vectors = np.random.default_rng(1).normal(size=(24, dim)).astype(dtype)
        vectors[:4] = np.sign(vectors[:4]) * size
    rows = StoredRows(vectors)
    honest = vectors[4:].astype("f8")
    for entries in permutations(ENTRIES, 2):
        result = aggregate(
            rows, gram(rows), rule=rule, pre_aggregation=entries, num_byzantine=4, server_round=3
        )
        away = np.linalg.norm(result.point.astype("f8") - honest.mean(axis=0))
        assert away <= 5 * np.linalg.norm(honest - honest.mean(axis=0), axis=1).max()


@RULES
def test_a_row_that_is_not_finite_is_left_out_and_the_rule_goes_on_to_assume_q(rule):
    vectors = np.random.default_rng(2).normal(size=(20, 50))
    whole = vectors.copy()
    whole[3] = np.nan
    for entry in ENTRIES:
        options = {"rule": rule, "pre_aggregation": [entry], "server_round": 3}
        rows, rest = StoredRows(whole), StoredRows(np.delete(vectors, 3, axis=0))
        with_nan = aggregate(rows, gram(rows), num_byzantine=4, **options)
        without = aggregate(rest, gram(rest), num_byzantine=4, **options)
        assert np.allclose(with_nan.point, without.point, rtol=0, atol=1e-9)
        assert with_nan.not_finite.tolist() == [i == 3 for i in range(20)]
        assert with_nan.batch_weights[3] == 0


def test_buckets_are_drawn_afresh_in_each_round_and_the_same_for_the_same_seed():
    vectors = np.random.default_rng(3).normal(size=(12, 5))

    def weights(seed, server_round):
        entries = [Bucketing(3, seed=seed)]
        options = {"pre_aggregation": entries, "num_byzantine": 1, "server_round": server_round}
        return robust_mean(vectors, rule=GeometricMedian(), **options).batch_weights.tolist()

    assert weights(1, 1) == weights(1, 1)
    assert weights(1, 1) != weights(1, 2)
    assert weights(1, 1) != weights(2, 1)


REFUSED = r"""
NormTrimming(0.0) : norm must be a finite number above 0 or "auto", got 0.0
NormTrimming("often") : norm must be | NormTrimming(None) : norm must be
Bucketing(0) : size must be a whole number of at least 1, got 0 | Bucketing(1.5) : size
Bucketing(seed=-1) : seed | GeometricMedian(0.0) : gamma | GeometricMedian("small") : gamma
"""


@pytest.mark.parametrize(("call", "said"), table(REFUSED))
def test_wrong_options_are_refused_by_name(call, said):
    with pytest.raises((TypeError, ValueError), match=said):
        eval(call, globals())


@settings(max_examples=60)
@given(st.integers(3, 30), st.integers(0, 10**6), st.floats(-1, 4))
def test_mixing_keeps_the_median_within_its_kappa(k, seed, exponent):
    rng = np.random.default_rng(seed)
    q = int(rng.integers(0, (k - 1) // 2 + 1))
    honest = rng.normal(size=(k - q, 6)) * rng.exponential(size=6)
    rows = np.concatenate([honest.mean(axis=0) + 10**exponent * rng.normal(size=(q, 6)), honest])
    rule = GeometricMedian(1e-9)
    point = robust_mean(
        rows, rule=rule, pre_aggregation=[NearestNeighborMixing()], num_byzantine=q
    ).point
    scatter = np.square(honest - honest.mean(axis=0)).sum(axis=1).mean()
    kappa = mixed_kappa(rule.kappa(k, q), k, q)
    assert np.square(point - honest.mean(axis=0)).sum() <= kappa * scatter * (1 + 1e-6) + 1e-12


def test_a_sum_that_overflows_does_not_shield_a_row_that_is_too_long():
    """The norm of one row, and one row itself, are beyond float64."""
    vectors = np.random.default_rng(5).normal(size=(9, 20))
    vectors[0], vectors[1] = 1.5e308, np.inf
    rows = StoredRows(vectors)
    result = aggregate(
        rows, gram(rows), rule=GeometricMedian(), pre_aggregation=[NormTrimming()], num_byzantine=2
    )
    assert result.trimmed.tolist() == [True, True] + [False] * 7


@pytest.mark.filterwarnings("error")
@RULES
def test_rows_whose_squares_nearly_overflow_print_no_warnings(rule):
    vectors = np.random.default_rng(6).normal(size=(20, 50))
    vectors[:3] = 1.3e154 * np.array([[1.0], [1.0], [-1.0]]) * np.eye(50)[0]
    for entry in ENTRIES:
        robust_mean(vectors, rule=rule, pre_aggregation=[entry], num_byzantine=3)
