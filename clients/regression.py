"""Linear regression as in the paper's section 4; clients reply gradients."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from .problem import Arrays

Array = NDArray[np.float64]
Data = tuple[Array, Array]


@dataclass(frozen=True)
class Regression:
    """What regressions have in common: a model of one vector θ, measured by its distance from θ*.

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

    reply_kind: ClassVar[Literal["gradients"]] = "gradients"
    measure: ClassVar[Literal["error"]] = "error"
    server_learning_rate: ClassVar[float] = 0.5

    def initial_arrays(self) -> Arrays:
        """Return θ0 = 0."""
        return [np.zeros(self.dim, np.float32)]

    def relabelled(self) -> Self:
        """Return the problem in which every client sees −y."""
        return replace(self, labels="flipped")

    def evaluate(self, arrays: Arrays) -> dict[str, float]:
        """Return the estimation error ‖θ − θ*‖, the left side of Theorem 5."""
        return {"error": float(np.linalg.norm(arrays[0].astype(np.float64) - self.optimum()))}

    def optimum(self) -> Array:
        """Return θ*, drawn from N(0, I)."""
        return np.random.default_rng([self.seed, self.num_clients]).normal(size=self.dim)


@dataclass(frozen=True)
class LinearRegression(Regression):
    """Find θ* from y = ⟨w, θ*⟩ + ζ with w ~ N(0, I) and ζ ~ N(0, 1).

    Strongly convex and smooth with L = M = 1, so the paper's step is η = L/(2M²) = 1/2.

    Parameters
    ----------
    is_skewed : bool, default False
        Whether w has an intercept, w₁ = 1, and ζ + 1 ~ Exp(1): gradients g = −wζ at θ* are then
        skewed, E[g‖g‖²] = (−2d, 0, …, 0), while L, M and their variances are the same.
    """

    is_skewed: bool = False

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

    def evaluate_client(self, client: int, arrays: Arrays) -> tuple[float, int, dict[str, float]]:
        """Return the client's empirical risk."""
        residuals = self._residuals(client, arrays[0])
        loss = float(residuals @ residuals / (2 * len(residuals)))
        return loss, len(residuals), self.evaluate(arrays)

    def data(self, client: int) -> Data:
        """Return a client's features (n, d) and targets (n,)."""
        return _client_data(self, client)

    def _residuals(self, client: int, theta: NDArray[np.floating]) -> Array:
        features, targets = self.data(client)
        return features @ theta.astype(np.float64) - targets


@lru_cache(maxsize=1024)
def _client_data(problem: LinearRegression, client: int) -> Data:
    """Draw a client's data; its seed is its own, so that any process can."""
    rng = np.random.default_rng([problem.seed, client])
    features = rng.normal(size=(problem.samples_per_client, problem.dim))
    if problem.is_skewed:
        features[:, 0] = 1.0
        noise = rng.exponential(size=problem.samples_per_client) - 1.0
    else:
        noise = rng.normal(size=problem.samples_per_client)
    targets = features @ problem.optimum() + noise
    return features, -targets if problem.labels == "flipped" else targets


@dataclass(frozen=True)
class OneShotRegression(LinearRegression):
    """The same, but clients reply the θ that they find alone: one-shot aggregation (section 1.3).

    That is the solution of their least squares, of those with n < d samples the shortest one. One
    round of FedAvg is one-shot averaging.
    """

    reply_kind: ClassVar[Literal["weights"]] = "weights"  # type: ignore[assignment]
    server_learning_rate: ClassVar[float] = 1.0

    def reply(
        self, client: int, arrays: Arrays, server_round: int
    ) -> tuple[Arrays, int, dict[str, float]]:
        """Return the client's own solution, whatever θ is."""
        features, targets = self.data(client)
        solution = np.linalg.lstsq(features, targets, rcond=None)[0]
        return [solution.astype(arrays[0].dtype)], len(targets), {}
