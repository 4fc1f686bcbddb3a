"""The clients of a manager that a strategy may choose from in a round."""

from typing import Any

from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.criterion import Criterion

from ..waiting import wait_for


class ChosenClients:
    """A manager without the `excluded` clients, that logs what it waits for."""

    def __init__(
        self, manager: ClientManager, excluded: frozenset[str], num_byzantine: int | None
    ) -> None:
        self._manager = manager
        self._excluded = excluded
        self._num_byzantine = num_byzantine

    def all(self) -> dict[str, ClientProxy]:
        """Return the clients that may be asked."""
        known = self._manager.all()
        return {cid: client for cid, client in known.items() if cid not in self._excluded}

    def num_available(self) -> int:
        """Return how many clients may be asked."""
        return len(self.all())

    def wait_for(self, num_clients: int, timeout: int = 86_400) -> bool:
        """Wait until so many clients may be asked."""
        return wait_for(self.num_available, num_clients, self._num_byzantine, timeout)

    def sample(
        self,
        num_clients: int,
        min_num_clients: int | None = None,
        criterion: Criterion | None = None,
    ) -> list[ClientProxy]:
        """Draw clients, once enough are there."""
        self.wait_for(num_clients if min_num_clients is None else min_num_clients)
        return self._manager.sample(num_clients, 0, _Admitted(self._excluded, criterion))

    def __getattr__(self, name: str) -> Any:  # all else is the manager's
        return getattr(self._manager, name)


class _Admitted(Criterion):
    def __init__(self, excluded: frozenset[str], criterion: Criterion | None) -> None:
        self._excluded, self._criterion = excluded, criterion

    def select(self, client: ClientProxy) -> bool:
        """Say whether a client may be asked, by the exclusion and by the strategy's criterion."""
        custom = self._criterion
        return client.cid not in self._excluded and (custom is None or custom.select(client))
