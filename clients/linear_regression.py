"""Linear regression as in the paper's section 4; clients reply gradients."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .problem import Arrays

Data = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class LinearRegression:
    """Find θ* from y = ⟨w, θ*⟩ + ζ with w ~ N(0, I) and ζ ~ N(0, 1).

    Strongly convex and smooth with L = M = 1, so the paper's step is η = L/(2M²) = 1/2.

    Parameters
    ----------
    num_clients : int
        m.
    samples_per_client : int
        N/m.
    dim : int
        d.
    seed : int
    labels : {"true", "flipped"}
        Whether clients see y or −y.
    """

    num_clients: int = 40
    samples_per_client: int = 50
    dim: int = 20
    seed: int = 0
    labels: Literal["true", "flipped"] = "true"

    reply_kind: Literal["gradients"] = "gradients"

    def initial_arrays(self) -> Arrays:
        """Return θ0 = 0."""
        return [np.zeros(self.dim, np.float32)]

    def reply(
        self, client: int, arrays: Arrays, server_round: int
    ) -> tuple[Arrays, int, dict[str, float]]:
        """Return the gradient of the client's empirical risk at θ, over all its data."""
        (theta,) = arrays
        features, _ = self.data(client)
        residuals = self._residuals(client, theta)
        gradient = features.T @ residuals / len(residuals)
        loss = float(residuals @ residuals / (2 * len(residuals)))
        return [gradient.astype(theta.dtype)], len(residuals), {"loss": loss}

    def relabelled(self) -> "LinearRegression":
        """Return the problem in which every client sees −y."""
        return replace(self, labels="flipped")

    def evaluate(self, arrays: Arrays) -> dict[str, float]:
        """Return the estimation error ‖θ − θ*‖, the left side of Theorem 5."""
        return {"error": float(np.linalg.norm(arrays[0].astype(np.float64) - self.optimum()))}

    def evaluate_client(self, client: int, arrays: Arrays) -> tuple[float, int, dict[str, float]]:
        """Return the client's empirical risk."""
        residuals = self._residuals(client, arrays[0])
        loss = float(residuals @ residuals / (2 * len(residuals)))
        return loss, len(residuals), self.evaluate(arrays)

    def optimum(self) -> NDArray[np.float64]:
        """Return θ*, drawn from N(0, I)."""
        return np.random.default_rng([self.seed, self.num_clients]).normal(size=self.dim)

    def data(self, client: int) -> Data:
        """Return a client's features (n, d) and targets (n,)."""
        return _client_data(self, client)

    def _residuals(self, client: int, theta: NDArray[np.floating]) -> NDArray[np.float64]:
        features, targets = self.data(client)
        return features @ theta.astype(np.float64) - targets


@lru_cache(maxsize=1024)
def _client_data(problem: LinearRegression, client: int) -> Data:
    """Draw a client's data; its seed is its own, so that any process can."""
    rng = np.random.default_rng([problem.seed, client])
    features = rng.normal(size=(problem.samples_per_client, problem.dim))
    noise = rng.normal(size=problem.samples_per_client)
    targets = features @ problem.optimum() + noise
    return features, -targets if problem.labels == "flipped" else targets
