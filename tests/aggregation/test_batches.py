from collections import Counter
from fractions import Fraction
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from flwr_byz.aggregation import num_batches, permute_clients, split_into_batches


@given(st.integers(1, 500), st.data(), st.floats(1e-9, 10))
def test_k_is_the_smallest_that_the_paper_asks_for_and_has_an_honest_majority(m, data, epsilon):
    q = data.draw(st.integers(0, (m - 1) // 2))
    wanted = ceil(2 * (1 + Fraction(repr(epsilon))) * q)
    assert 2 * q < num_batches(m, q, epsilon=epsilon) == min(max(wanted, 1), m)
    assert num_batches(100, 5, epsilon=0.1) == 11  # 2 * 1.1 * 5, whatever float64 makes of it


@given(st.integers(1, 60), st.data(), st.integers(0, 2**70), st.integers(0, 10**6))
def test_batches_are_runs_of_clients_whose_sizes_differ_by_at_most_one(m, data, seed, number):
    clients, k = [f"client {c}" for c in range(m)], data.draw(st.integers(1, m))
    permuted = permute_clients(clients, seed, number)
    assert permuted == permute_clients(tuple(clients), seed, number)
    assert Counter(permuted) == Counter(clients)
    for order in (clients, permuted):
        batches = split_into_batches(order, k)
        assert [client for batch in batches for client in batch] == list(order)
        assert {len(batch) for batch in batches} <= {m // k, -(-m // k)}
        assert len(batches) == k


def test_every_round_and_every_seed_has_a_permutation_of_its_own():
    seeds = [0, 1, 2**32, 2**32 + 1, 2**64 - 1]
    drawn = {tuple(permute_clients(range(20), seed, r)) for seed in seeds for r in range(1, 101)}
    assert len(drawn) == 500


def test_over_the_rounds_every_pair_of_clients_meets_alike_often():
    """Of 9 others one shares the batch: 1/9 of 2000 rounds, within six standard deviations."""
    rounds = (split_into_batches(permute_clients(range(10), 7, r), 5) for r in range(2000))
    pairs = Counter(frozenset(batch) for batches in rounds for batch in batches)
    assert len(pairs) == 45
    assert all(abs(times - 2000 / 9) < 6 * (2000 * 8 / 81) ** 0.5 for times in pairs.values())
