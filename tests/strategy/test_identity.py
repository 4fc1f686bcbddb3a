"""The order of clients is theirs alone: nothing of it is decided by who answers first."""

import itertools

from hypothesis import example, given
from hypothesis import strategies as st

from flwr_byz.identity import identity_order
from tests.support.apis import CLASSIC, Proxy, exact
from tests.support.malformed import honest_arrays

TIED = ["3", "03", "٣", "003"]


def test_numbers_come_first_and_by_size():
    clients = ["b", "10", "a", "9", "1" * 60, ""]
    assert sorted(clients, key=identity_order) == ["9", "10", "", "1" * 60, "a", "b"]
    assert sorted([10, 9, -1], key=identity_order) == [9, 10, -1]


@example(TIED)
@given(st.lists(st.text() | st.integers(0).map(str), unique=True))
def test_no_two_clients_share_a_place(clients):
    assert len({identity_order(client) for client in clients}) == len(clients)


def test_cids_that_read_as_the_same_number_give_one_model_in_any_order_of_arrival():
    replies = [CLASSIC.reply(honest_arrays(n), {"loss": 2.0**n}) for n in range(5)]
    results = zip(map(Proxy, [*TIED, "1"]), replies, strict=True)
    outcomes = [
        exact(CLASSIC.end(CLASSIC.gmom(num_batches=2, **CLASSIC.initial()), list(arrived)))
        for arrived in itertools.permutations(results)
    ]
    assert all(outcome == outcomes[0] for outcome in outcomes)
