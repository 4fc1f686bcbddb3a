"""What a problem is: the model, and what each honest client replies. Everything else needs no more.

A problem is a small frozen dataclass that every process can make anew: data follow from its seed.
"""

from typing import Any, Literal, Protocol

from numpy.typing import NDArray

Arrays = list[NDArray[Any]]


class Problem(Protocol):
    """A federated learning problem."""

    @property
    def num_clients(self) -> int:
        """Number of clients m."""

    @property
    def seed(self) -> int:
        """Seed of the data and of everything random that follows."""

    @property
    def reply_kind(self) -> Literal["weights", "gradients"]:
        """What an honest client sends."""

    def initial_arrays(self) -> Arrays:
        """Return the model that the server starts from."""

    def reply(
        self, client: int, arrays: Arrays, server_round: int
    ) -> tuple[Arrays, int, dict[str, float]]:
        """Return what an honest client sends: arrays, number of examples, metrics.

        It depends on the arguments and the seed alone.
        """

    def relabelled(self) -> "Problem":
        """Return the problem with corrupted labels in the place of every client's own."""

    def evaluate(self, arrays: Arrays) -> dict[str, float]:
        """Return how good a model is, by the measure that the problem is reported in."""

    def evaluate_client(self, client: int, arrays: Arrays) -> tuple[float, int, dict[str, float]]:
        """Return loss, number of examples and metrics of a model on one client's data."""
