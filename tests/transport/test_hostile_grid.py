"""What a node can do to the grid, rather than to a reply: nothing ends a round or holds it up."""

import time
from collections import deque
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Event, Lock
from types import SimpleNamespace
from unittest.mock import Mock

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common import Code, FitIns, FitRes, Parameters, Status
from flwr.compat.common.recorddict_compat import fitres_to_recorddict
from flwr.server.compat.grid_client_proxy import GridClientProxy

from flwr_byz import audit
from flwr_byz.transport import ArrivingGrid, GuardedClient, ReplyTooLarge, Unreadable
from flwr_byz.transport import arrivals as transport_arrivals
from flwr_byz.transport import grid as transport_grid
from tests.support import malformed
from tests.support.apis import MESSAGE, Proxy
from tests.support.http_superlink import SuperLink, bomb, named, names, reply


def to_nodes(number):
    malformed.in_a_run()
    content = RecordDict({"arrays": ArrayRecord({"0": Array(np.zeros(0, "f4"))})})
    return [Message(content, dst_node_id=n, message_type="train") for n in range(number)]


class HostileGrid:
    """Each node does its own thing, which is a function that may return, raise or never end."""

    def __init__(self, *does):
        self.does, self.pulled = does, []

    get_node_ids = None

    def push_messages(self, messages):
        node = messages[0].metadata.dst_node_id
        messages[0].metadata.__dict__["_message_id"] = str(node)
        if self.does[node] is None:
            raise RuntimeError("The push session may have expired")
        return [str(node)]

    def pull_messages(self, message_ids):
        (message_id,) = message_ids
        self.pulled.append(message_id)
        made = Message(named(message_id), dst_node_id=99, message_type="train")
        made.metadata.__dict__.update(_src_node_id=77, _reply_to_message_id="of another node")
        return [made] * self.does[int(message_id)]()

    def replies(self, timeout=None):
        return ArrivingGrid(self).send_and_receive(to_nodes(len(self.does)), timeout=timeout)


UNREADABLE = [ValueError("no JSON"), KeyError("child"), RecursionError(), ReplyTooLarge("a lot")]
FAILED = [MemoryError(), OSError("network"), httpx.ConnectError("network"), TimeoutError()]


def test_what_a_node_does_costs_its_own_reply_alone():
    """None stands for a node that makes the push raise, as one that confirms too early does."""
    hostile = [*(Mock(side_effect=e) for e in [*UNREADABLE, *FAILED]), lambda: 2, None]
    replies = list(HostileGrid(*hostile, lambda: 1, Event().wait, lambda: 1).replies(timeout=1))
    assert names(replies) == ["10", "12"]
    node_ids = [reply.metadata.src_node_id for reply in replies]
    assert node_ids == [9, *range(9), 10, 12]  # whatever a reply claims of itself
    assert [r.metadata.reply_to_message_id for r in replies] == [str(n) for n in node_ids]
    assert [r.metadata.src_node_id for r in replies if r.has_error()] == [9, 4, 5, 6, 7]
    reasons = [reply.content.reason.partition(":")[0] for reply in replies[1:5]]
    assert reasons == [type(error).__name__ for error in UNREADABLE]
    assert isinstance(replies[9].content, Unreadable)  # two replies to one message


def test_where_no_message_can_be_pushed_the_run_ends():
    with pytest.raises(RuntimeError, match="session may have expired"):
        HostileGrid(None, None).replies()


def test_replies_are_handed_out_as_they_arrive_until_shortly_before_the_deadline(monkeypatch):
    """By a clock that only waiting moves on; what is pulled in a thread is there at once."""
    clock, worked_out = SimpleNamespace(now=0.0), []

    class Queue(deque):
        put = deque.append

        def get(self, timeout):
            if self:
                return self.popleft()
            clock.now += timeout
            raise Empty

    def thread(target, args, daemon):
        return SimpleNamespace(start=lambda: target(*args))

    for module in (transport_arrivals, transport_grid):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(transport_arrivals, "SimpleQueue", Queue)
    monkeypatch.setattr(transport_arrivals, "threading", SimpleNamespace(Thread=thread))
    monkeypatch.setattr(transport_grid, "room_for", lambda sizes: worked_out.append(sizes) or 1)
    grid = HostileGrid(lambda: clock.now >= 4.6, lambda: 0, lambda: 1, lambda: clock.now >= 0.3)
    replies = grid.replies(timeout=5)
    assert names([next(replies)]) == ["2"]
    assert grid.pulled == ["0", "1", "2"]
    assert names([next(replies)]) == ["3"]
    assert 0.3 <= clock.now < 0.6
    assert names(replies) == ["0"]
    assert clock.now == pytest.approx(5)
    assert len(worked_out) == 4  # once for each, however often it is looked for


