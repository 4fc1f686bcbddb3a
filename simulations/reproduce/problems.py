"""Problems of the sweeps that no Flower client needs: summarised regression, logistic regression.

Both are problems as `clients.problem` has them, so honest clients, attacks and the server treat
them as any other.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm

from clients.problem import Arrays

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SummarisedRegression:
    """The linear regression of section 4 by its sufficient statistics, for any number of samples.

    A client's gradient depends on its n samples by Σ = XᵀX/n and s = Xᵀζ/n alone. These are drawn
    from their exact distribution: XᵀX is Wishart (Bartlett's decomposition AAᵀ), and Xᵀζ given X is
    N(0, XᵀX). A gradient costs O(d²), whatever n is.

    Parameters
    ----------
    num_clients : int
        m.
    samples_per_client : int
        n = N/m on average, at least d.
    dim : int
        d.
    seed : int
    unevenness : float, default 0.0
        Clients have from (1 − u)n to (1 + u)n samples, each number as likely.
    labels : {"true", "flipped"}
        Whether clients see y or −y.
    """

    num_clients: int
    samples_per_client: int
    dim: int
    seed: int
    unevenness: float = 0.0
    labels: Literal["true", "flipped"] = "true"

    reply_kind: Literal["gradients"] = "gradients"

    def initial_arrays(self) -> Arrays:
        """Return θ0 = 0."""
        return [np.zeros(self.dim, np.float32)]

    def reply(
        self, client: int, arrays: Arrays, server_round: int
    ) -> tuple[Arrays, int, dict[str, float]]:
        """Return the gradient of the client's empirical risk at θ."""
        sizes, covariances, noises = summaries(replace(self, labels="true"))
        sign = -1.0 if self.labels == "flipped" else 1.0
        offset = arrays[0].astype(np.float64) - sign * self.optimum()
        gradient = summarised_gradient(covariances[client], sign * noises[client], offset)
        return [gradient.astype(arrays[0].dtype)], int(sizes[client]), {}

    def relabelled(self) -> "SummarisedRegression":
        """Return the problem in which every client sees −y."""
        return replace(self, labels="flipped")

    def evaluate(self, arrays: Arrays) -> dict[str, float]:
        """Return the estimation error ‖θ − θ*‖."""
        return {"error": float(np.linalg.norm(arrays[0].astype(np.float64) - self.optimum()))}

    def evaluate_client(self, client: int, arrays: Arrays) -> tuple[float, int, dict[str, float]]:
        """Return the error: single samples, and so a client's risk, are not known."""
        return float("nan"), self.samples_per_client, self.evaluate(arrays)

    def optimum(self) -> Array:
        """Return θ*, drawn from N(0, I)."""
        return _normal_optimum(self.seed, self.num_clients, self.dim)


def summarised_gradient(covariance: Array, noise: Array, offset: Array) -> Array:
    """Return Σ(θ − θ*) − s, the gradient of a client's empirical risk."""
    return covariance @ offset - noise


@lru_cache(maxsize=4)
def summaries(problem: SummarisedRegression) -> tuple[NDArray[np.int64], Array, Array]:
    """Draw the sizes (m,), Σ (m, d, d) and s (m, d) of all clients."""
    m, n, d = problem.num_clients, problem.samples_per_client, problem.dim
    rng = np.random.default_rng([problem.seed, m, n, d])
    sizes = np.rint(n * (1 + problem.unevenness * rng.uniform(-1, 1, size=m))).astype(np.int64)
    factor = np.tril(rng.normal(size=(m, d, d)), -1)
    factor[:, range(d), range(d)] = np.sqrt(rng.chisquare(sizes[:, None] - np.arange(d)))
    noise = np.einsum("mij,mj->mi", factor, rng.normal(size=(m, d)))
    covariance = factor @ factor.transpose(0, 2, 1)
    return sizes, covariance / sizes[:, None, None], noise / sizes[:, None]


@lru_cache(maxsize=4)
def _normal_optimum(seed: int, num_clients: int, dim: int) -> Array:
    return np.random.default_rng([seed, num_clients]).normal(size=dim)


@dataclass(frozen=True)
class LogisticRegression:
    """Find θ* from P(y = ±1) = 1/(1 + exp(∓⟨w, θ*⟩)), with w ~ N(0, I) and ‖θ*‖ = 1.

    Parameters
    ----------
    num_clients, samples_per_client, dim, seed : int
        m, N/m, d, and the seed of the data.
    labels : {"true", "flipped"}
        Whether clients see y or −y.
    """

    num_clients: int
    samples_per_client: int
    dim: int
    seed: int
    labels: Literal["true", "flipped"] = "true"

    reply_kind: Literal["gradients"] = "gradients"

    def initial_arrays(self) -> Arrays:
        """Return θ0 = 0."""
        return [np.zeros(self.dim, np.float32)]

    def reply(
        self, client: int, arrays: Arrays, server_round: int
    ) -> tuple[Arrays, int, dict[str, float]]:
        """Return the gradient of the client's empirical risk at θ."""
        features, labels = _logistic_data(replace(self, labels="true"), client)
        seen = -labels if self.labels == "flipped" else labels
        wrong = seen * expit(-seen * (features @ arrays[0].astype(np.float64)))
        gradient = -(wrong @ features) / len(labels)
        return [gradient.astype(arrays[0].dtype)], len(labels), {}

    def relabelled(self) -> "LogisticRegression":
        """Return the problem in which every client sees −y."""
        return replace(self, labels="flipped")

    def evaluate(self, arrays: Arrays) -> dict[str, float]:
        """Return the estimation error ‖θ − θ*‖."""
        return {"error": float(np.linalg.norm(arrays[0].astype(np.float64) - self.optimum()))}

    def evaluate_client(self, client: int, arrays: Arrays) -> tuple[float, int, dict[str, float]]:
        """Return the client's empirical risk."""
        features, labels = _logistic_data(replace(self, labels="true"), client)
        risks = np.logaddexp(0.0, -labels * (features @ arrays[0].astype(np.float64)))
        return float(risks.mean()), len(labels), self.evaluate(arrays)

    def optimum(self) -> Array:
        """Return θ*, a random direction of length 1."""
        direction = np.random.default_rng([self.seed, self.num_clients]).normal(size=self.dim)
        return direction / np.linalg.norm(direction)


@lru_cache(maxsize=256)
def _logistic_data(problem: LogisticRegression, client: int) -> tuple[Array, Array]:
    rng = np.random.default_rng([problem.seed, client])
    features = rng.normal(size=(problem.samples_per_client, problem.dim))
    likely = expit(features @ problem.optimum())
    return features, np.where(rng.random(problem.samples_per_client) < likely, 1.0, -1.0)


@lru_cache(maxsize=1)
def logistic_curvature() -> tuple[float, float]:
    """Return L at θ*, the least eigenvalue E[s′(u)u²] of the Hessian there, and M = s′(0) = 1/4.

    s is the logistic function and u ~ N(0, 1).
    """

    def integrand(u: float) -> float:
        return float(expit(u) * expit(-u) * u * u * norm.pdf(u))

    return float(quad(integrand, -np.inf, np.inf)[0]), 0.25
