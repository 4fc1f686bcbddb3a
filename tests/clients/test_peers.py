"""The rules of peers on vectors, against the numbers that ByzFL 0.0.11 returns."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients import peers
from clients.peer_rules import PEERS
from clients.rule import ServerSide, Trusted
from flwr_byz.aggregation import AdaptiveClipping, Bucketing, NearestNeighborMixing
from flwr_byz.aggregation.gram import gram, with_products
from flwr_byz.aggregation.rows import StoredRows

ROWS = [[0, -2, 1], [1, 0, 3], [3, 2, -2], [6, -1, 4], [10, 4, 1], [15, 7, -3], [24, 6, 5]]
VECTORS, Q = np.array(ROWS, float), 2
MIXED = [*[[4, 0.6, 1.4]] * 4, [7, 2.4, 0.6], *[[11.6, 3.6, 1]] * 2]
CLIPPED = [
    *ROWS[:5],
    [9.64474994, 4.500883306, -1.928949988],
    [10.285714286, 2.571428571, 2.142857143],
]
BUCKETS = [[37 / 3, 4, 4 / 3], [16 / 3, 5 / 3, 1 / 3], [6, -1, 4]]
ORDER = np.array([6, 2, 4, 1, 0, 5, 3])
BYZFL = {
    "NNM": (peers.nearest_neighbor_mixing(VECTORS, Q), MIXED),
    "ARC": (peers.adaptive_clipping(VECTORS, Q), CLIPPED),
    "Bucketing": (peers.bucketing(VECTORS, 3, ORDER), BUCKETS),
    "TrMean": (peers.trimmed_mean(VECTORS, Q), [19 / 3, 2, 5 / 3]),
    "Median": (peers.coordinate_median(VECTORS), [6, 2, 1]),
    "GeometricMedian": (
        peers.smoothed_weiszfeld(VECTORS),
        [5.296692889, 1.067112369, 1.361373112],
    ),
    "GeometricMedian, vectors over 40": (  # where the smoothing acts
        peers.smoothed_weiszfeld(VECTORS / 40),
        [0.140203562, 0.031369873, 0.031791098],
    ),
    "CenteredClipping(L=3, tau=3)": (
        peers.centered_clipping(VECTORS, np.zeros(3), 3.0, 3),
        [3.940145337, 0.731605832, 1.110553299],
    ),
    "CenteredClipping(), vectors times 50": (
        peers.centered_clipping(50 * VECTORS, np.zeros(3)),
        [66.215291734, 6.813129861, 22.464195078],
    ),
}
COMBINED = {
    "NNMTrimmedMean": [5, 1.2, 19 / 15],
    "NNMMedian": [4, 0.6, 1.4],
    "ARCNNMGeometricMedian": [5.352698333, 1.011331072, 1.41350967],
}
TRUSTED = Trusted(np.ones(3), lambda v: float(np.linalg.norm(v - 3)), lambda v: (v + 3) / 2)
SERVER = ServerSide(trusted=TRUSTED)

drawn = st.builds(
    lambda seed, n, d, scale: np.random.default_rng(seed).standard_t(2, size=(n, d)) * scale,
    st.integers(0, 10**6),
    st.integers(3, 12),
    st.integers(1, 6),
    st.sampled_from([1e-3, 1.0, 1e3]),
)


@pytest.mark.parametrize("name", BYZFL)
def test_a_rule_is_that_of_byzfl(name):
    computed, expected = BYZFL[name]
    np.testing.assert_allclose(computed, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (NearestNeighborMixing(), MIXED),
        (AdaptiveClipping(), CLIPPED),
        (Bucketing(3, seed=5), peers.bucketing(VECTORS, 3, np.array([4, 2, 0, 6, 5, 3, 1]))),
    ],
    ids=repr,
)
def test_pre_aggregation_of_the_package_maps_rows_as_byzfl_does(entry, expected):
    assert np.random.default_rng([5, 1]).permutation(7).tolist() == [4, 2, 0, 6, 5, 3, 1]
    rows = StoredRows(VECTORS)
    mapping = entry.row_map(with_products(rows, gram(rows)), Q, server_round=1)
    np.testing.assert_allclose(mapping @ VECTORS, expected, atol=1e-6)


@pytest.mark.parametrize("name", COMBINED)
def test_a_combination_is_that_of_byzfl(name):
    combined = PEERS[name].aggregate(VECTORS, Q, ServerSide())
    np.testing.assert_allclose(combined, COMBINED[name], atol=1e-6)


def test_centred_clipping_goes_on_from_its_last_aggregate_as_byzfl_does():
    rule = PEERS["CenteredClipping"].aggregate
    first = rule(VECTORS, Q, ServerSide(), radius=3.0)
    second = rule(VECTORS, Q, ServerSide(last=first), radius=3.0)
    expected = [[1.986458752, 0.302005549, 0.625120026], [3.184261507, 0.530224295, 0.938330392]]
    np.testing.assert_allclose([first, second], expected, atol=1e-6)


@given(drawn)
def test_without_byzantine_vectors_mixing_trimming_and_buckets_of_all_are_the_mean(vectors):
    mean, order = vectors.mean(axis=0), np.arange(len(vectors))
    close = {"rtol": 1e-9, "atol": 1e-9 * np.abs(vectors).max()}
    for made in (
        PEERS["NNMTrimmedMean"].aggregate(vectors, 0, SERVER),
        PEERS["NNMMedian"].aggregate(vectors, 0, SERVER),
        peers.bucketing(vectors, len(vectors), order)[0],
        peers.centered_clipping(vectors, np.zeros_like(mean), np.inf),
    ):
        np.testing.assert_allclose(made, mean, **close)
    np.testing.assert_array_equal(peers.adaptive_clipping(vectors, 0), vectors)


@given(drawn, st.integers(0, 10**6))
def test_fltrust_is_never_longer_than_the_server_s_own_vector(vectors, seed):
    own = np.random.default_rng(seed).normal(size=vectors.shape[1])
    made = peers.fltrust(vectors, own)
    assert np.linalg.norm(made) <= np.linalg.norm(own) * (1 + 1e-9)
    assert made @ own >= 0
    np.testing.assert_allclose(peers.fltrust(np.stack([own * 7, -own]), own), own)


def test_fltrust_weighs_by_the_cosine_and_ignores_lengths():
    vectors = np.array([[5.0, 0], [0, 0.1], [-3, 3], [0, 0]])
    made = peers.fltrust(vectors, np.array([2.0, 1.0]))
    np.testing.assert_allclose(made, np.sqrt(5) * np.array([2, 1]) / 3)
    np.testing.assert_array_equal(peers.fltrust(-vectors[:2], np.array([2.0, 1.0])), [0, 0])
    own = np.array([50.0, 0])  # whose length over that of a vector of zeros is infinite
    np.testing.assert_allclose(peers.fltrust(vectors[[0, 3]], own), own)


@given(drawn, st.integers(0, 10**6))
def test_centred_clipping_stays_within_its_radius_of_the_center(vectors, seed):
    center = np.random.default_rng(seed).normal(size=vectors.shape[1])
    median = float(np.median(np.linalg.norm(vectors - center, axis=1)))
    for radius in (None, 0.1):
        moved = peers.centered_clipping(vectors, center, radius) - center
        within = median if radius is None else radius
        assert np.linalg.norm(moved) <= within * (1 + 1e-9)


@given(drawn)
def test_fedgreed_has_at_most_the_least_loss_of_a_single_vector(vectors):
    target = vectors.mean(axis=0)

    def loss(vector):
        return float(np.linalg.norm(vector - target))

    assert loss(peers.fedgreed(vectors, loss)) <= min(map(loss, vectors))


def test_fedgreed_averages_until_the_loss_rises_and_leaves_out_what_has_none():
    rows = np.array([[np.inf], [4.0], [-1.0], [100.0], [2.0]])

    def loss(vector):
        return float("nan") if np.isinf(vector).any() else float(abs(vector[0] - 1))

    assert peers.fedgreed(rows, loss) == [0.5]  # 2 and −1; with 4 it were 5/3
    assert peers.fedgreed(rows[1:2], loss) == [4.0]
    three = np.array([[0.4], [1.6], [1.3]])  # 1.3, then 0.85, then the mean of all
    assert peers.fedgreed(three, loss) == pytest.approx(1.1)


@pytest.mark.parametrize("name", PEERS)
def test_a_rule_that_needs_trusted_data_says_so(name):
    rule = PEERS[name]
    assert rule.aggregate(VECTORS, Q, SERVER).shape == (3,)
    if rule.needs_trusted_data:
        with pytest.raises(ValueError, match="data that it trusts"):
            rule.aggregate(VECTORS, Q, ServerSide())
