"""The linear regression of the paper's section 4 with clients whose data differ."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from .partition import partition
from .regression import Data, LinearRegression

_DECILES = 10


@dataclass(frozen=True)
class PooledRegression(LinearRegression):
    """A `LinearRegression` whose samples are pooled and spread over the clients by their target.

    Parameters
    ----------
    split : str
        How the deciles of y are spread, as in `partition`. A client's number of samples is N/m on
        average.
    """

    split: str = "iid"

    def data(self, client: int) -> Data:
        """Return a client's features (n, d) and targets (n,)."""
        features, targets = _spread(replace(self, labels="true"))[client]
        return features, -targets if self.labels == "flipped" else targets


@lru_cache(maxsize=1)
def _spread(problem: PooledRegression) -> list[Data]:
    """Pool the clients' data, and spread them by decile."""
    drawn = [super(PooledRegression, problem).data(c) for c in range(problem.num_clients)]
    features, targets = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    edges = np.quantile(targets, np.arange(1, _DECILES) / _DECILES)
    shares = partition(
        np.searchsorted(edges, targets), problem.num_clients, problem.split, problem.seed
    )
    return [(features[own], targets[own]) for own in shares]
