import pytest
from hypothesis import given
from hypothesis import strategies as st

from flwr_byz.aggregation import num_batches, split_into_batches


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
