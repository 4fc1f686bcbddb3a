"""Who is Byzantine when."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_byz import attacks
from flwr_byz.aggregation import split_into_batches


@pytest.mark.parametrize(
    "clients", [{2, 7}, [2, 7], (7, 2, 7), {2: "a", 7: "b"}, iter((2, 7)), np.array([2, 7])]
)
def test_fixed_takes_any_collection_of_integers(clients):
    fixed = attacks.Fixed(clients)
    assert (fixed, hash(fixed)) == (attacks.Fixed({2, 7}), hash(attacks.Fixed({2, 7})))
    assert fixed(1) == fixed(9) == {2, 7}
    assert all(type(client) is int for client in fixed.clients)


@settings(max_examples=50)
@given(st.integers(1, 40), st.data(), st.integers(0, 1000))
def test_q_clients_are_byzantine_at_a_time_and_placements_as_far_apart_as_can_be(m, data, number):
    q = data.draw(st.integers(0, m))
    k = data.draw(st.integers(max(q, 1), m))
    apart, packed = attacks.one_per_batch(m, q, k), attacks.packed(m, q)
    for schedule in (attacks.FreshEachRound(m, q, seed=3), attacks.Rotating(m, q), apart, packed):
        clients = schedule(number)
        assert len(clients) == q
        assert clients <= set(range(m))
        assert clients == schedule(number)
    batches = split_into_batches(range(m), k)
    assert sum(bool(apart(1) & set(batch)) for batch in batches) == q
    assert sum(bool(packed(1) & set(batch)) for batch in batches) == sum(b[0] < q for b in batches)


def test_moving_sets_reach_every_client_and_fresh_ones_differ_between_rounds_and_seeds():
    for schedule, rounds in ((attacks.Rotating(20, 3), 7), (attacks.FreshEachRound(20, 3), 60)):
        assert set().union(*(schedule(r) for r in range(1, rounds + 1))) == set(range(20))
    sets = {attacks.FreshEachRound(40, 5, seed)(r) for seed in range(3) for r in range(10)}
    assert len(sets) == 30
