"""Bounds on what one reply makes this process hold, where Flower has none.

A node can upload as much as it likes, and a little that unfolds to a lot: one chunk of an array
named a hundred thousand times, a record of a million numbers, a tree of objects whose branches are
all the same. Flower's grid downloads and unfolds all of it. Within `at_most` it stops at a limit.
For that some functions of Flower, and one of httpx, are wrapped when this module is imported;
everywhere else they do what they always did.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from flwr.app import Array, ConfigRecord, MetricRecord
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_object_body,
    get_object_children_ids_from_object_content,
)
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError, pull_objects
from flwr.superlink.grid import http_grid

_MAX_METRICS = 64 << 10  # bytes of all metric and config records of a reply together

Children = dict[str, InflatableObject] | None


class ReplyTooLarge(Exception):
    """A reply takes more room than it may."""


def room_for(sizes: Iterable[int]) -> int:
    """Return how many bytes a reply may take that is to hold arrays of these numbers of entries.

    That is eight for each entry, as float64 takes, and what goes with them.
    """
    return sum(8 * size + 1024 for size in sizes) + (1 << 20)


class _Limits(threading.local):
    """What is left to the pull that a thread is busy with; None where it has no limits."""

    num_bytes: int | None = None
    num_metric_bytes = 0
    until = 0.0
    stalled: Callable[[], None] = staticmethod(lambda: None)
    response: int | None = None
    """Bytes that the body of an HTTP response may have."""


_limits = _Limits()


@contextmanager
def at_most(
    num_bytes: int, seconds: float, stalled: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Let what this thread pulls from a grid take so many bytes and so much time, and no more.

    Parameters
    ----------
    num_bytes : int
    seconds : float
    stalled : callable, optional
        Is called, in any thread, when the pull has to wait for what a node has only announced.

    Raises
    ------
    ReplyTooLarge, TimeoutError
        From the body, where a reply takes more.
    """
    _limits.num_bytes = _limits.response = num_bytes
    _limits.num_metric_bytes = _MAX_METRICS
    _limits.until, _limits.stalled = time.monotonic() + seconds, stalled
    try:
        yield
    finally:
        _limits.num_bytes = _limits.response = None


def _bounded_pull_objects(
    object_ids: list[str], pull_object_fn: Callable[[str], bytes], **options: Any
) -> dict[str, bytes]:
    """Download objects as Flower does, one at a time, within the limits of this thread."""
    if _limits.num_bytes is None:
        return pull_objects(object_ids, pull_object_fn, **options)
    left, until, stalled = _limits.num_bytes, _limits.until, _limits.stalled

    def pull(object_id: str) -> bytes:  # called in a thread of Flower's
        nonlocal left
        if time.monotonic() > until:
            raise TimeoutError("it takes more time than there is")
        _limits.response = left + 1024  # beside the object there is a little of the protocol
        try:
            content = pull_object_fn(object_id)
        except ObjectUnavailableError:
            stalled()
            raise
        finally:
            _limits.response = None
        left -= len(content)
        if left < 0:
            raise ReplyTooLarge("its objects take more bytes than it may")
        return content

    bounded = {"max_time": max(until - time.monotonic(), 0.0), "max_concurrent_pulls": 1}
    return pull_objects(list(dict.fromkeys(object_ids)), pull, **options | bounded)


http_grid.pull_objects = _bounded_pull_objects  # type: ignore[attr-defined]


_read = httpx.Response.read


def _bounded_read(response: httpx.Response) -> bytes:
    """Read the body of a response, unless it says that it is larger than it may be."""
    limit = _limits.response
    if limit is not None and int(response.headers.get("content-length", 0)) > limit:
        raise ReplyTooLarge(f"one object of it takes more than {limit} bytes")
    return _read(response)


httpx.Response.read = _bounded_read  # type: ignore[assignment, method-assign]


def _bound(kind: type[Any], unfold: Callable[..., None]) -> None:
    """Let `unfold` look at an object of Flower's before it is unfolded."""
    inflate = kind.inflate.__func__

    def bounded(cls: type[Any], object_content: bytes, children: Children = None) -> Any:
        if _limits.num_bytes is not None:
            unfold(object_content, children or {})
        return inflate(cls, object_content, children)

    kind.inflate = classmethod(bounded)


def _unfold_array(content: bytes, children: dict[str, Any]) -> None:
    """Take the size of an array's chunks off the limit, each as often as it is named."""
    chunks = [children[i] for i in get_object_children_ids_from_object_content(content)]
    claims = json.loads(get_object_body(content, Array))
    assert _limits.num_bytes is not None
    _limits.num_bytes -= sum(len(chunks[number].data) for number in claims["arraychunk_ids"])
    if _limits.num_bytes < 0:
        raise ReplyTooLarge("its arrays unfold to more bytes than it may take")


def _unfold_metrics(content: bytes, children: dict[str, Any]) -> None:
    """Take the size of a record of metrics off its limit."""
    _limits.num_metric_bytes -= len(content)
    if _limits.num_metric_bytes < 0:
        raise ReplyTooLarge(f"its metrics take more than {_MAX_METRICS} bytes")


_bound(Array, _unfold_array)
_bound(MetricRecord, _unfold_metrics)
_bound(ConfigRecord, _unfold_metrics)
