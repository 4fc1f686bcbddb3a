"""Attacks that know what every honest client sends; colluders send one vector."""

from abc import abstractmethod
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import numpy as np

from .attack import Attack, Direction, Knowledge, Vector, number


class AllKnowing(Attack):
    """An attack that needs the honest vectors, and by default sends one from every colluder."""

    knows: ClassVar[frozenset[str]] = frozenset({"honest"})
    common: ClassVar[bool] = True

    def __call__(self, knowledge: Knowledge) -> Vector:
        """Return the vector that is sent."""
        self.check_known(knowledge)
        assert knowledge.honest is not None
        return self._vector(knowledge.honest, knowledge)

    @abstractmethod
    def _vector(self, honest: Vector, knowledge: Knowledge) -> Vector:
        """Return the vector that is sent, given the honest ones, (n, d)."""


def mean_of(honest: Vector) -> Vector:
    """Return the mean of the honest vectors, (d,)."""
    return np.asarray(honest.mean(axis=0))


def deviation_of(honest: Vector) -> Vector:
    """Return the standard deviation (n − 1) of each coordinate, (d,); zero for a single vector."""
    return honest.std(axis=0, ddof=1) if len(honest) > 1 else np.zeros(honest.shape[1])


def direction_against(honest: Vector, direction: Direction) -> Vector:
    """Return p, of norm 1 or 0, such that μ − γp leads away from the honest mean μ, (d,).

    "mean" is along μ, "spread" along the standard deviation of each coordinate, "sign" along the
    sign of μ (Shejwalkar and Houmansadr 2021, section IV-A).
    """
    against = deviation_of(honest) if direction == "spread" else mean_of(honest)
    if direction == "sign":
        against = np.sign(against)
    length = float(np.linalg.norm(against))
    return against / length if length > 0.0 else against


def squared_distances(points: Vector) -> Vector:
    """Return the squared distances between all pairs of points, (n, n)."""
    return np.stack([np.square(points - point).sum(axis=1) for point in points])


@dataclass(frozen=True)
class InnerProductManipulation(AllKnowing):
    """Send −ε times the mean μ of the honest vectors (Xie, Koyejo, Gupta 2019).

    Parameters
    ----------
    epsilon : float, default 0.5
        ε ≥ 0: small to stay among the honest vectors, large (10) to outweigh them in a mean.
    """

    epsilon: float = number(0.5, least=0.0)

    def _vector(self, honest: Vector, knowledge: Knowledge) -> Vector:
        return -self.epsilon * mean_of(honest)


@dataclass(frozen=True)
class ALittleIsEnough(AllKnowing):
    """Send μ − z·σ, inside the spread of the honest vectors (Baruch, Baruch, Goldberg 2019).

    μ and σ are mean and standard deviation (n − 1) of each coordinate of the honest vectors.

    Parameters
    ----------
    z : float, optional
        By default the largest that hides among the honest majority:
        Φ⁻¹((m − q − s)/(m − q)) with s = ⌊m/2⌋ + 1 − q. Needed where that has no value (one
        honest client, or s ≤ 0: the colluders are a majority).
    """

    z: float | None = number(None)

    def _vector(self, honest: Vector, knowledge: Knowledge) -> Vector:
        z = _largest_hidden_z(knowledge) if self.z is None else self.z
        return mean_of(honest) - z * deviation_of(honest)


def _largest_hidden_z(knowledge: Knowledge) -> float:
    m, q = knowledge.num_clients, knowledge.num_byzantine
    num_honest, num_supporters = m - q, m // 2 + 1 - q
    if not 0 < num_supporters < num_honest:
        raise ValueError(f"ALittleIsEnough has no z for num_clients={m}, num_byzantine={q}: give z")
    return NormalDist().inv_cdf((num_honest - num_supporters) / num_honest)


@dataclass(frozen=True)
class _FurthestWithin(AllKnowing):
    """Send μ − γp, γ the largest within a bound that is quadratic in γ."""

    direction: Direction = "spread"

    def _vector(self, honest: Vector, knowledge: Knowledge) -> Vector:
        against = direction_against(honest, self.direction)
        return mean_of(honest) - self._furthest(honest, against) * against

    @abstractmethod
    def _furthest(self, honest: Vector, against: Vector) -> float:
        """Return γ, for a p of norm 1; what it is for p = 0 does not matter."""


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

    def _furthest(self, honest: Vector, against: Vector) -> float:
        offsets = mean_of(honest) - honest
        slopes = offsets @ against
        room = squared_distances(honest).max() - np.square(offsets).sum(axis=1)
        return float((slopes + np.sqrt(np.square(slopes) + np.maximum(room, 0.0))).min())


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

    def _furthest(self, honest: Vector, against: Vector) -> float:
        room = squared_distances(honest).sum(axis=1).max()
        room -= np.square(honest - mean_of(honest)).sum()
        return float(np.sqrt(max(room, 0.0) / len(honest)))


@dataclass(frozen=True)
class Mimic(AllKnowing):
    """Send what one honest client sends, over-representing it (Karimireddy, He, Jaggi 2022).

    It is the client furthest from the mean along the direction of the largest variance in this
    round (the source follows that direction over the rounds).
    """

    def _vector(self, honest: Vector, knowledge: Knowledge) -> Vector:
        left, _, _ = np.linalg.svd(honest - mean_of(honest), full_matrices=False)
        # Within rounding, any of two that lie as far in both directions will do: take the first.
        along = np.abs(left[:, 0])
        return np.copy(honest[int(np.argmax(along >= along.max() * (1 - 1e-9)))])
