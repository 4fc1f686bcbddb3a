"""What a node can do to the grid, rather than to a reply: nothing ends a round or holds it up."""

import hashlib
import json
import threading
import time
import tracemalloc

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.common import Code, EvaluateIns, FitIns, FitRes, Parameters, Status
from flwr.server.client_proxy import ClientProxy
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError
from flwr.superlink.grid import http_grid

from flwr_byz.bounded_pull import ReplyTooLarge, at_most, room_for
from flwr_byz.server.guarded_client import GuardedClient
from flwr_byz.serverapp.arriving_grid import ArrivingGrid, Unreadable

from . import malformed
from .answering_grid import AnsweringGrid, train


def reply(message_id):
    """Make a reply that knows by its content alone what it answers."""
    content = RecordDict({"which": ConfigRecord({"id": message_id})})
    made = Message(content, dst_node_id=99, message_type="train")
    made.metadata.__dict__["_src_node_id"] = 77
    made.metadata.__dict__["_reply_to_message_id"] = "of somebody else"
    return made


def told(replies):
    return [r.content["which"]["id"] for r in replies if "which" in r.content]


class SlowGrid:
    """Hands out each reply some time after the request was pushed."""

    def __init__(self, delays):
        self.delays, self.pulled = delays, []

    def push_messages(self, messages):
        (message,) = messages
        self.pushed = time.monotonic()
        return [message.metadata.message_id]

    def pull_messages(self, message_ids):
        (message_id,) = message_ids
        if time.monotonic() - self.pushed < self.delays[message_id]:
            return []
        self.pulled.append(message_id)
        return [reply(message_id)]


def messages(*names, size=0):
    malformed.in_a_run()
    content = RecordDict({"arrays": ArrayRecord({"0": Array(np.zeros(size, "f4"))})})
    made = [Message(content, dst_node_id=n, message_type="train") for n in range(len(names))]
    for message, name in zip(made, names, strict=True):
        message.metadata.__dict__["_message_id"] = name
    return made


def test_replies_are_handed_out_one_by_one_as_they_arrive():
    grid = SlowGrid({"late": 0.3, "never": 1e9, "early": 0.0})
    replies = ArrivingGrid(grid).send_and_receive(messages(*grid.delays), timeout=2)
    start = time.monotonic()
    assert told([next(replies)]) == ["early"]
    assert grid.pulled == ["early"]
    assert told([next(replies)]) == ["late"]
    assert list(replies) == []
    assert 1.5 <= time.monotonic() - start < 6


class HostileGrid(SlowGrid):
    """Some pulls raise, and some never end."""

    def pull_messages(self, message_ids):
        what = self.delays[message_ids[0]]
        if isinstance(what, Exception):
            raise what
        if what == "for ever":
            threading.Event().wait()
        if what == "announced":
            http_grid.pull_objects(["0"], unavailable)
        if what == "twice":
            return [reply(message_ids[0])] * 2
        return [reply(i) for i in message_ids]


def unavailable(object_id):
    raise ObjectUnavailableError(object_id)


@pytest.mark.parametrize(
    ("error", "is_unreadable"),
    [
        (ValueError("no JSON"), True),
        (KeyError("no such child"), True),
        (RecursionError(), True),
        (ReplyTooLarge("a terabyte"), True),
        (MemoryError(), False),
        (OSError("no network"), False),
        (httpx.ConnectError("no network"), False),
        (TimeoutError(), False),
    ],
)
def test_a_reply_that_cannot_be_read_is_told_from_one_that_cannot_be_had(error, is_unreadable):
    grid = HostileGrid({"bad": error, "good": None})
    first, second = ArrivingGrid(grid).send_and_receive(messages("bad", "good"), timeout=5)
    assert told([second]) == ["good"]
    assert first.metadata.reply_to_message_id == "bad"
    assert first.has_error() != is_unreadable
    if is_unreadable:
        assert isinstance(first.content, Unreadable)
        assert first.content.reason.startswith(type(error).__name__)


