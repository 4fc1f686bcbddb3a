"""Rules that select replies: the paper's section 6 and section 1.3.

The two of section 6, left there as an open question, average a subset of the replies, and resist
weaker adversaries than the geometric median of means: one that cannot foresee the server's random
bits, and one whose replies are long. Neither has a guarantee in the paper. Stochastic gradient
descent takes one reply.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from numpy.typing import NDArray

from flwr_byz.aggregation import mean

from .vector_strategy import VectorStrategy

Vectors = NDArray[np.floating]


def mean_of_random_subset(vectors: Vectors, num_selected: int, *, seed: int) -> NDArray[np.float64]:
    """Average a uniformly random subset of so many of the vectors (m, d).

    Raises ValueError where `num_selected` is not between 1 and m.
    """
    _check(vectors, num_selected)
    chosen = np.random.default_rng(seed).choice(len(vectors), size=num_selected, replace=False)
    return mean([vectors[i] for i in sorted(chosen)])


def mean_of_smallest_norms(vectors: Vectors, num_selected: int) -> NDArray[np.float64]:
    """Average the vectors of smallest Euclidean norm (the first ones among equal norms).

    With `num_selected` = m − q, as many vectors are left out as there may be Byzantine clients.
    Raises ValueError where `num_selected` is not between 1 and m.
    """
    _check(vectors, num_selected)
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(vectors, axis=1)
    chosen = np.argsort(norms, kind="stable")[:num_selected]
    return mean([vectors[i] for i in sorted(chosen)])


def _check(vectors: Vectors, num_selected: int) -> None:
    if not 1 <= num_selected <= len(vectors):
        raise ValueError(
            f"num_selected must be between 1 and the number of vectors {len(vectors)}, "
            f"got {num_selected}"
        )


class SmallestNorms(VectorStrategy):
    """Average the shortest updates or gradients among the well-formed replies.

    Parameters
    ----------
    num_selected : int
    seed : int
        Of a random selection.
    options
        Of `VectorStrategy`.
    """

    def __init__(self, num_selected: int, *, seed: int, **options: Any) -> None:
        super().__init__(**options)
        self.num_selected = num_selected
        self.seed = seed

    def combine(self, vectors: Vectors, server_round: int) -> NDArray[np.float64]:
        """Return the mean of the selected vectors."""
        return self.select(vectors, min(self.num_selected, len(vectors)), server_round)

    def select(self, vectors: Vectors, num_selected: int, server_round: int) -> NDArray[np.float64]:
        """Return the mean of so many of the vectors."""
        return mean_of_smallest_norms(vectors, num_selected)


class RandomSubset(SmallestNorms):
    """Average a random subset of the updates or gradients among the well-formed replies."""

    def select(self, vectors: Vectors, num_selected: int, server_round: int) -> NDArray[np.float64]:
        """Return the mean of so many of the vectors, drawn anew in each round."""
        drawn = np.random.SeedSequence([self.seed, server_round]).generate_state(1)
        return mean_of_random_subset(vectors, num_selected, seed=int(drawn[0]))


class OneClient(SmallestNorms):
    """Ask one client, drawn anew in each round: stochastic descent in steps min(η, 1/t).

    They are the 1/(Lt) of strongly convex losses, for L = 1.
    """

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask one of the clients."""
        messages = super().configure_train(server_round, arrays, config, grid)
        ordered = sorted(messages, key=lambda message: message.metadata.dst_node_id)
        rng = np.random.default_rng([self.seed, server_round])
        return [ordered[rng.integers(len(ordered))]]

    def step_in(self, server_round: int) -> float:
        """Return a step that shrinks."""
        return float(np.copysign(min(abs(self.step), 1 / server_round), self.step))
