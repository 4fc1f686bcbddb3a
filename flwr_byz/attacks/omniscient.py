"""Attacks that know what every honest client sends; colluders send one vector."""

from abc import abstractmethod
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar, Literal, get_args

import numpy as np

from .attack import Attack, Knowledge, Vector, check_choice, check_finite

Direction = Literal["mean", "spread", "sign"]


class AllKnowing(Attack):
    """An attack that needs the honest vectors, and by default sends one from every colluder."""

    knows: ClassVar[frozenset[str]] = frozenset({"honest"})
    common: ClassVar[bool] = True

    def honest(self, knowledge: Knowledge) -> Vector:
        """Return the honest vectors, (n, d)."""
        self.check_known(knowledge)
        assert knowledge.honest is not None
        return knowledge.honest


def mean_of(honest: Vector) -> Vector:
    """Return the mean of the honest vectors, (d,)."""
    mean: Vector = honest.mean(axis=0)
    return mean


def standard_deviation(honest: Vector) -> Vector:
    """Return the standard deviation (n − 1) of each coordinate, (d,); zero for a single vector."""
    return honest.std(axis=0, ddof=1) if len(honest) > 1 else np.zeros(honest.shape[1])


def direction_against(honest: Vector, direction: Direction) -> Vector:
    """Return p such that μ − γp leads away from the honest mean μ, (d,).

    "mean" is μ/‖μ‖, "spread" the standard deviation of each coordinate, "sign" the sign of μ
    (Shejwalkar and Houmansadr 2021, section IV-A).
    """
    if direction == "spread":
        return standard_deviation(honest)
    mean = mean_of(honest)
    if direction == "sign":
        return np.sign(mean)
    length = float(np.linalg.norm(mean))
    return mean / length if length > 0.0 else np.zeros_like(mean)


@dataclass(frozen=True)
class InnerProductManipulation(AllKnowing):
    """Send −ε times the mean μ of the honest vectors (Xie, Koyejo, Gupta 2019).

    Parameters
    ----------
    epsilon : float, default 0.5
        ε ≥ 0: small to stay among the honest vectors, large (10) to outweigh them in a mean.
    """

    epsilon: float = 0.5

    def __post_init__(self) -> None:
        check_finite("epsilon", self.epsilon, least=0.0)

    def __call__(self, knowledge: Knowledge) -> Vector:
        """Return −ε·μ."""
        return -self.epsilon * mean_of(self.honest(knowledge))


@dataclass(frozen=True)
class ALittleIsEnough(AllKnowing):
    """Send μ − z·σ, inside the spread of the honest vectors (Baruch, Baruch, Goldberg 2019).

    μ and σ are the mean and the standard deviation (n − 1) of each coordinate over the honest
    vectors.

    Parameters
    ----------
    z : float, optional
        By default the largest that hides among the honest majority:
        Φ⁻¹((m − q − s)/(m − q)) with s = ⌊m/2⌋ + 1 − q. Needed where that has no value (one
        honest client, or s ≤ 0: the colluders are a majority).
    """

    z: float | None = None

    def __post_init__(self) -> None:
        if self.z is not None:
            check_finite("z", self.z)

    def __call__(self, knowledge: Knowledge) -> Vector:
        """Return μ − z·σ."""
        honest = self.honest(knowledge)
        z = self.z if self.z is not None else _largest_hidden_z(knowledge)
        return mean_of(honest) - z * standard_deviation(honest)


@dataclass(frozen=True)
class _FurthestWithin(AllKnowing):
    """Send μ − γp, γ the largest within a bound that is quadratic in γ."""

    direction: Direction = "spread"

    def __post_init__(self) -> None:
        check_choice("direction", self.direction, get_args(Direction))

    def __call__(self, knowledge: Knowledge) -> Vector:
        """Return μ − γp."""
        honest = self.honest(knowledge)
        mean = mean_of(honest)
        against = direction_against(honest, self.direction)
        square = float(against @ against)
        if square == 0.0:
            return mean
        return mean - self._furthest(honest, against, square) * against

    @abstractmethod
    def _furthest(self, honest: Vector, against: Vector, square: float) -> float:
        """Return γ, for a p whose squared norm is not 0."""


@dataclass(frozen=True)
class MinMax(_FurthestWithin):
    """Send μ − γp, γ the largest that stays within the honest diameter.

    No honest vector is further from it than the two honest vectors furthest apart are from each
    other (Shejwalkar and Houmansadr 2021, equation 3). The bound is a quadratic in γ for each
    honest vector, so γ is found exactly where the source halves an interval.

    Parameters
    ----------
    direction : {"mean", "spread", "sign"}, default "spread"
        p; see `direction_against`.
    """

    def _furthest(self, honest: Vector, against: Vector, square: float) -> float:
        offsets = mean_of(honest) - honest
        slopes = offsets @ against
        room = squared_distances(honest).max() - np.einsum("ij,ij->i", offsets, offsets)
        roots = slopes + np.sqrt(np.square(slopes) + square * np.maximum(room, 0.0))
        return float((roots / square).min())


@dataclass(frozen=True)
class MinSum(_FurthestWithin):
    """Send μ − γp, γ the largest that keeps the sum of squared distances an honest vector has.

    The squared distances from it to the honest vectors sum to no more than those of the honest
    vector furthest out (Shejwalkar and Houmansadr 2021, equation 4).

    Parameters
    ----------
    direction : {"mean", "spread", "sign"}, default "spread"
        p; see `direction_against`.
    """

    def _furthest(self, honest: Vector, against: Vector, square: float) -> float:
        room = squared_distances(honest).sum(axis=1).max()
        room -= np.square(honest - mean_of(honest)).sum()
        return float(np.sqrt(max(room, 0.0) / (len(honest) * square)))


@dataclass(frozen=True)
class Mimic(AllKnowing):
    """Send what one honest client sends, over-representing it (Karimireddy, He, Jaggi 2022).

    It is the client furthest from the mean along the direction of the largest variance in this
    round (the source follows that direction over the rounds).
    """

    def __call__(self, knowledge: Knowledge) -> Vector:
        """Return the vector of the client that is mimicked."""
        honest = self.honest(knowledge)
        left, _, _ = np.linalg.svd(honest - mean_of(honest), full_matrices=False)
        # Within rounding, any of two that lie as far in both directions will do: take the first.
        along = np.abs(left[:, 0])
        mimicked: Vector = honest[int(np.argmax(along >= along.max() * (1 - 1e-9)))].copy()
        return mimicked


def squared_distances(points: Vector) -> Vector:
    """Return the squared distances between all pairs of points, (n, n)."""
    return np.stack([np.square(points - point).sum(axis=1) for point in points])


def _largest_hidden_z(knowledge: Knowledge) -> float:
    num_honest = knowledge.num_clients - knowledge.num_byzantine
    num_supporters = knowledge.num_clients // 2 + 1 - knowledge.num_byzantine
    if not 0 < num_supporters < num_honest:
        raise ValueError(
            f"ALittleIsEnough has no z of its own for num_clients={knowledge.num_clients}, "
            f"num_byzantine={knowledge.num_byzantine}: give z"
        )
    return NormalDist().inv_cdf((num_honest - num_supporters) / num_honest)