@pytest.fixture
def connected():
    """Return what connects a grid to a SuperLink of replies, which ends its pulls after a test."""
    superlinks = []
    yield lambda *replies: superlinks.append(SuperLink(*replies)) or superlinks[-1].grid()
    for superlink in superlinks:
        superlink.objects = None


def test_replies_that_are_only_announced_hold_up_no_others(monkeypatch, connected):
    class Patient(SimpleQueue):
        def get(self, timeout):  # Empty, after so long, would mean that one was waited for
            return super().get(timeout=60)

    monkeypatch.setattr(transport_arrivals, "SimpleQueue", Patient)
    monkeypatch.setattr(transport_arrivals, "Empty", ())
    never = [reply(named("never"), is_uploaded=False)] * 30
    grid = ArrivingGrid(connected(*never, *map(reply, map(named, "ab"))))
    replies = grid.send_and_receive(to_nodes(32))
    assert names([next(replies), next(replies)]) == ["a", "b"]


def test_slow_replies_leave_the_time_to_read_all_others(connected):
    """Each of their many objects is there, but takes a while: 12 would take a second each."""
    parts = {f"m{i}": ConfigRecord({"i": i}) for i in range(200)}
    slow = [reply(RecordDict(parts), seconds=0.2)] * 12
    honest = [str(number) for number in range(38)]
    grid = ArrivingGrid(connected(*slow, *map(reply, map(named, honest))))
    replies = grid.send_and_receive(to_nodes(50), timeout=10)
    assert sorted(names(islice(replies, 38))) == sorted(honest)


def test_one_reply_is_pulled_at_a_time_where_none_is_slow():
    alone = Lock()

    def do():
        assert alone.acquire(blocking=False)
        time.sleep(0.005)
        alone.release()
        return 1

    assert len(names(HostileGrid(*[do] * 20).replies(timeout=60))) == 20


def test_an_unreadable_reply_counts_as_malformed_with_its_reason(tmp_path):
    options = {"num_byzantine": 1, "audit": tmp_path / "audit.jsonl"}
    replies = MESSAGE.honest() | {4: Unreadable("ValueError: no JSON")}
    arrays, metrics = MESSAGE.round(MESSAGE.gmom(**options), replies)
    assert (arrays is not None, metrics["byz-rejected"]) == (True, 1)
    (line,) = audit.read(options["audit"])
    entry = line["clients"]["4"]
    assert (entry["reply"], entry["reason"]) == ("rejected", "ValueError: no JSON")


FIT = FitIns(Parameters([], ""), {})


def test_a_classic_failure_bears_the_name_of_its_client():
    broken = Proxy("7")
    broken.fit = broken.evaluate = Mock(side_effect=ValueError("operands"))
    client = GuardedClient(broken, 1 << 20)
    for failed in (client.fit(FIT, None, 1), client.evaluate(FIT, 3.0, 1)):
        assert failed.status.code != Code.OK
        assert failed.status.message == "ValueError: operands"
    assert client.cid == "7"


def fit_at_a_node(reply, num_bytes=1 << 20, timeout=30.0):
    """Return the status of a reply to a client, which stays as it is."""
    client = GridClientProxy(0, grid := SuperLink(reply).grid(), 1)
    status = GuardedClient(client, num_bytes).fit(FIT, timeout, 1).status
    assert client.grid is grid
    return status


def test_a_classic_reply_has_the_same_limits_of_size_and_time():
    content = fitres_to_recorddict(FitRes(Status(Code.OK, ""), Parameters([], ""), 1, {}), True)
    (name,) = content.array_records
    content[name]["0"] = bomb(2000)
    large = reply(content)
    assert "ReplyTooLarge: its arrays unfold" in fit_at_a_node(large).message
    assert fit_at_a_node(large, 1 << 22).code == Code.OK
    never = reply(named("never"), is_uploaded=False)
    assert fit_at_a_node(never, timeout=0.5).message.startswith("TimeoutError")
