"""What one reply may take, and that Flower and httpx stay as they are."""

import gc
import gzip
import inspect
import logging
import subprocess
import sys
import time
import tracemalloc

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
from tests.support import malformed
from tests.support.http_superlink import SuperLink, bomb, named, names, reply


def pull(superlink, num_bytes=1 << 20, seconds=10.0):
    """Pull a reply within limits; return its content."""
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


HALVES = {k.__name__: k({"a": list(range(20_000))}) for k in (MetricRecord, ConfigRecord)}
TOO_LARGE = {
    "one array that unfolds": (arrays(bomb(100_000)), "unfold"),
    "arrays that unfold together": (arrays(bomb(600), bomb(601)), "unfold"),
    "metrics and settings together": (RecordDict(HALVES), "metrics"),
}


@pytest.mark.parametrize(("content", "reason"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_reply_that_takes_more_than_it_may_is_refused_before_it_does(content, reason):
    superlink = SuperLink(reply(content))
    tracemalloc.start()
    try:
        with pytest.raises(ReplyTooLarge, match=reason):
            pull(superlink)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("part", "seconds", "headers", "error", "most_read"),
    [
        (bytes(1 << 16), 0, {"content-length": str(2 << 20)}, ReplyTooLarge, 0),
        (bytes(1 << 16), 0, {}, ReplyTooLarge, 20),
        (b"0", 0.02, {}, TimeoutError, 20),
        (gzip.compress(bytes(64 << 20)), 0, {"content-encoding": "gzip"}, ReplyTooLarge, 0),
    ],
    ids=["its length is too large", "of no length", "slow", "packed"],
)
@pytest.mark.parametrize("method", ["pull_messages", "pull_object"])
def test_a_response_is_read_no_further_than_it_may(
    method, part, seconds, headers, error, most_read
):
    read = []

    def nearly_endless():
        for number in range(1 << 14):
            read.append(number)
            time.sleep(seconds)
            yield part

    superlink = SuperLink(reply(named("a")))
    answer = httpx.Response(200, content=nearly_endless(), headers=headers)
    setattr(superlink, method, lambda _: answer)
    with pytest.raises(error):
        pull(superlink, seconds=0.2 if error is TimeoutError else 60.0)
    assert len(read) <= most_read


def test_a_download_of_many_objects_stops_at_the_limit(monkeypatch):
    monkeypatch.delattr(httpx._client.BaseClient, "event_hooks")  # only objects can be counted
    superlink = SuperLink(reply(arrays(*(Array(np.full(1 << 14, i, "f8")) for i in range(100)))))
    with pytest.raises(ReplyTooLarge, match="its objects"):
        pull(superlink, 640 << 10)
    assert len(superlink.pulled) < 20


def test_of_two_replies_to_one_message_not_an_object_is_pulled():
    superlink = SuperLink(reply(named("a"), times=2))
    with pytest.raises(ValueError, match="2 replies"):
        pull(superlink)
    assert superlink.pulled == []


def test_a_tree_whose_branches_are_all_the_same_is_walked_once():
    superlink = SuperLink(reply(named("a")))
    tree = superlink.replies[0].tree
    while len(written := tree.SerializeToString()) < 1 << 16:
        tree.children.add().ParseFromString(written)
    assert pull(superlink)["which"]["name"] == "a"
    assert len(superlink.pulled) == len(set(superlink.pulled)) == 3


def test_an_honest_reply_is_read_as_flower_reads_it_and_asked_for_unpacked():
    """Two arrays that share a chunk, and one of several chunks that are the same."""
    assert all(len(malformed.npy(np.zeros(s, "f8"))) < room_for([s]) for s in (0, 3, 10**6))
    ones, zeros = Array(np.ones(4 << 20, "f4")), Array(np.zeros(4 << 20, "f4"))
    content = arrays(Array(np.zeros(3)), Array(np.zeros(3)), ones, zeros)
    content["metrics"] = MetricRecord({"loss": 0.5})
    superlink = SuperLink(reply(content))
    read = pull(superlink, room_for([3, 3, 4 << 20, 4 << 20]))
    assert read["arrays"].object_id == content["arrays"].object_id
    assert read["metrics"] == {"loss": 0.5}
    assert set(superlink.encodings[1:]) == {"identity"}


def test_a_reply_that_is_dropped_is_gone_at_once():
    """httpx leaves a response in a cycle of references, for the garbage collector to find."""
    superlink = SuperLink(reply(arrays(Array(np.arange(1 << 19)))))
    gc.disable()
    tracemalloc.start()
    try:
        pull(superlink, 8 << 20)
        assert tracemalloc.get_traced_memory()[0] < 1 << 20 < tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.enable()


def test_all_else_that_a_grid_has_is_passed_on_without_a_warning(caplog):
    caplog.set_level(logging.WARNING, "flwr")
    grid = SuperLink(reply(named("a"))).grid()
    arriving = ArrivingGrid(grid)
    _, name, *_ = inspect.signature(Grid.pull_messages).parameters  # another one since 1.43
    assert names(arriving.pull_messages(**{name: [push(arriving)]})) == ["a"]
    assert arriving.node is grid.node
    arriving.close()
    assert grid._client is None
    with pytest.raises(AttributeError, match="ArrivingGrid has no _client"):
        _ = arriving._client
    assert caplog.text == ""


PULL_OBJECT = RuntimeHttpClient.PullObject
STUB, OTHER = (HttpGrid, "_runtime_client"), SuperLink().grid()
HOOKS = [  # what is missing, or another: a class, its attribute, what it is then, and the warning
    ("_runtime_client", *STUB, None, "in one object or in many"),
    ("_runtime_client", *STUB, property(lambda grid: OTHER._client), "in one object or in many"),
    ("PullMessages", RuntimeHttpClient, "PullMessages", None, "pulled as many times"),
    (
        *("PullObject", RuntimeHttpClient, "PullObject", lambda self, it: PULL_OBJECT(self, it)),
        "any number of bytes, unfold to any number",
    ),
    ("event_hooks", httpx._client.BaseClient, "event_hooks", None, "one object of a reply"),
    ("Array.deflate", Array, "deflate", None, "arrays of a reply may unfold"),
]


@pytest.mark.parametrize(("hook", "kind", "name", "other", "warning"), HOOKS)
def test_what_is_missing_in_flower_is_named_and_the_rest_works(
    hook, kind, name, other, warning, monkeypatch, caplog
):
    grid = SuperLink(reply(named("honest")), reply(arrays(bomb(2000)))).grid()
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "flwr"):
        patch.setattr(kind, name, other) if other else patch.delattr(kind, name)
        arriving = ArrivingGrid(grid)
    (line,) = [r.getMessage() for r in caplog.records if "PROTECTION IS OFF" in r.getMessage()]
    assert warning in line
    assert f"HttpGrid: no {hook}" in line
    sent = [Message(RecordDict(), n, "train") for n in range(2)]
    first, second = arriving.send_and_receive(sent, timeout=30)
    assert names([first, second]) == ["honest"]
    is_refused = "arrays" not in second.content
    assert is_refused == (hook in ("PullMessages", "event_hooks"))


