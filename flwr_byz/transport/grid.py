"""Grids that hand out replies while others are still on their way, whatever nodes do."""

import math
import time
from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid

from ..checks import check_number, wrong_kind
from .arrivals import Arrivals
from .bounded import BoundedPull
from .limits import room_for
from .passed_on import passes_on_to


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

    @classmethod
    def around(cls, grid: Grid) -> "ArrivingGrid":
        """Return a grid of this class for a training: around another, or this one itself.

        It awaits no replies to messages of an earlier training.
        """
        if isinstance(grid, ArrivingGrid) and (cls is AsyncGrid or isinstance(grid, AsyncGrid)):
            return cls(grid._grid, grid._num_bytes)
        return grid if isinstance(grid, cls) else cls(grid)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push messages now; return an iterator over the replies until all are in or time is up.

        The time runs from the first push. Where none can be pushed, the grid's exception is raised.
        """
        seconds, arrivals = math.inf if timeout is None else timeout, self._new_arrivals()
        deadline = time.monotonic() + seconds
        arrivals.send(messages, seconds)
        return arrivals.until(deadline)

    def _new_arrivals(self) -> Arrivals:
        return Arrivals(self._grid, self._bounded_pull, self._room_for)

    def _room_for(self, message: Message) -> int:
        """Return how many bytes the reply to a message may take."""
        if self._num_bytes is not None:
            return self._num_bytes
        records = [r for r in message.content.values() if isinstance(r, ArrayRecord)]
        return room_for(math.prod(array.shape) for r in records for array in r.values())

    # The other grid's, without limits, as is all else.
    run: Any
    set_run: Any
    create_message: Any
    get_node_ids: Any
    push_messages: Any
    pull_messages: Any


class AsyncGrid(ArrivingGrid):
    """An `ArrivingGrid` on which a reply may come in any later round than its message was sent in.

    What `send_and_receive` returns goes on with the replies to all messages that are unanswered: it
    is for one training, and for nothing else.
    """

    def __init__(self, grid: Grid, num_bytes: int | None = None) -> None:
        super().__init__(grid, num_bytes)
        self._arrivals, self._seconds = self._new_arrivals(), math.inf
        self._failing: set[int] = set()  # nodes whose messages were the last to be pushed, in vain

    def send(self, messages: Iterable[Message]) -> None:
        """Push messages while replies are awaited; what cannot be pushed has an error as reply.

        Raises the grid's exception where a node's message cannot be pushed for the second time,
        none could be in the meantime, and no reply is awaited.
        """
        messages = list(messages)
        nodes = {message.metadata.dst_node_id for message in messages}
        try:
            to_no_one = self._arrivals.send(messages, self._seconds)
        except Exception as error:  # of these, none can be pushed
            if nodes & self._failing:
                raise
            self._failing |= nodes
            for message in messages:
                self._arrivals.fail(message, error)
            return
        if messages:
            self._failing.clear()
        for message in to_no_one:
            self._arrivals.fail(message, ConnectionError("the node has left"))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push messages now; return an iterator over replies to these and to earlier messages.

        It ends when all are in, or `timeout` seconds from now. A reply that takes longer than that
        from its own message is an error.
        """
        self._seconds = math.inf if timeout is None else timeout
        deadline = time.monotonic() + self._seconds
        self.send(messages)
        return self._arrivals.until(deadline)
