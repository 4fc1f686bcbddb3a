"""Bounds on what one reply makes this process hold, where Flower has none.

A node can upload as much as it likes, and can name one uploaded chunk of an array a million times,
so that a few megabytes unfold to terabytes. Flower's grid downloads and unfolds all of it. Within
`at_most` it stops at a limit: two of Flower's functions are wrapped for that when this module is
imported, and everywhere else they do what they always did.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from flwr.app import Array
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_object_body,
    get_object_children_ids_from_object_content,
)
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.superlink.grid import http_grid

_inflate = Array.inflate.__func__  # type: ignore[attr-defined]


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
    until = 0.0


_limits = _Limits()


@contextmanager
def at_most(num_bytes: int, seconds: float) -> Iterator[None]:
    """Let what this thread pulls from a grid take so many bytes and so much time, and no more.

    Raises
    ------
    ReplyTooLarge, TimeoutError
        From the body, where a reply takes more.
    """
    _limits.num_bytes, _limits.until = num_bytes, time.monotonic() + seconds
    try:
        yield
    finally:
        _limits.num_bytes = None


def _bounded_pull_objects(
    object_ids: list[str], pull_object_fn: Callable[[str], bytes], **options: Any
) -> dict[str, bytes]:
    """Download objects as Flower does, within the limits of this thread."""
    room, until = _limits.num_bytes, _limits.until
    if room is None:
        return pull_objects(object_ids, pull_object_fn, **options)
    taken, lock = 0, threading.Lock()

    def pull(object_id: str) -> bytes:  # called in threads of Flower's
        nonlocal taken
        content = pull_object_fn(object_id)
        with lock:
            taken += len(content)
        if taken > room:
            raise ReplyTooLarge(f"it takes more than {room} bytes")
        if time.monotonic() > until:
            raise TimeoutError("it takes more time than there is")
        return content

    once_each = list(dict.fromkeys(object_ids))
    seconds = max(until - time.monotonic(), 0.0)
    return pull_objects(once_each, pull, **options | {"max_time": seconds})


def _bounded_inflate(
    cls: type[Array], object_content: bytes, children: dict[str, InflatableObject] | None = None
) -> Array:
    """Unfold an array as Flower does, within the limits of this thread."""
    if _limits.num_bytes is not None:
        _limits.num_bytes -= _unfolded_size(cls, object_content, children or {})
        if _limits.num_bytes < 0:
            raise ReplyTooLarge("its arrays unfold to more bytes than it may take")
    array: Array = _inflate(cls, object_content, children)
    return array


def _unfolded_size(cls: type[Array], content: bytes, children: dict[str, InflatableObject]) -> int:
    """Return how many bytes an array's chunks come to, each as often as it is named."""
    chunks: list[Any] = [
        children[object_id] for object_id in get_object_children_ids_from_object_content(content)
    ]
    claims = json.loads(get_object_body(content, cls))
    return sum(len(chunks[number].data) for number in claims["arraychunk_ids"])


http_grid.pull_objects = _bounded_pull_objects  # type: ignore[attr-defined]
Array.inflate = classmethod(_bounded_inflate)  # type: ignore[assignment]
