"""The nodes that a round can have."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from logging import INFO, WARNING
from typing import cast

from flwr.serverapp import Grid
from flwr.supercore import log

_POLL_INTERVAL = 1.0


def wait_for_nodes(grid: Grid, num_needed: int, seconds: float) -> Grid | None:
    """Wait for nodes; return a grid of those that are there then, None where too few come."""
    since = time.monotonic()
    while len(node_ids := list(grid.get_node_ids())) < num_needed:
        waited = time.monotonic() - since
        log(INFO, "Waiting for nodes: %d of %d are connected.", len(node_ids), num_needed)
        if waited >= seconds:
            log(WARNING, "too few nodes came in %.0f s: the model is kept", waited)
            return None
        time.sleep(_POLL_INTERVAL)
    return cast(Grid, _Roster(node_ids))


@dataclass(frozen=True)
class _Roster:
    """As much of a grid as nodes are sampled from: nobody comes or goes meanwhile."""

    node_ids: Sequence[int]

    def get_node_ids(self) -> Sequence[int]:
        """Return the ids of the nodes."""
        return self.node_ids
