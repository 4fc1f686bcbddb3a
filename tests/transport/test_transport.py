"""What one reply may take, and that Flower and httpx stay as they are."""

import gzip
import inspect
import logging
import subprocess
import sys
import time
import tracemalloc
from abc import abstractmethod
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.grid import HttpGrid

from flwr_byz.transport import ArrivingGrid, ReplyTooLarge, room_for
from flwr_byz.transport.bounded import BoundedPull
from flwr_byz.transport.limits import Limits
from flwr_byz.transport.passed_on import passes_on_to
from tests.support import malformed
from tests.support.http_superlink import Bomb, SuperLink, named, names, reply


def pull(content, num_bytes=1 << 20, seconds=10.0, change=lambda superlink: None):
    """Pull a reply within limits; return its content."""
    superlink = SuperLink(reply(content))
    change(superlink)
    grid = superlink.grid()
    (made,) = BoundedPull(grid)(push(grid), Limits(num_bytes, seconds))
    return made.content


def push(grid):
    (message_id,) = grid.push_messages([Message(RecordDict(), 0, "train")])
    return message_id


def arrays(*values):
    made = ArrayRecord()
    made.update({str(number): array for number, array in enumerate(values)})
    return RecordDict({"arrays": made})


def test_an_array_that_unfolds_to_more_than_it_may_is_refused_before_it_does():
    content = arrays(Bomb(100_000))
    tracemalloc.start()
    try:
        with pytest.raises(ReplyTooLarge):
            pull(content)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20  # not 100 MB
    finally:
        tracemalloc.stop()


def test_the_limit_is_for_all_arrays_of_a_reply_together():
    assert len(pull(arrays(Bomb(600)))["arrays"]["0"].data) == 600 * 1024
    with pytest.raises(ReplyTooLarge):
        pull(arrays(Bomb(600), Bomb(601)))


def test_there_is_no_limit_for_anybody_else():
    grid = SuperLink(reply(arrays(Bomb(2000)))).grid()
    message_id = push(grid)
    for _ in range(2):
        with pytest.raises(ReplyTooLarge):
            BoundedPull(grid)(message_id, Limits(1 << 20, 10.0))
        (made,) = grid.pull_messages([message_id])
        assert len(made.content["arrays"]["0"].data) == 2000 * 1024


@pytest.mark.parametrize("kind", [MetricRecord, ConfigRecord])
def test_metrics_have_a_limit_of_their_own(kind):
    assert pull(RecordDict({"a": kind({"loss": 0.5})}), 1 << 30)["a"] == {"loss": 0.5}
    numbers = {str(i): kind({"numbers": list(range(14_000 + i))}) for i in range(3)}
    with pytest.raises(ReplyTooLarge, match="metrics"):
        pull(RecordDict(numbers), 1 << 30)


class Endless(httpx.SyncByteStream):
    """A body in parts that come as long as they are read, or nearly so."""

    def __init__(self, part=bytes(1 << 16), seconds=0.0, num_parts=1 << 14):
        self.part, self.seconds, self.num_parts, self.num_read = part, seconds, num_parts, 0

    def __iter__(self):
        for _ in range(self.num_parts):
            self.num_read += 1
            time.sleep(self.seconds)
            yield self.part


def served(body, **headers):
    """Let a SuperLink answer with this body to whoever pulls an object."""

    def change(superlink):
        superlink.pull_object = lambda _: httpx.Response(200, stream=body, headers=headers)

    return change


def test_a_response_that_says_it_is_too_large_is_not_read():
    body = Endless()
    with pytest.raises(ReplyTooLarge):
        pull(named("a"), change=served(body, **{"content-length": str(2 << 20)}))
    assert body.num_read == 0


def test_a_response_that_does_not_say_how_large_it_is_is_read_up_to_the_limit():
    body = Endless()
    with pytest.raises(ReplyTooLarge):
        pull(named("a"), change=served(body))
    assert body.num_read < 20


def test_a_response_that_comes_slowly_is_read_as_long_as_there_is_time():
    with pytest.raises(TimeoutError):
        pull(named("a"), seconds=0.5, change=served(Endless(b"0", 0.1, num_parts=100)))


