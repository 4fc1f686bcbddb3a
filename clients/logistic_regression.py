"""Logistic regression, for which the paper gives no constants; clients reply gradients."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm

from flwr_byz.theory import step_size

from .problem import Arrays
from .regression import Array, Data, Regression


@dataclass(frozen=True)
class LogisticRegression(Regression):
    """Find θ* from P(y = ±1) = 1/(1 + exp(∓⟨w, θ*⟩)), with w ~ N(0, I) and ‖θ*‖ = 1."""

    @property
    def server_learning_rate(self) -> float:  # type: ignore[override]
        """The paper's step η = L/(2M²), with L at θ*."""
        return step_size(*curvature())

    def reply(
        self, client: int, arrays: Arrays, server_round: int
    ) -> tuple[Arrays, int, dict[str, float]]:
        """Return the gradient of the client's empirical risk at θ."""
        features, labels = _data(replace(self, labels="true"), client)
        seen = -labels if self.labels == "flipped" else labels
        wrong = seen * expit(-seen * (features @ arrays[0].astype(np.float64)))
        gradient = -(wrong @ features) / len(labels)
        return [gradient.astype(arrays[0].dtype)], len(labels), {}

    def evaluate_client(self, client: int, arrays: Arrays) -> tuple[float, int, dict[str, float]]:
        """Return the client's empirical risk."""
        features, labels = _data(replace(self, labels="true"), client)
        risks = np.logaddexp(0.0, -labels * (features @ arrays[0].astype(np.float64)))
        return float(risks.mean()), len(labels), self.evaluate(arrays)

    def optimum(self) -> Array:
        """Return θ*, a random direction of length 1."""
        direction = super().optimum()
        return direction / np.linalg.norm(direction)


@lru_cache(maxsize=256)
def _data(problem: LogisticRegression, client: int) -> Data:
    rng = np.random.default_rng([problem.seed, client])
    features = rng.normal(size=(problem.samples_per_client, problem.dim))
    likely = expit(features @ problem.optimum())
    return features, np.where(rng.random(problem.samples_per_client) < likely, 1.0, -1.0)


@lru_cache(maxsize=1)
def curvature() -> tuple[float, float]:
    """Return L at θ*, the least eigenvalue E[s′(u)u²] of the Hessian there, and M = s′(0) = 1/4.

    s is the logistic function and u ~ N(0, 1).
    """

    def integrand(u: float) -> float:
        return float(expit(u) * expit(-u) * u * u * norm.pdf(u))

    return float(quad(integrand, -np.inf, np.inf)[0]), 0.25
