"""What one reply may take of this process: bytes, metrics and time."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpx

_MAX_METRICS = 64 << 10  # bytes of all metric and config records of a reply together


class ReplyTooLarge(Exception):
    """A reply takes more room than it may."""


def room_for(sizes: Iterable[int]) -> int:
    """Return how many bytes a reply with arrays of these sizes may take, as float64 or less."""
    return sum(8 * size + 1024 for size in sizes) + (1 << 20)


class Limits:
    """What one reply may take and has taken: `num_bytes` to download, as many of unfolded arrays.

    `stalled` is called, in any thread, when the pull has to wait for what a node only announced.
    """

    def __init__(
        self, num_bytes: int, seconds: float, stalled: Callable[[], None] = lambda: None
    ) -> None:
        self.num_bytes = num_bytes
        self.unfolded = self.metrics = 0  # bytes
        self.is_counting = True
        self._left = self._response = num_bytes
        self._until = time.monotonic() + seconds
        self._stalled = stalled
        self._lock = threading.Lock()
        self._sizes: dict[str, int] = {}
        self._named: Counter[str] = Counter()

    def pull_messages(self, pull: Callable[[Any], Any], request: Any) -> Any:
        """Pull the envelope of a reply, and its objects: a root, and each other one as a leaf."""
        response = pull(request)
        if (number := len(response.messages_list)) > 1:
            raise ValueError(f"{number} replies to one message")
        for tree in response.message_object_trees:
            nodes = [tree]
            for node in nodes:  # and those that are added meanwhile
                nodes.extend(node.children)
            ids = dict.fromkeys(node.object_id for node in reversed(nodes))  # parents come last
            del ids[tree.object_id], tree.children[:]
            for object_id in ids:
                tree.children.add(object_id=object_id)
        return response

    def pull_object(self, pull: Callable[[Any], Any], request: Any) -> Any:
        """Pull an object, one at a time, and count it."""
        with self._lock:
            self._check_time()
            self._response = self._left + 1024  # beside the object there is a little protocol
            response = pull(request)
            content: bytes = response.object_content  # protobuf copies it each time
            self._left -= len(content)
            if self._left < 0:
                raise ReplyTooLarge("its objects take more bytes than it may")
            if response.object_available and self.is_counting:
                self.count(request.object_id, content)
        if response.object_found and not response.object_available:
            self._stalled()
        return response

    def count(self, object_id: str, content: bytes) -> None:
        """Count what an object adds to the reply: each chunk as often as an array names it.

        Raises ReplyTooLarge; ValueError, LookupError or TypeError if it is not Flower's object.
        """
        start = content.index(b"\0") + 1
        kind, children, _ = content[: start - 1].decode().split(" ")
        if kind == "ArrayChunk":
            self._sizes[object_id] = len(content) - start
            self.unfolded += self._named[object_id] * self._sizes[object_id]
        elif kind == "Array":
            ids = children.split(",")
            for number, times in Counter(json.loads(content[start:])["arraychunk_ids"]).items():
                self._named[ids[number]] += times
                self.unfolded += times * self._sizes.get(ids[number], 0)
        elif kind in ("MetricRecord", "ConfigRecord"):
            self.metrics += len(content)
        if self.unfolded > self.num_bytes:
            raise ReplyTooLarge("its arrays unfold to more bytes than it may take")
        if self.metrics > _MAX_METRICS:
            raise ReplyTooLarge(f"its metrics take more than {_MAX_METRICS} bytes")

    def bound(self, response: httpx.Response) -> None:
        """Let the body of an HTTP response be read no further than it may."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise ReplyTooLarge("it comes packed, and a little that is packed unpacks to a lot")
        if int(response.headers.get("content-length", 0)) > self._response:
            raise ReplyTooLarge(f"one object of it takes more than {self._response} bytes")
        response.stream = _BoundedStream(response.stream, self._response, self._check_time)

    def _check_time(self) -> None:
        if time.monotonic() > self._until:
            raise TimeoutError("it takes more time than there is")


class _BoundedStream(httpx.SyncByteStream):
    def __init__(self, stream: Any, limit: int, check_time: Callable[[], None]) -> None:
        self._stream: httpx.SyncByteStream = stream
        self._limit, self._check_time = limit, check_time

    def __iter__(self) -> Iterator[bytes]:
        left = self._limit
        for part in self._stream:
            self._check_time()
            left -= len(part)
            if left < 0:
                raise ReplyTooLarge(f"one object of it takes more than {self._limit} bytes")
            yield part

    def close(self) -> None:
        stream, self._stream = self._stream, httpx.ByteStream(b"")
        stream.close()  # it holds the response, body and all, in a reference cycle
