"""What a node can do to the grid, rather than to a reply: nothing ends a round or holds it up."""

import json
import threading
import time

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common import Code, EvaluateIns, FitIns, FitRes, Parameters, Status
from flwr.compat.common.recorddict_compat import fitres_to_recorddict
from flwr.server.client_proxy import ClientProxy
from flwr.server.compat.grid_client_proxy import GridClientProxy

from flwr_byz.transport import ArrivingGrid, GuardedClient, ReplyTooLarge, Unreadable
from flwr_byz.transport import grid as transport_grid
from tests.support import http_superlink, malformed
from tests.support.answering_grid import AnsweringGrid, train
from tests.support.http_superlink import Bomb, SuperLink, named, names


def reply(message_id):
    """Make a reply that knows by its content alone what it answers."""
    content = RecordDict({"which": ConfigRecord({"id": message_id})})
    made = Message(content, dst_node_id=99, message_type="train")
    made.metadata.__dict__["_src_node_id"] = 77
    made.metadata.__dict__["_reply_to_message_id"] = "of somebody else"
    return made


def ids(replies):
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


def to_nodes(number):
    malformed.in_a_run()
    content = RecordDict({"arrays": ArrayRecord({"0": Array(np.zeros(0, "f4"))})})
    return [Message(content, dst_node_id=n, message_type="train") for n in range(number)]


def messages(*names):
    made = to_nodes(len(names))
    for message, name in zip(made, names, strict=True):
        message.metadata.__dict__["_message_id"] = name
    return made


def test_replies_are_handed_out_one_by_one_as_they_arrive():
    grid = SlowGrid({"late": 0.3, "never": 1e9, "early": 0.0})
    replies = ArrivingGrid(grid).send_and_receive(messages(*grid.delays), timeout=2)
    start = time.monotonic()
    assert ids([next(replies)]) == ["early"]
    assert grid.pulled == ["early"]
    assert ids([next(replies)]) == ["late"]
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
        if what == "twice":
            return [reply(message_ids[0])] * 2
        return [reply(i) for i in message_ids]


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
def test_a_reply_that_cannot_be_read_differs_from_one_that_cannot_be_had(error, is_unreadable):
    grid = HostileGrid({"bad": error, "good": None})
    first, second = ArrivingGrid(grid).send_and_receive(messages("bad", "good"), timeout=5)
    assert ids([second]) == ["good"]
    assert first.metadata.reply_to_message_id == "bad"
    assert first.has_error() != is_unreadable
    if is_unreadable:
        assert isinstance(first.content, Unreadable)
        assert first.content.reason.startswith(type(error).__name__)


def test_a_reply_that_is_never_complete_holds_up_neither_the_others_nor_the_deadline():
    grid = HostileGrid({"a": "for ever", "b": None, "c": "for ever", "d": None})
    start = time.monotonic()
    replies = ArrivingGrid(grid).send_and_receive(messages("a", "b", "c", "d"), timeout=4)
    assert ids(replies) == ["b", "d"]
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
    assert ids([second]) == ["b"]


def test_a_reply_is_that_of_the_node_that_was_asked_whatever_it_says_of_itself():
    grid = HostileGrid({"a": None, "b": None})
    for number, made in enumerate(ArrivingGrid(grid).send_and_receive(messages("a", "b"))):
        assert made.metadata.src_node_id == number
        assert made.metadata.reply_to_message_id == "ab"[number]


def test_two_replies_to_one_message_count_as_none():
    grid = HostileGrid({"a": "twice", "b": None})
    first, second = ArrivingGrid(grid).send_and_receive(messages("a", "b"))
    assert isinstance(first.content, Unreadable)
    assert ids([second]) == ["b"]


def test_many_replies_that_are_only_announced_hold_up_nobody():
    never = [http_superlink.reply(named("never"), is_uploaded=False) for _ in range(30)]
    honest = [http_superlink.reply(named(name)) for name in "ab"]
    grid = SuperLink(*never, *honest).grid()
    start = time.monotonic()
    replies = ArrivingGrid(grid).send_and_receive(to_nodes(32), timeout=20)
    assert names([next(replies), next(replies)]) == ["a", "b"]
    assert time.monotonic() - start < 15  # not a second for each


