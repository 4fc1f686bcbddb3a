"""The experiments: their problems and sizes, and the attacks that they know."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from flwr_byz import attacks

from .linear_regression import LinearRegression
from .problem import Problem

ExperimentName = Literal["linear-regression", "digits"]
AttackName = Literal[
    "none",
    "sign-flip",
    "scale",
    "gaussian-noise",
    "constant",
    "label-flip",
    "model-replacement",
    "inner-product-manipulation",
    "small-inner-product-manipulation",
    "a-little-is-enough",
    "min-max",
    "min-sum",
    "fang-trimmed-mean",
    "fang-krum",
    "mimic",
    "batch-takeover",
    "adaptive",
    "non-finite",
    "malformed",
    "silent",
]

ATTACKS: Mapping[AttackName, Callable[[], attacks.Attack]] = {
    "sign-flip": lambda: attacks.SignFlip(scale=10.0),
    "scale": attacks.Scale,
    "gaussian-noise": attacks.GaussianNoise,
    "constant": attacks.Constant,
    "label-flip": attacks.LabelFlip,
    "model-replacement": attacks.ModelReplacement,
    "inner-product-manipulation": lambda: attacks.InnerProductManipulation(epsilon=10.0),
    "small-inner-product-manipulation": attacks.InnerProductManipulation,
    "a-little-is-enough": attacks.ALittleIsEnough,
    "min-max": attacks.MinMax,
    "min-sum": attacks.MinSum,
    "fang-trimmed-mean": attacks.FangTrimmedMean,
    "fang-krum": attacks.FangKrum,
    "mimic": attacks.Mimic,
    "batch-takeover": attacks.BatchTakeover,
    "adaptive": attacks.Adaptive,
    "non-finite": attacks.NonFinite,
    "malformed": attacks.Malformed,
    "silent": attacks.Silent,
}


@dataclass(frozen=True)
class Experiment:
    """A problem at the size that it is reported at.

    Attributes
    ----------
    problem : callable
        Makes the problem from the number of clients and the seed.
    num_clients, num_byzantine, num_rounds : int
        m, q and the number of rounds.
    server_learning_rate : float
        Step size η at the server.
    measure : str
        The entry of `Problem.evaluate` that is reported.
    """

    problem: Callable[[int, int], Problem]
    num_clients: int
    num_byzantine: int
    num_rounds: int
    server_learning_rate: float
    measure: Literal["error", "accuracy"]

    @property
    def worst(self) -> float:
        """What the measure comes to where a model is lost."""
        return float("inf") if self.measure == "error" else 0.0


def _digits(num_clients: int, seed: int) -> Problem:
    from .digits import Digits  # PyTorch is needed for this problem alone

    return Digits(num_clients=num_clients, seed=seed)


EXPERIMENTS: Mapping[ExperimentName, Experiment] = {
    "linear-regression": Experiment(
        problem=lambda num_clients, seed: LinearRegression(num_clients=num_clients, seed=seed),
        num_clients=40,
        num_byzantine=5,
        num_rounds=12,
        server_learning_rate=0.5,
        measure="error",
    ),
    "digits": Experiment(
        problem=_digits,
        num_clients=20,
        num_byzantine=4,
        num_rounds=12,
        server_learning_rate=1.0,
        measure="accuracy",
    ),
}
