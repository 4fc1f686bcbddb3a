"""Replies that come in a later round than their message was sent in."""

from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, RecordDict

from flwr_byz.transport import ArrivingGrid, AsyncGrid, arrivals, grid
from tests.support import malformed
from tests.support.http_superlink import named, names


class Nodes:
    """A grid whose nodes reply when a test says so; odd ones leave before they are asked."""

    def __init__(self):
        malformed.in_a_run()
        self.ready, self.pulled, self.contents = set(), [], []

    get_node_ids = None

    def push_messages(self, messages):
        (message,) = messages
        node = message.metadata.dst_node_id
        message.metadata.__dict__["_message_id"] = message_id = f"{node} {len(self.contents)}"
        self.contents.append(message.content)
        return [None if node % 2 else message_id]

    def pull_messages(self, message_ids):
        (message_id,) = message_ids
        self.pulled.append(message_id)
        if message_id not in self.ready:
            return []
        made = Message(named(message_id), dst_node_id=99, message_type="train")
        made.metadata.__dict__.update(_src_node_id=77, _reply_to_message_id="of another")
        return [made]


def to(*nodes):
    content = RecordDict({"arrays": ArrayRecord({"0": Array(np.zeros(3, "f4"))})})
    return [Message(content, dst_node_id=node, message_type="train") for node in nodes]


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that waiting alone moves on."""
    now = SimpleNamespace(time=0.0)

    class Queue(arrivals.SimpleQueue):
        def get(self, timeout):
            if self.empty():
                now.time += timeout
            return super().get(timeout=0 if self.empty() else None)

    for module in (arrivals, grid):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.time))
    monkeypatch.setattr(arrivals, "SimpleQueue", Queue)

    def thread(target, args, daemon):
        return SimpleNamespace(start=lambda: target(*args))

    monkeypatch.setattr(arrivals, "threading", SimpleNamespace(Thread=thread))
    return now


def test_a_reply_comes_in_a_later_round_than_its_message(clock):
    nodes = Nodes()
    async_grid = AsyncGrid(nodes)
    first = iter(async_grid.send_and_receive(to(0, 2, 4), timeout=60))
    nodes.ready = {"2 1"}
    assert next(first).metadata.src_node_id == 2  # whatever it says of itself
    async_grid.send(to(2))
    nodes.ready |= {"4 2", "2 3"}
    second = iter(async_grid.send_and_receive(to(6), timeout=60))
    assert sorted(names([next(second), next(second)])) == ["2 3", "4 2"]
    nodes.ready |= {"0 0", "6 4"}
    assert sorted(names(second)) == ["0 0", "6 4"]
    assert list(async_grid.send_and_receive([], timeout=60)) == []


def test_a_round_ends_at_its_deadline_and_a_reply_that_takes_longer_than_that_is_an_error(clock):
    nodes = Nodes()
    async_grid = AsyncGrid(nodes)
    assert list(async_grid.send_and_receive(to(0), timeout=10)) == []
    assert clock.time == pytest.approx(10)
    (late,) = async_grid.send_and_receive([], timeout=10)
    assert (late.metadata.src_node_id, late.has_error()) == (0, True)
    nodes.pulled.clear()
    assert list(async_grid.send_and_receive([], timeout=10)) == []
    assert nodes.pulled == []  # it is given up


def test_a_node_that_has_left_is_an_error_at_once(clock):
    (reply,) = AsyncGrid(Nodes()).send_and_receive(to(1), timeout=10)
    assert (reply.metadata.src_node_id, reply.has_error()) == (1, True)
    assert clock.time < 1


def test_each_training_has_a_grid_of_the_kind_that_it_needs():
    nodes = Nodes()
    asynchronous, arriving = AsyncGrid(nodes, 100), ArrivingGrid(nodes, 200)
    assert ArrivingGrid.around(arriving) is arriving
    made = [
        (kind.around(given), kind, num_bytes)
        for kind in (ArrivingGrid, AsyncGrid)
        for given, num_bytes in [(nodes, None), (arriving, 200), (asynchronous, 100)]
    ]
    for grid_made, kind, num_bytes in made:
        assert type(grid_made) is kind
        assert (grid_made._grid, grid_made._num_bytes) == (nodes, num_bytes)
        assert grid_made is not asynchronous


def test_a_grid_that_fails_once_goes_on_and_one_that_fails_again_raises(clock):
    nodes = Nodes()
    async_grid, push = AsyncGrid(nodes), nodes.push_messages

    def fails(_):
        raise RuntimeError("no way")

    for _ in range(2):
        nodes.push_messages = fails
        (reply,) = async_grid.send_and_receive(to(0), timeout=10)
        assert (reply.metadata.src_node_id, reply.has_error()) == (0, True)
        nodes.push_messages = push
        nodes.ready = {f"2 {len(nodes.contents)}"}
        assert len(list(async_grid.send_and_receive(to(2), timeout=10))) == 1
    nodes.push_messages = fails
    async_grid.send(to(0))
    async_grid.send(to(4))
    with pytest.raises(RuntimeError, match="no way"):
        async_grid.send(to(0))


def test_what_is_awaited_holds_no_model(clock):
    nodes = Nodes()
    async_grid = AsyncGrid(nodes)
    sent = to(0, 2)
    async_grid.send_and_receive(sent, timeout=10)
    held = [message for message, _, _ in async_grid._arrivals._waiting.values()]
    assert [list(message.content) for message in held] == [[], []]
    assert [list(message.content) for message in sent] == [["arrays"], ["arrays"]]
    assert [list(content) for content in nodes.contents] == [["arrays"], ["arrays"]]
