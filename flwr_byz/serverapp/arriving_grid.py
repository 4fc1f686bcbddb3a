"""A grid that hands out replies while others are still on their way."""

import time
from collections import deque
from collections.abc import Iterable, Iterator

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run


class ArrivingGrid(Grid):
    """Another grid, whose `send_and_receive` yields every reply as soon as it can be pulled.

    One reply is pulled at a time, so that no more than one is held unless the caller holds them.

    Parameters
    ----------
    grid : Grid
    poll_interval : float, default 0.5
        Seconds to wait after no reply was found.
    """

    def __init__(self, grid: Grid, poll_interval: float = 0.5) -> None:
        self._grid = grid
        self._poll_interval = poll_interval

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push messages now; return an iterator over the replies until all are in or time is up."""
        waiting = deque(message_id for message_id in self.push_messages(messages) if message_id)
        deadline = None if timeout is None else time.monotonic() + timeout
        return self._arrivals(waiting, deadline)

    def _arrivals(self, waiting: deque[str], deadline: float | None) -> Iterator[Message]:
        while waiting:
            found = False
            for _ in range(len(waiting)):
                if deadline is not None and time.monotonic() >= deadline:
                    return
                message_id = waiting.popleft()
                replies = list(self.pull_messages([message_id]))
                if not replies:
                    waiting.append(message_id)
                while replies:
                    found = True
                    yield replies.pop()
            if not found:
                time.sleep(self._poll_interval)

    def set_run(self, run: Run) -> None:
        """Set the run of the grid."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run of the grid."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the connected nodes."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages to their nodes; return their ids."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull the replies to messages that have arrived."""
        return self._grid.pull_messages(message_ids)
