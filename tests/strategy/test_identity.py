"""The order of clients is theirs alone: nothing of it is decided by who answers first."""

from hypothesis import example, given
from hypothesis import strategies as st

from flwr_byz.identity import identity_order


def test_numbers_come_first_and_by_size():
    clients = ["b", "10", "a", "9", "1" * 60, ""]
    assert sorted(clients, key=identity_order) == ["9", "10", "", "1" * 60, "a", "b"]
    assert sorted([10, 9, -1], key=identity_order) == [9, 10, -1]


@example(["3", "03", "٣", "003"])
@given(st.lists(st.text() | st.integers(0).map(str), unique=True))
def test_no_two_clients_share_a_place(clients):
    assert len({identity_order(client) for client in clients}) == len(clients)
