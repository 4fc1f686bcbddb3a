"""Replies to messages that were pushed, handed out one by one while others are on their way."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from logging import WARNING
from queue import Empty, SimpleQueue

from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore import log
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from ..logs import escaped
from .bounded import BoundedPull, copy_of
from .limits import Limits, ReplyTooLarge

_LEAST_PAUSE, _MOST_PAUSE = 0.02, 2.0  # seconds between two looks at all who have not replied
_PATIENCE = 1.0  # seconds that one reply may hold up the others
_LEAST_SPEED = 8 << 20  # bytes a second, at which a large reply may hold them up for longer
_MAX_REASON = 200

# What a reply's own bytes make Flower raise; anything else (network, memory) has another cause.
_UNREADABLE = (
    *(ReplyTooLarge, DecodeError, ValueError, LookupError, TypeError, AttributeError),
    RecursionError,
)


class Unreadable(RecordDict):
    """The content of a reply that cannot be read, and the reason why."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason


class Arrivals:
    """Pushes messages to a grid, and pulls the replies, of which `room_for` limits the bytes.

    Messages can be sent while replies to earlier ones are awaited. What they hold is let go once
    they are pushed.
    """

    def __init__(
        self, grid: Grid, bounded_pull: BoundedPull, room_for: Callable[[Message], int]
    ) -> None:
        self._grid, self._bounded_pull, self._room_for = grid, bounded_pull, room_for
        self._waiting: dict[str, tuple[Message, int, float]] = {}  # with its room and its end
        self._queue: deque[str] = deque()  # of those that are to be pulled
        self._failed: deque[Message] = deque()
        self._pulled: SimpleQueue[tuple[str, list[Message] | Exception | None]] = SimpleQueue()
        self._latest, self._next_start, self._pause = "", 0.0, _LEAST_PAUSE
        self._num_under_way = self._num_misses = 0

    def send(self, messages: Iterable[Message], seconds: float = math.inf) -> list[Message]:
        """Push messages, and wait so long for the reply to each; return those to no one.

        Raises the grid's exception where none can be pushed and no reply is awaited.
        """
        failed, end, to_no_one = [], time.monotonic() + seconds, []
        for message in messages:
            try:
                (message_id,) = self._grid.push_messages([message])
                if message_id:
                    self._waiting[message_id] = _emptied(message), self._room_for(message), end
                    self._queue.append(message_id)
                else:  # the node has left
                    to_no_one.append(message)
            except Exception as error:  # the node may have brought it about
                failed.append((message, error))
        if failed and not self._waiting:
            raise failed[0][1]
        for message, reason in failed:
            self.fail(message, reason)
        self._num_misses, self._pause = 0, _LEAST_PAUSE
        return to_no_one

    def fail(self, message: Message, error: Exception) -> None:
        """Let the reply to a message be an error."""
        self._failed.append(_failed(message, error))

    def until(self, deadline: float) -> Iterator[Message]:
        """Yield replies until all are in or the deadline is reached, by the monotonic clock."""
        while (self._failed or self._queue or self._num_under_way) and (
            left := deadline - time.monotonic()
        ) > 0:
            if self._failed:
                yield self._failed.popleft()
                continue
            queue = self._queue
            if queue and time.monotonic() >= self._next_start:
                self._latest = queue.popleft()
                arguments = self._waiting[self._latest]
                threading.Thread(target=self._pull, args=arguments, daemon=True).start()
                self._num_under_way += 1
                patience = max(_PATIENCE, arguments[1] / _LEAST_SPEED)
                half_share = left / (2 * (len(queue) + self._num_under_way))
                self._next_start = time.monotonic() + min(patience, half_share)
            wait = max(self._next_start - time.monotonic(), 0.0) if queue else _PATIENCE
            try:
                message_id, pulled = self._pulled.get(timeout=min(left, wait))
            except Empty:
                continue
            if message_id == self._latest:
                self._latest, self._next_start = "", 0.0
            if pulled is None:  # that pull waits for its node
                continue
            self._num_under_way -= 1
            message, _, end = self._waiting[message_id]
            if not pulled and time.monotonic() >= end:
                pulled = TimeoutError("it took too long")
            if pulled:
                del self._waiting[message_id]
                self._num_misses, self._pause = 0, _LEAST_PAUSE
                yield pulled.pop() if isinstance(pulled, list) else _failed(message, pulled)
                continue
            queue.append(message_id)
            self._num_misses += 1
            if self._num_misses >= len(queue):
                left = deadline - time.monotonic()
                pause = min(self._pause, max(left / 4, _LEAST_PAUSE))
                self._next_start = time.monotonic() + pause
                self._num_misses, self._pause = 0, min(1.5 * self._pause, _MOST_PAUSE)

    def _pull(self, message: Message, room: int, end: float) -> None:
        """Pull the reply to a message, if there is one yet."""
        message_id = message.metadata.message_id
        seconds = end - time.monotonic()
        limits = Limits(room, seconds, stalled=lambda: self._pulled.put((message_id, None)))
        pulled: list[Message] | Exception
        try:
            pulled = self._bounded_pull(message_id, limits)
            if len(pulled) > 1:
                raise ValueError(f"{len(pulled)} replies to one message")
            for reply in pulled:  # the node may have written anything there
                reply.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
                reply.metadata.__dict__["_reply_to_message_id"] = message_id
        except Exception as error:  # whatever happens, it must not stop the round
            pulled = error
        self._pulled.put((message_id, pulled))


def _emptied(message: Message) -> Message:
    """Return a message with the metadata of another, and without its content."""
    made: Message = copy_of(message)
    made.content = RecordDict()
    return made


def _failed(message: Message, error: Exception) -> Message:
    """Return what stands for a reply that cannot be had, and log why."""
    node, reason = message.metadata.dst_node_id, f"{type(error).__name__}: {error}"[:_MAX_REASON]
    log(WARNING, "no reply of node %d can be had: %s", node, escaped(reason))
    if isinstance(error, _UNREADABLE):
        return Message(Unreadable(reason), reply_to=message)
    return Message(Error(ErrorCode.UNKNOWN, reason), reply_to=message)
