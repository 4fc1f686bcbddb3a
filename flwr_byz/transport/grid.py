"""A grid that hands out replies while others are still on their way, whatever nodes do."""

import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, starmap
from logging import WARNING
from queue import Empty, SimpleQueue
from typing import Any

from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore import log
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from ..checks import check_number, wrong_kind
from ..logs import escaped
from .bounded import BoundedPull
from .limits import Limits, ReplyTooLarge, room_for
from .passed_on import passes_on_to

_LEAST_PAUSE, _MOST_PAUSE = 0.02, 2.0  # seconds between two looks at all who have not replied
_MOST_PATIENCE = 1.0  # seconds that one reply may hold up the others
_MAX_REASON = 200

# What a reply's own bytes make Flower raise; anything else (network, memory) has another cause.
_UNREADABLE = (
    *(ReplyTooLarge, DecodeError, ValueError, LookupError, TypeError, AttributeError),
    RecursionError,
)

_Pulled = SimpleQueue[tuple[str, list[Message] | None]]  # None: that pull waits for its node


class Unreadable(RecordDict):
    """The content of a reply that cannot be read, and the reason why."""

    def __init__(self, reason: str) -> None:
        super().__init__()
        self.reason = reason


@passes_on_to("_grid")
class ArrivingGrid(Grid):
    """Another grid, whose `send_and_receive` yields every reply as soon as it can be pulled.

    Nodes are dealt with one by one, so that none can do harm to a round:

    - A reply that cannot be read has `Unreadable` content; one that cannot be had for another
      reason, or whose message cannot be pushed, is an error. Flower's own grid ends the run.
    - A reply counts as that of the node that was asked for it, whatever it says of itself, and two
      replies to one message as none.
    - A reply that is announced and never uploaded, or slow, holds up neither the others nor the
      deadline: however many are slow, at most half of the time is spent waiting for them.
    - The memory that a reply may take is limited, where Flower's HTTP grid is wrapped; a warning
      names each protection that the installed Flower does not allow.

    One reply is pulled and held at a time, unless that takes long. It may take `num_bytes`: by
    default as much as the arrays sent would in float64, and 1 MiB.
    """

    def __init__(self, grid: Grid, num_bytes: int | None = None) -> None:
        if not {"get_node_ids", "push_messages"}.intersection(dir(grid)):
            raise wrong_kind("grid", "the grid that Flower gives a ServerApp", grid)
        if num_bytes is not None:
            check_number("num_bytes", num_bytes, whole=True, least=1)
        self._grid = grid
        self._num_bytes = num_bytes
        self._bounded_pull = BoundedPull(grid)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push messages now; return an iterator over the replies until all are in or time is up.

        The time runs from the first push. Where none can be pushed, the grid's exception is raised.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        waiting: dict[str, tuple[Message, int]] = {}
        failed: list[tuple[Message, Exception]] = []
        for message in messages:
            try:
                (message_id,) = self._grid.push_messages([message])
                if message_id:  # Flower has none for a node that has left
                    waiting[message_id] = message, self._room_for(message)
            except Exception as error:  # the node may have brought it about
                failed.append((message, error))
        if failed and not waiting:
            raise failed[0][1]
        return chain(starmap(_error_reply, failed), self._arrivals(waiting, deadline))

    def _arrivals(
        self, waiting: dict[str, tuple[Message, int]], deadline: float
    ) -> Iterator[Message]:
        pulled: _Pulled = SimpleQueue()
        queue = deque(waiting)
        latest, next_start, pause = "", 0.0, _LEAST_PAUSE
        num_under_way = num_misses = 0
        while (queue or num_under_way) and (left := deadline - time.monotonic()) > 0:
            if queue and time.monotonic() >= next_start:
                latest = queue.popleft()
                arguments = *waiting[latest], deadline, pulled
                threading.Thread(target=self._pull, args=arguments, daemon=True).start()
                num_under_way += 1
                half_share = left / (2 * (len(queue) + num_under_way))
                next_start = time.monotonic() + min(_MOST_PATIENCE, half_share)
            wait = max(next_start - time.monotonic(), 0.0) if queue else _MOST_PATIENCE
            try:
                message_id, replies = pulled.get(timeout=min(left, wait))
            except Empty:
                continue
            if message_id == latest:
                latest, next_start = "", 0.0
            if replies is None:
                continue
            num_under_way -= 1
            if replies:
                num_misses, pause = 0, _LEAST_PAUSE
                yield replies.pop()
                continue
            queue.append(message_id)
            num_misses += 1
            if num_misses >= len(queue):
                left = deadline - time.monotonic()
                next_start = time.monotonic() + min(pause, max(left / 4, _LEAST_PAUSE))
                num_misses, pause = 0, min(1.5 * pause, _MOST_PAUSE)

    def _room_for(self, message: Message) -> int:
        """Return how many bytes the reply to a message may take."""
        if self._num_bytes is not None:
            return self._num_bytes
        records = [r for r in message.content.values() if isinstance(r, ArrayRecord)]
        return room_for(math.prod(array.shape) for r in records for array in r.values())

    def _pull(self, message: Message, room: int, deadline: float, pulled: _Pulled) -> None:
        """Pull the reply to a message, if there is one yet."""
        message_id = message.metadata.message_id
        seconds = deadline - time.monotonic()
        limits = Limits(room, seconds, stalled=lambda: pulled.put((message_id, None)))
        try:
            replies = self._bounded_pull(message_id, limits)
            if len(replies) > 1:
                raise ValueError(f"{len(replies)} replies to one message")
            for reply in replies:  # the node may have written anything there
                reply.metadata.__dict__["_src_node_id"] = message.metadata.dst_node_id
                reply.metadata.__dict__["_reply_to_message_id"] = message_id
        except _UNREADABLE as error:
            replies = [Message(Unreadable(_described(message, error)), reply_to=message)]
        except Exception as error:  # whatever happens, it must not stop the round
            if time.monotonic() >= deadline:
                return  # it is not waited for any more
            replies = [_error_reply(message, error)]
        pulled.put((message_id, replies))

    # The other grid's, without limits, as is all else.
    run: Any
    set_run: Any
    create_message: Any
    get_node_ids: Any
    push_messages: Any
    pull_messages: Any


def _error_reply(message: Message, error: Exception) -> Message:
    return Message(Error(ErrorCode.UNKNOWN, _described(message, error)), reply_to=message)


def _described(message: Message, error: Exception) -> str:
    """Describe and log why there is no reply."""
    node, reason = message.metadata.dst_node_id, f"{type(error).__name__}: {error}"[:_MAX_REASON]
    log(WARNING, "no reply of node %d can be had: %s", node, escaped(reason))
    return reason
