"""The rules that a server may have, on vectors: what an adversary that knows the rule tries."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.server.strategy.aggregate import (
    aggregate_krum,
    aggregate_median,
    aggregate_trimmed_avg,
)
from flwr.serverapp.strategy.bulyan import aggregate_n_closest_weights
from flwr.serverapp.strategy.multikrum import select_multikrum
from numpy.typing import NDArray

from flwr_byz.aggregation import geometric_median_of_means, num_batches

RuleName = Literal[
    "geometric-median-of-means",
    "fedavg",
    "krum",
    "multi-krum",
    "bulyan",
    "fedmedian",
    "fedtrimmedavg",
]
OURS: RuleName = "geometric-median-of-means"


@dataclass(frozen=True)
class ServerRule:
    """A rule with its settings: ours, the mean, or one of Flower's as its Message API has it.

    Flower's two APIs differ in Bulyan: the Message API selects by Multi-Krum once, the classic one
    by Krum again and again.

    Parameters
    ----------
    name : str
    num_clients, num_byzantine : int
        m and the q that the server is set to.
    chosen_batches : int, optional
        k, where it is not to follow from q.
    """

    name: RuleName
    num_clients: int
    num_byzantine: int
    chosen_batches: int | None = None

    @property
    def num_batches(self) -> int:
        """The k of ours; every client alone for the other rules."""
        if self.name != "geometric-median-of-means":
            return self.num_clients
        return self.chosen_batches or num_batches(self.num_clients, self.num_byzantine)

    @property
    def trimmed_share(self) -> float:
        """What FedTrimmedAvg leaves out at either end."""
        return self.num_byzantine / self.num_clients

    def __call__(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Aggregate vectors, (m, d) to (d,)."""
        replies = [([vector], 1) for vector in vectors]
        q = self.num_byzantine
        match self.name:
            case "geometric-median-of-means":
                return geometric_median_of_means(
                    vectors, self.num_batches, trim_norm="auto", gamma=1e-6
                ).point
            case "fedavg":
                return np.asarray(vectors.mean(axis=0))
            case "krum":
                (aggregate,) = aggregate_krum(replies, q, 0)
            case "multi-krum":
                (aggregate,) = aggregate_krum(replies, q, self.num_clients - q)
            case "bulyan":
                aggregate = _bulyan(vectors, q)
            case "fedmedian":
                (aggregate,) = aggregate_median(replies)
            case "fedtrimmedavg":
                (aggregate,) = aggregate_trimmed_avg(replies, self.trimmed_share)
        return np.asarray(aggregate, np.float64)


def _bulyan(vectors: NDArray[np.float64], num_byzantine: int) -> NDArray[np.float64]:
    """Aggregate as `flwr.serverapp.strategy.Bulyan` does: of too few vectors, no step comes."""
    if len(vectors) < 4 * num_byzantine + 3:
        return np.zeros_like(vectors[0])
    replies = [RecordDict({"arrays": ArrayRecord({"vector": Array(v)})}) for v in vectors]
    num_selected = len(vectors) - 2 * num_byzantine
    selected = [
        reply.array_records["arrays"].to_numpy_ndarrays()
        for reply in select_multikrum(replies, num_byzantine, num_selected)
    ]
    median = np.median([vector for (vector,) in selected], axis=0)
    (aggregate,) = aggregate_n_closest_weights([median], selected, num_selected - 2 * num_byzantine)
    return np.asarray(aggregate)