def test_a_response_that_comes_packed_all_the_same_is_not_unpacked():
    body = httpx.ByteStream(gzip.compress(bytes(64 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(ReplyTooLarge, match="packed"):
            pull(named("a"), 2 << 20, change=served(body, **{"content-encoding": "gzip"}))
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


def test_an_envelope_is_read_up_to_the_limit():
    def change(superlink):
        superlink.replies[0].envelope.error.reason = "a" * (2 << 20)

    with pytest.raises(ReplyTooLarge):
        pull(named("a"), change=change)


def test_responses_are_asked_for_as_they_are():
    asked = []

    def change(superlink):
        serve = superlink.serve
        superlink.serve = lambda request: (asked.append(dict(request.headers)), serve(request))[1]

    pull(named("a"), change=change)
    assert [a["accept-encoding"] for a in asked[1:]] == ["identity"] * (len(asked) - 1)


def test_a_download_stops_at_the_limit():
    superlinks = []
    large = Array(np.random.default_rng(0).random(8 << 20 >> 3))
    with pytest.raises(ReplyTooLarge):
        pull(arrays(large, Array(large.numpy() + 1), Array(large.numpy() + 2)), 12 << 20)
    many = {str(i): Array(np.full(1 << 17, i, "f8")) for i in range(100)}
    with pytest.raises(ReplyTooLarge):
        pull(RecordDict({"a": ArrayRecord(many)}), 5 << 20, change=superlinks.append)
    assert len(superlinks[0].pulled) < 20


def test_a_download_stops_at_the_limit_where_only_objects_can_be_counted(monkeypatch):
    monkeypatch.delattr(httpx._client.BaseClient, "event_hooks")
    many = {str(i): Array(np.full(1 << 17, i, "f8")) for i in range(10)}
    with pytest.raises(ReplyTooLarge, match="its objects"):
        pull(RecordDict({"a": ArrayRecord(many)}), 5 << 20)


def test_of_two_replies_to_one_message_not_an_object_is_pulled():
    superlink = SuperLink(reply(named("a"), times=2))
    grid = superlink.grid()
    with pytest.raises(ValueError, match="2 replies"):
        BoundedPull(grid)(push(grid), Limits(1 << 20, 10.0))
    assert superlink.pulled == []


def test_a_tree_whose_branches_are_all_the_same_is_walked_once():
    superlinks = []

    def grow(superlink):
        superlinks.append(superlink)
        tree = superlink.replies[0].tree
        for _ in range(10):
            copy = type(tree).FromString(tree.SerializeToString())
            tree.children.extend([copy] if len(tree.SerializeToString()) < 1 << 18 else [])

    assert pull(named("a"), change=grow)["which"]["name"] == "a"
    (superlink,) = superlinks
    assert len(superlink.pulled) == len(set(superlink.pulled)) == 3


@pytest.mark.parametrize("size", [0, 3, 10**6])
def test_an_honest_reply_in_float64_has_room(size):
    assert 8 * size < len(malformed.npy(np.zeros(size, "f8"))) < room_for([size])


@pytest.mark.parametrize("times", [1, 4])
def test_an_honest_reply_is_read_as_flower_reads_it(times):
    """Two arrays that share a chunk, and one of several chunks that are the same."""
    zeros, ones = Array(np.zeros(3)), Array(np.ones(times << 20, "f4"))
    content = arrays(zeros, Array(np.zeros(3)), ones, Array(np.zeros(times << 20, "f4")))
    read = pull(content, room_for([3, 3, times << 20, times << 20]))
    assert read["arrays"].object_id == content["arrays"].object_id


# What is not limited. ---------------------------------------------------------------------------


def test_all_else_that_a_grid_has_is_passed_on():
    grid = SuperLink(reply(named("a"))).grid()
    arriving = ArrivingGrid(grid)
    _, name, *_ = inspect.signature(Grid.pull_messages).parameters  # another one since 1.43
    assert names(arriving.pull_messages(**{name: [push(arriving)]})) == ["a"]
    assert arriving.node is grid.node
    arriving.close()
    assert grid._client is None
    with pytest.raises(AttributeError, match="ArrivingGrid has no _client"):
        _ = arriving._client


def test_what_a_newer_grid_must_have_is_passed_on():
    class Newer(Grid):
        @abstractmethod
        def cancel_messages(self, message_ids): ...

    @passes_on_to("grid")
    class Wrapper(Newer):
        def __init__(self, grid):
            self.grid = grid

    cancelling = SimpleNamespace(cancel_messages=lambda ids, **options: (ids, options))
    assert Wrapper(cancelling).cancel_messages([1], reason="late") == ([1], {"reason": "late"})


# What the limits take of Flower. ----------------------------------------------------------------

HOOKS = {
    "_runtime_client": (HttpGrid, "_runtime_client", "in one object or in many"),
    "PullMessages": (RuntimeHttpClient, "PullMessages", "pulled as many times"),
    "PullObject": (RuntimeHttpClient, "PullObject", "any number of bytes, unfold to any number"),
    "event_hooks": (httpx._client.BaseClient, "event_hooks", "one object of a reply"),
    "Array.deflate": (Array, "deflate", "arrays of a reply may unfold"),
}


@pytest.mark.parametrize("hook", HOOKS)
def test_what_is_missing_in_flower_is_named_and_the_rest_works(hook, monkeypatch, caplog):
    kind, name, warning = HOOKS[hook]
    honest, bomb = reply(named("honest")), reply(arrays(Bomb(2000)))
    grid = SuperLink(honest, bomb).grid()
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "flwr"):
        patch.delattr(kind, name)
        arriving = ArrivingGrid(grid)
    (line,) = [r.getMessage() for r in caplog.records if "PROTECTION IS OFF" in r.getMessage()]
    assert warning in line
    assert f"HttpGrid: no {hook}" in line
    sent = [Message(RecordDict(), n, "train") for n in range(2)]
    first, second = arriving.send_and_receive(sent, timeout=30)
    assert names([first, second]) == ["honest"]
    is_refused = "arrays" not in second.content
    assert is_refused == (hook in ("PullMessages", "event_hooks"))


def test_a_method_whose_response_is_another_is_not_relied_on(monkeypatch, caplog):
    pull_object = RuntimeHttpClient.PullObject
    monkeypatch.setattr(RuntimeHttpClient, "PullObject", lambda self, it: pull_object(self, it))
    with caplog.at_level(logging.WARNING, "flwr"):
        arriving = ArrivingGrid(SuperLink(reply(named("a"))).grid())
    assert "no PullObject as expected" in caplog.text
    assert names(arriving.send_and_receive([Message(RecordDict(), 0, "train")])) == ["a"]


def test_a_grid_that_keeps_its_client_elsewhere_is_left_alone(caplog):
    class Elsewhere(HttpGrid):
        _runtime_client = property(lambda self: self.stub)

    grid = SuperLink(reply(named("a"))).grid()
    other = Elsewhere(token="token")
    other.stub = grid._runtime_client
    other.set_run(grid.run)
    with caplog.at_level(logging.WARNING, "flwr"):
        arriving = ArrivingGrid(other)
    assert "Elsewhere: no _runtime_client as expected" in caplog.text
    assert names(arriving.send_and_receive([Message(RecordDict(), 0, "train")])) == ["a"]


def test_where_all_is_as_expected_there_is_no_warning(caplog):
    with caplog.at_level(logging.WARNING, "flwr"):
        ArrivingGrid(SuperLink().grid())
    assert caplog.text == ""


IMPORTS = "import flwr_byz.serverapp.strategy, flwr_byz.server.strategy"
MODULES = "[n for n in sys.modules if n.split('.')[0] in ('flwr', 'httpx')]"
UNCHANGED = f"""
import importlib, sys

for name in sys.argv[1:]:
    importlib.import_module(name)

def everything():
    found = {{}}
    for name in sys.argv[1:]:
        for key, value in vars(sys.modules[name]).items():
            found[name, key] = value
            if isinstance(value, type):
                found |= {{(name, key, k): v for k, v in vars(value).items() if k != "__doc__"}}
    return found

def changed(before, after):
    ours = lambda key: getattr(after[key], "__name__", "") in sys.modules  # a module, imported
    return [key for key in after if after[key] is not before.get(key) and not ours(key)]

before = everything()
{IMPORTS}
from flwr_byz.transport import ArrivingGrid
assert not changed(before, everything()), changed(before, everything())

from flwr.app import Message, RecordDict
from tests.support.http_superlink import SuperLink, named, names, reply
superlink = SuperLink(reply(named("a")))
grid = superlink.grid()
before, attributes, stub = everything(), dict(vars(grid)), dict(vars(grid._client))
hooks = {{k: list(v) for k, v in grid._client._client.event_hooks.items()}}
arriving = ArrivingGrid(grid)
assert names(arriving.send_and_receive([Message(RecordDict(), 0, "train")])) == ["a"]
assert not changed(before, everything()), changed(before, everything())
assert dict(vars(grid)) == attributes and dict(vars(grid._client)) == stub
assert grid._client._client.event_hooks == hooks
print(len(before))
"""


@pytest.mark.slow
def test_nothing_of_flower_or_httpx_is_changed():
    def run(*command):
        command = [sys.executable, "-c", *command]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.split()

    modules = run(f"import sys, tests.support.http_superlink; {IMPORTS}; print(*{MODULES})")
    assert {"httpx", "flwr.superlink.grid.http_grid"} <= set(modules)
    (number,) = run(UNCHANGED, *modules)
    assert int(number) > 5000