def test_a_reply_that_is_never_complete_holds_up_neither_the_others_nor_the_deadline():
    grid = HostileGrid({"a": "for ever", "b": None, "c": "for ever", "d": None})
    start = time.monotonic()
    replies = ArrivingGrid(grid).send_and_receive(messages("a", "b", "c", "d"), timeout=4)
    assert told(replies) == ["b", "d"]
    assert 3.9 < time.monotonic() - start < 8


def test_a_message_that_cannot_be_pushed_fails_its_own_node_only():
    """A node can confirm a message while it is still uploaded, which makes Flower's push raise."""

    class Grid(SlowGrid):
        def push_messages(self, messages):
            if messages[0].metadata.dst_node_id == 0:
                raise RuntimeError("The push session may have expired")
            return super().push_messages(messages)

    replies = ArrivingGrid(Grid({"a": 0.0, "b": 0.0})).send_and_receive(messages("a", "b"))
    first, second = replies
    assert first.has_error()
    assert first.metadata.src_node_id == 0
    assert told([second]) == ["b"]


def test_a_reply_is_that_of_the_node_that_was_asked_whatever_it_says_of_itself():
    grid = HostileGrid({"a": None, "b": None})
    for number, made in enumerate(ArrivingGrid(grid).send_and_receive(messages("a", "b"))):
        assert made.metadata.src_node_id == number
        assert made.metadata.reply_to_message_id == "ab"[number]


def test_two_replies_to_one_message_count_as_none():
    grid = HostileGrid({"a": "twice", "b": None})
    first, second = ArrivingGrid(grid).send_and_receive(messages("a", "b"))
    assert isinstance(first.content, Unreadable)
    assert told([second]) == ["b"]


def test_many_replies_that_are_only_announced_hold_up_nobody():
    names = [f"never {i}" for i in range(30)] + ["a", "b"]
    grid = HostileGrid(dict.fromkeys(names, "announced") | {"a": None, "b": None})
    start = time.monotonic()
    replies = ArrivingGrid(grid).send_and_receive(messages(*names), timeout=60)
    assert told([next(replies), next(replies)]) == ["a", "b"]
    assert time.monotonic() - start < 15  # not a second for each


def test_where_no_message_can_be_pushed_the_run_ends():
    class Grid(SlowGrid):
        def push_messages(self, messages):
            raise RuntimeError("this run was stopped")

    with pytest.raises(RuntimeError, match="this run was stopped"):
        ArrivingGrid(Grid({})).send_and_receive(messages("a", "b"))


def test_unreadable_replies_count_as_malformed_with_their_reason(tmp_path):
    class Grid(AnsweringGrid):
        def pull_messages(self, message_ids):
            if self.owner[message_ids[0]] in (0, 3):
                raise ValueError("no JSON")
            return super().pull_messages(message_ids)

        def push_messages(self, messages):
            ids = super().push_messages(messages)
            self.owner = getattr(self, "owner", {}) | {ids[0]: messages[0].metadata.dst_node_id}
            return ids

    result = train(tmp_path, 1, grid=Grid)
    (metrics,) = result.train_metrics_clientapp.values()
    assert metrics["byz-rejected"] == 3  # and the error of node 2
    line = json.loads((tmp_path / "audit.jsonl").read_text())
    assert line["clients"]["3"]["reply"] == "rejected"
    assert line["clients"]["3"]["reason"] == "ValueError: no JSON"
    assert not line["kept"]


# What one reply may take. -----------------------------------------------------------------------


def bomb(times):
    """An array whose one chunk of a kilobyte is named that many times."""
    chunk = ArrayChunk(memoryview(bytes(1024)))
    claims = {"dtype": "float32", "shape": [4], "stype": "numpy.ndarray"}
    body = json.dumps(claims | {"arraychunk_ids": [0] * times}).encode()
    content = b"Array %s %d\x00" % (chunk.object_id.encode(), len(body)) + body
    return content, {chunk.object_id: chunk}