UNCHANGED = """
import importlib, sys

modules = [importlib.import_module(name) for name in sys.argv[1:]]

def everything():
    found = {}
    for module in modules:
        for key, value in vars(module).items():
            if getattr(value, "__name__", "") in sys.modules:
                continue  # a module that was imported
            found[module, key] = value
            if isinstance(value, type):
                found |= {(module, key, k): v for k, v in vars(value).items() if k != "__doc__"}
    return found

from flwr.app import Message, RecordDict
from tests.support.http_superlink import SuperLink, named, names, reply
grid = SuperLink(reply(named("a"))).grid()
hooks = lambda: {k: list(v) for k, v in grid._client._client.event_hooks.items()}
state = lambda: (dict(vars(grid)), dict(vars(grid._client)), hooks())
before, state_before = everything(), state()
assert not any(name.startswith("flwr_byz") for name in sys.modules)

import flwr_byz.serverapp.strategy, flwr_byz.server.strategy
from flwr_byz.transport import ArrivingGrid
assert names(ArrivingGrid(grid).send_and_receive([Message(RecordDict(), 0, "train")])) == ["a"]
assert state() == state_before
changed = [k for k, value in everything().items() if value is not before.get(k)]
assert not changed, changed
assert len(before) > 5000
"""


@pytest.mark.slow
def test_nothing_of_flower_or_httpx_is_changed():
    modules = [name for name in sys.modules if name.split(".")[0] in ("flwr", "httpx")]
    assert {"httpx", "flwr.superlink.grid.http_grid"} <= set(modules)
    command = [sys.executable, "-c", UNCHANGED, *modules]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
