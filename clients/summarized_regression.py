"""Linear regression by its sufficient statistics, for any number of samples."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .problem import Arrays
from .regression import Array, Regression


@dataclass(frozen=True)
class SummarizedRegression(Regression):
    """The linear regression of section 4, whose clients' data are drawn as their summaries.

    A client's gradient depends on its n samples by Σ = XᵀX/n and s = Xᵀζ/n alone. These are drawn
    from their exact distribution: XᵀX is Wishart (Bartlett's decomposition AAᵀ), and Xᵀζ given X is
    N(0, XᵀX). A gradient costs O(d²), whatever n ≥ d is.

    Parameters
    ----------
    unevenness : float, default 0.0
        Clients have from (1 − u)n to (1 + u)n samples, each number as likely.
    """

    unevenness: float = 0.0

    def reply(
        self, client: int, arrays: Arrays, server_round: int
    ) -> tuple[Arrays, int, dict[str, float]]:
        """Return the gradient of the client's empirical risk at θ."""
        sizes, covariances, noises = summaries(replace(self, labels="true"))
        sign = -1.0 if self.labels == "flipped" else 1.0
        offset = arrays[0].astype(np.float64) - sign * self.optimum()
        gradient = covariances[client] @ offset - sign * noises[client]
        return [gradient.astype(arrays[0].dtype)], int(sizes[client]), {}

    def evaluate_client(self, client: int, arrays: Arrays) -> tuple[float, int, dict[str, float]]:
        """Return the error: single samples, and so a client's risk, are not known."""
        return float("nan"), self.samples_per_client, self.evaluate(arrays)


@lru_cache(maxsize=4)
def summaries(problem: SummarizedRegression) -> tuple[NDArray[np.int64], Array, Array]:
    """Draw the sizes (m,), Σ (m, d, d) and s (m, d) of all clients."""
    m, n, d = problem.num_clients, problem.samples_per_client, problem.dim
    rng = np.random.default_rng([problem.seed, m, n, d])
    sizes = np.rint(n * (1 + problem.unevenness * rng.uniform(-1, 1, size=m))).astype(np.int64)
    factor = np.tril(rng.normal(size=(m, d, d)), -1)
    factor[:, range(d), range(d)] = np.sqrt(rng.chisquare(sizes[:, None] - np.arange(d)))
    noise = np.einsum("mij,mj->mi", factor, rng.normal(size=(m, d)))
    covariance = factor @ factor.transpose(0, 2, 1)
    return sizes, covariance / sizes[:, None, None], noise / sizes[:, None]
