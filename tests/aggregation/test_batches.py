from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flwr_byz.aggregation import num_batches, permute_clients, split_into_batches


@pytest.mark.parametrize(
    ("num_clients", "num_byzantine", "epsilon", "expected"),
    [
        (40, 5, 1.0, 20),
        (20, 4, 1.0, 16),
        (20, 0, 1.0, 1),
        (100, 5, 0.1, 11),  # 2 * 1.1 * 5 is 11, whatever float64 makes of it
        (10, 4, 1.0, 10),  # never above m
        (3, 1, 1e-9, 3),  # strictly more than 2q
        (1, 0, 1.0, 1),
    ],
)
def test_k_is_the_smallest_that_the_paper_asks_for(num_clients, num_byzantine, epsilon, expected):
    assert num_batches(num_clients, num_byzantine, epsilon=epsilon) == expected


@given(st.integers(1, 500), st.data())
def test_k_outvotes_q_and_is_at_most_m(num_clients, data):
    q = data.draw(st.integers(0, (num_clients - 1) // 2))
    epsilon = data.draw(st.floats(1e-6, 10))
    k = num_batches(num_clients, q, epsilon=epsilon)
    assert 2 * q < k <= num_clients
    assert k == num_clients or k >= 2 * (1 + epsilon) * q - 1e-9


@pytest.mark.parametrize(
    ("arguments", "epsilon"),
    [((4, 2), 1.0), ((0, 0), 1.0), ((5, -1), 1.0), ((5, 1), 0.0), ((5, 1), float("nan"))],
)
def test_what_no_k_can_hold_is_refused(arguments, epsilon):
    with pytest.raises(ValueError, match=r"num_|epsilon"):
        num_batches(*arguments, epsilon=epsilon)


@given(st.integers(1, 60), st.data())
def test_batches_are_runs_of_neighbours_whose_sizes_differ_by_at_most_one(m, data):
    k = data.draw(st.integers(1, m))
    batches = split_into_batches(list(range(m)), k)
    assert [client for batch in batches for client in batch] == list(range(m))
    sizes = [len(batch) for batch in batches]
    assert len(sizes) == k
    assert max(sizes) - min(sizes) <= 1
    if m % k == 0:
        assert all(c // (m // k) == number for number, batch in enumerate(batches) for c in batch)


@pytest.mark.parametrize("k", [0, 6])
def test_a_number_of_batches_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match="num_batches"):
        split_into_batches(range(5), k)


@given(st.integers(1, 60), st.integers(0, 2**70), st.integers(0, 10**6), st.data())
def test_permuted_clients_lie_in_one_batch_each_and_sizes_differ_by_at_most_one(
    m, seed, server_round, data
):
    clients = [f"client {number}" for number in range(m)]
    permuted = permute_clients(clients, seed, server_round)
    assert permuted == permute_clients(tuple(clients), seed, server_round)
    batches = split_into_batches(permuted, data.draw(st.integers(1, m)))
    assert Counter(c for batch in batches for c in batch) == Counter(clients)
    sizes = [len(batch) for batch in batches]
    assert max(sizes) - min(sizes) <= 1


def test_every_round_and_every_seed_has_a_permutation_of_its_own():
    seeds = [0, 1, 2**32, 2**32 + 1, 2**64 - 1]
    drawn = {tuple(permute_clients(range(20), seed, r)) for seed in seeds for r in range(1, 101)}
    assert len(drawn) == 500


def test_over_the_rounds_every_pair_of_clients_meets_alike_often():
    """Of 9 others one shares the batch: 1/9 of 4000 rounds, within six standard deviations."""
    met = Counter()
    for server_round in range(4000):
        for batch in split_into_batches(permute_clients(range(10), 7, server_round), 5):
            met[frozenset(batch)] += 1
    assert len(met) == 45
    assert all(abs(times - 4000 / 9) < 6 * (4000 * 8 / 81) ** 0.5 for times in met.values())


@pytest.mark.parametrize(("seed", "server_round"), [(-1, 1), (1, -1)])
def test_a_negative_seed_or_round_is_refused(seed, server_round):
    with pytest.raises(ValueError, match=r"must be a whole number of at least 0, got -1"):
        permute_clients(range(5), seed, server_round)
