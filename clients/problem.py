"""What a problem is: the model, and what each honest client replies. Everything else needs no more.

A problem is a small frozen dataclass that every process can make anew: data follow from its seed.
"""

from typing import Any, Literal, Protocol

import numpy as np
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

    def evaluate(self, arrays: Arrays) -> dict[str, float]:
        """Return how good a model is, by the measure that the problem is reported in."""

    def evaluate_client(self, client: int, arrays: Arrays) -> tuple[float, int, dict[str, float]]:
        """Return loss, number of examples and metrics of a model on one client's data."""


def flatten(arrays: Arrays) -> NDArray[np.float64]:
    """Join arrays to one vector (d,), float64."""
    return np.concatenate([np.ravel(array).astype(np.float64) for array in arrays])


def unflatten(vector: NDArray[np.float64], like: Arrays) -> Arrays:
    """Cut a vector (d,) into arrays of the shapes and dtypes of `like`; overflow gives infinity."""
    ends = np.cumsum([array.size for array in like])
    with np.errstate(over="ignore"):
        return [
            part.reshape(array.shape).astype(array.dtype)
            for part, array in zip(np.split(vector, ends[:-1]), like, strict=True)
        ]