def test_an_array_that_unfolds_to_more_than_it_may_is_refused_before_it_does():
    content, children = bomb(100_000)
    tracemalloc.start()
    try:
        with at_most(1 << 20, 10), pytest.raises(ReplyTooLarge):
            Array.inflate(content, children)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_the_limit_is_for_all_arrays_of_a_reply_together():
    content, children = bomb(600)
    with at_most(1 << 20, 10):
        Array.inflate(content, children)
        with pytest.raises(ReplyTooLarge):
            Array.inflate(content, children)


def test_there_is_no_limit_for_anybody_else():
    content, children = bomb(2000)
    with at_most(1 << 20, 10):
        other = []
        thread = threading.Thread(target=lambda: other.append(Array.inflate(content, children)))
        thread.start()
        thread.join()
    assert len(other[0].data) == len(Array.inflate(content, children).data) == 2000 * 1024
    assert http_grid.pull_objects(["a"], lambda object_id: bytes(2 << 20))["a"] == bytes(2 << 20)


@pytest.mark.parametrize("kind", [MetricRecord, ConfigRecord])
def test_metrics_have_a_limit_of_their_own(kind):
    content = kind({"numbers": list(range(30_000))}).deflate()
    with at_most(1 << 30, 10):
        assert kind.inflate(kind({"loss": 0.5}).deflate()) == {"loss": 0.5}
        with pytest.raises(ReplyTooLarge):
            kind.inflate(content)
    assert len(kind.inflate(content)["numbers"]) == 30_000


def test_a_response_that_says_it_is_too_large_is_not_read():
    def served(request):
        return httpx.Response(200, content=bytes(2 << 20))

    with httpx.Client(transport=httpx.MockTransport(served)) as client:
        assert len(client.get("http://superlink").content) == 2 << 20
        with at_most(1 << 20, 10):
            with pytest.raises(ReplyTooLarge):
                client.get("http://superlink")
            with pytest.raises(ReplyTooLarge):  # in a thread of Flower's
                http_grid.pull_objects(["a"], lambda _: client.get("http://superlink").content)
        with at_most(3 << 20, 10):
            pulled = http_grid.pull_objects(["a"], lambda _: client.get("http://superlink").content)
        assert len(pulled["a"]) == 2 << 20


def test_a_download_stops_at_the_limit():
    asked = []

    def pull(object_id):
        asked.append(object_id)
        return bytes(1 << 20)

    names = [hashlib.sha256(bytes([i])).hexdigest() for i in range(100)]
    with at_most(5 << 20, 10), pytest.raises(ReplyTooLarge):
        http_grid.pull_objects(names, pull)
    assert len(asked) < 20


@pytest.mark.parametrize("size", [0, 3, 10**6])
def test_an_honest_reply_in_float64_has_room(size):
    assert 8 * size < len(malformed.npy(np.zeros(size, "f8"))) < room_for([size])


# The classic API. -------------------------------------------------------------------------------


class Client(ClientProxy):
    def __init__(self, do):
        super().__init__("7")
        self.do = do

    def fit(self, ins, timeout, group_id):
        return self.do()

    evaluate = fit

    def get_properties(self, *args): ...
    def get_parameters(self, *args): ...
    def reconnect(self, *args): ...


def test_a_classic_failure_bears_the_name_of_its_client():
    def fail():
        raise ValueError("operands")

    client = GuardedClient(Client(fail), 1 << 20)
    for failed in (
        client.fit(FitIns(Parameters([], ""), {}), None, 1),
        client.evaluate(EvaluateIns(Parameters([], ""), {}), 3.0, 1),
    ):
        assert failed.status.code != Code.OK
        assert failed.status.message == "ValueError: operands"
    assert client.cid == "7"


def test_a_classic_reply_has_the_same_limit():
    content, children = bomb(2000)

    def unfold():
        Array.inflate(content, children)
        return FitRes(Status(Code.OK, ""), Parameters([], ""), 1, {})

    ins = FitIns(Parameters([], ""), {})
    assert GuardedClient(Client(unfold), 1 << 20).fit(ins, None, 1).status.code != Code.OK
    assert GuardedClient(Client(unfold), 1 << 22).fit(ins, None, 1).status.code == Code.OK
