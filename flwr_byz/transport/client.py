"""A client as the classic API's server sees it, from which nothing worse than a failure comes."""

from collections.abc import Iterable
from functools import cache, lru_cache
from logging import WARNING
from typing import Any

from flwr import common
from flwr.app import Message
from flwr.server.client_proxy import ClientProxy
from flwr.serverapp import Grid
from flwr.supercore import log

from .arrivals import Unreadable
from .bounded import copy_of, is_in_memory
from .grid import ArrivingGrid
from .passed_on import passes_on_to

_NO_GRID = "PROTECTION IS OFF: a reply that comes through %s may take any size"
_NO_CLIENT = (
    "PROTECTION IS OFF where messages go to nodes past their clients, as those of Flower's "
    "workflows do: a reply may take any size, one that is malformed may end the run, and for one "
    "that does not come the round waits without end; in a ServerApp without its own main, Flower's "
    "Server asks the clients"
)

_log_once = cache(log)


@passes_on_to("_client")
class GuardedClient(ClientProxy):
    """Another client, whose replies are of bounded size and whose failures bear its name.

    An exception reaches a strategy of Flower's `Server` without the client that it came from; a
    result that is not OK comes with its client. A reply may take `num_bytes`.
    """

    def __init__(self, client: ClientProxy, num_bytes: int) -> None:
        super().__init__(client.cid)
        self.properties = client.properties
        grid = getattr(client, "grid", None)
        if not isinstance(grid, Grid):
            _log_once(WARNING, _NO_GRID, type(client).__name__)
        elif not is_in_memory(grid):
            client = copy_of(client)
            client.grid = _one_reply_grid(grid, num_bytes)  # type: ignore[attr-defined]
        self._client = client

    def fit(self, *args: Any, **kwargs: Any) -> common.FitRes:
        """Train at the client."""
        try:
            return self._client.fit(*args, **kwargs)
        except Exception as error:  # whatever the client makes Flower raise
            return common.FitRes(_failed(error), common.Parameters([], ""), 0, {})

    def evaluate(self, *args: Any, **kwargs: Any) -> common.EvaluateRes:
        """Evaluate at the client."""
        try:
            return self._client.evaluate(*args, **kwargs)
        except Exception as error:  # whatever the client makes Flower raise
            return common.EvaluateRes(_failed(error), 0.0, 0, {})

    @property
    def node_id(self) -> int:  # type: ignore[override]
        """The client's node; to ask for it is to send there past the client, which is warned of."""
        _log_once(WARNING, _NO_CLIENT)
        return self._client.node_id

    # The other client's, as is all else.
    get_properties: Any
    get_parameters: Any
    reconnect: Any


def _failed(error: Exception) -> common.Status:
    return common.Status(common.Code.FIT_NOT_IMPLEMENTED, f"{type(error).__name__}: {error}")


class _OneReplyGrid(ArrivingGrid):
    """A grid that returns one reply of bounded size before its message expires, or raises."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        (message,) = messages
        for reply in super().send_and_receive([message], timeout=timeout or message.metadata.ttl):
            if reply.has_content() and isinstance(reply.content, Unreadable):
                raise ValueError(reply.content.reason)
            return [reply]
        raise TimeoutError("there is no reply")


_one_reply_grid = lru_cache(maxsize=1)(_OneReplyGrid)  # which looks once for what it relies on
