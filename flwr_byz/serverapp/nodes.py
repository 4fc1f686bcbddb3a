"""The nodes of a grid that a strategy may choose from in a round."""

from collections.abc import Sequence
from typing import Any

from flwr.serverapp import Grid


class ChosenNodes:
    """A grid of which only some nodes are seen: while they are sampled, no other comes or goes."""

    def __init__(self, grid: Grid, node_ids: Sequence[int]) -> None:
        self.grid = grid
        self._node_ids = node_ids

    def get_node_ids(self) -> list[int]:
        """Return the nodes that may be asked."""
        return list(self._node_ids)

    def __getattr__(self, name: str) -> Any:  # all else is the grid's
        return getattr(self.grid, name)