def test_slow_replies_leave_the_time_to_read_all_others():
    """Each of their many objects is there, but takes a while."""
    parts = {f"m{i}": ConfigRecord({"i": i}) for i in range(200)}
    slow = http_superlink.reply(RecordDict(parts), seconds=0.2)
    honest = [http_superlink.reply(named(str(number))) for number in range(76)]
    grid = SuperLink(*[slow] * 24, *honest).grid()
    replies = ArrivingGrid(grid).send_and_receive(to_nodes(100), timeout=6)
    assert sorted(map(int, names(replies))) == list(range(76))


def test_one_reply_is_pulled_at_a_time_where_none_is_slow():
    class Grid(SlowGrid):
        num_under_way = most = 0

        def pull_messages(self, message_ids):
            self.num_under_way += 1
            self.most = max(self.most, self.num_under_way)
            time.sleep(0.005)
            self.num_under_way -= 1
            return super().pull_messages(message_ids)

    grid = Grid(dict.fromkeys(map(str, range(30)), 0.0))
    replies = ArrivingGrid(grid).send_and_receive(messages(*grid.delays), timeout=60)
    assert len(ids(replies)) == 30
    assert grid.most == 1


def test_a_reply_that_comes_shortly_before_the_deadline_is_read():
    grid = SlowGrid({"late": 4.6, "never": 1e9})
    assert ids(ArrivingGrid(grid).send_and_receive(messages(*grid.delays), timeout=5)) == ["late"]


def test_what_a_reply_may_take_is_worked_out_once_however_often_it_is_looked_for(monkeypatch):
    worked_out, looked = [], []

    class Grid(SlowGrid):
        def pull_messages(self, message_ids):
            looked.append(message_ids)
            return [reply(message_ids[0])] if len(looked) > 4 else []

    monkeypatch.setattr(transport_grid, "room_for", lambda sizes: worked_out.append(sizes) or 1)
    assert ids(ArrivingGrid(Grid({"a": 0.0})).send_and_receive(messages("a"))) == ["a"]
    assert len(worked_out) == 1


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


def fit_at_a_node(reply, num_bytes=1 << 20, timeout=30.0):
    client = GridClientProxy(0, SuperLink(reply).grid(), 1)
    return GuardedClient(client, num_bytes).fit(FitIns(Parameters([], ""), {}), timeout, 1)


def with_fit_res(array):
    content = fitres_to_recorddict(FitRes(Status(Code.OK, ""), Parameters([], ""), 1, {}), True)
    (name,) = content.array_records
    content[name]["0"] = array
    return http_superlink.reply(content)


def test_a_classic_reply_has_the_same_limit():
    bomb = with_fit_res(Bomb(2000))
    failed = fit_at_a_node(bomb)
    assert failed.status.code != Code.OK
    assert "ReplyTooLarge: its arrays unfold" in failed.status.message
    assert fit_at_a_node(bomb, 1 << 22).status.code == Code.OK


def test_a_classic_reply_that_is_never_uploaded_takes_no_longer_than_its_timeout():
    start = time.monotonic()
    failed = fit_at_a_node(http_superlink.reply(named("never"), is_uploaded=False), timeout=2.0)
    assert failed.status.code != Code.OK
    assert failed.status.message.startswith("TimeoutError")
    assert time.monotonic() - start < 10


def test_a_classic_client_stays_as_it_is():
    grid = SuperLink(with_fit_res(Array(np.zeros(4)))).grid()
    client = GridClientProxy(0, grid, 1)
    guarded = GuardedClient(client, 1 << 20)
    assert guarded.fit(FitIns(Parameters([], ""), {}), 30.0, 1).status.code == Code.OK
    assert client.grid is grid
