"""Attacks that know the vector of every honest client; all colluders send the same one."""

from abc import abstractmethod
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import numpy as np

from ..renamed import renamed_in
from .attack import Attack, Direction, Knowledge, Vector, number


class Omniscient(Attack):
    """An attack that needs the honest vectors; by default all colluders send the same vector."""

    requires: ClassVar[frozenset[str]] = frozenset({"honest"})
    common: ClassVar[bool] = True

    def __call__(self, knowledge: Knowledge) -> Vector:
        self.check_known(knowledge)
        assert knowledge.honest is not None
        return self._vector(knowledge.honest, knowledge)

    @abstractmethod
    def _vector(self, honest: Vector, knowledge: Knowledge) -> Vector:
        """Return the vector to send, (d,), given the honest ones, (n, d)."""


renamed_in(__name__, AllKnowing="Omniscient")


def mean_of(honest: Vector) -> Vector:
    """Return μ, the mean of the honest vectors, (d,)."""
    return np.asarray(honest.mean(axis=0))


def deviation_of(honest: Vector) -> Vector:
    """Return σ, the standard deviation (n − 1) of each coordinate, (d,); 0 for a single vector."""
    return honest.std(axis=0, ddof=1) if len(honest) > 1 else np.zeros(honest.shape[1])


def direction_against(honest: Vector, direction: Direction) -> Vector:
    """Return p, (d,), of norm 1 or 0, to send μ − γp (Shejwalkar and Houmansadr 2021, IV-A).

    "mean" is along μ, "spread" along σ, "sign" along the sign of μ.
    """
    against = deviation_of(honest) if direction == "spread" else mean_of(honest)
    against = np.sign(against) if direction == "sign" else against
    length = float(np.linalg.norm(against))
    return against / length if length > 0.0 else against


def squared_distances(points: Vector) -> Vector:
    """Return the squared distances between all pairs of points, (n, n)."""
    return np.stack([np.square(points - point).sum(axis=1) for point in points])


@dataclass(frozen=True)
class InnerProductManipulation(Omniscient):
    """Send −εμ, the honest mean against its direction (Xie, Koyejo, Gupta 2019).

    A small ε = `epsilon` ≥ 0 stays among the honest vectors; a large one (10) outweighs a mean.
    """

    epsilon: float = number(0.5, least=0.0)

    def _vector(self, honest: Vector, knowledge: Knowledge) -> Vector:
        return -self.epsilon * mean_of(honest)


@dataclass(frozen=True)
class ALittleIsEnough(Omniscient):
    """Send μ − z·σ, inside the spread of the honest vectors (Baruch, Baruch, Goldberg 2019).

    z is by default the largest that hides among the honest vectors: Φ⁻¹((m − q − s)/(m − q)) with
    s = ⌊m/2⌋ + 1 − q. Give z for one honest client, or a majority of colluders (s ≤ 0).
    """

    z: float | None = number(None)

    def _vector(self, honest: Vector, knowledge: Knowledge) -> Vector:
        m, q, z = knowledge.num_clients, knowledge.num_byzantine, self.z
        if z is None:
            num_honest, num_supporters = m - q, m // 2 + 1 - q
            if not 0 < num_supporters < num_honest:
                unfit = f"num_clients={m}, num_byzantine={q}"
                raise ValueError(f"ALittleIsEnough has no z for {unfit}: give z")
            z = NormalDist().inv_cdf((num_honest - num_supporters) / num_honest)
        return mean_of(honest) - z * deviation_of(honest)


@dataclass(frozen=True)
class _FurthestWithin(Omniscient):
    """Send μ − γp with the largest γ within a bound; p by `direction`, see `direction_against`."""

    direction: Direction = "spread"

    def _vector(self, honest: Vector, knowledge: Knowledge) -> Vector:
        against = direction_against(honest, self.direction)
        return mean_of(honest) - self._furthest(honest, against) * against

    @abstractmethod
    def _furthest(self, honest: Vector, against: Vector) -> float:
        """Return γ for a p of norm 1, and any number for p = 0."""


@dataclass(frozen=True)
class MinMax(_FurthestWithin):
    """Send μ − γp, p by `direction`, with the largest γ that stays within the honest diameter.

    Its distance to every honest vector is at most the largest distance between two honest vectors
    (Shejwalkar and Houmansadr 2021, equation 3, where γ is found by bisection).
    """

    def _furthest(self, honest: Vector, against: Vector) -> float:
        offsets = mean_of(honest) - honest
        slopes = offsets @ against
        room = squared_distances(honest).max() - np.square(offsets).sum(axis=1)
        return float((slopes + np.sqrt(np.square(slopes) + np.maximum(room, 0.0))).min())


@dataclass(frozen=True)
class MinSum(_FurthestWithin):
    """Send μ − γp, p by `direction`, with the largest γ that stays within honest sums of squares.

    Its squared distances to the honest vectors add up to at most the largest such sum of an honest
    vector (Shejwalkar and Houmansadr 2021, equation 4).
    """

    def _furthest(self, honest: Vector, against: Vector) -> float:
        room = squared_distances(honest).sum(axis=1).max()
        room -= np.square(honest - mean_of(honest)).sum()
        return float(np.sqrt(max(room, 0.0) / len(honest)))


@dataclass(frozen=True)
class Mimic(Omniscient):
    """Send a copy of one honest vector, which over-represents it (Karimireddy, He, Jaggi 2022).

    It is the one furthest from the mean along the direction of the largest variance in this round;
    the source tracks that direction over the rounds.
    """

    def _vector(self, honest: Vector, knowledge: Knowledge) -> Vector:
        left, _, _ = np.linalg.svd(honest - mean_of(honest), full_matrices=False)
        along = np.abs(left[:, 0])
        # Two vectors may be equally far up to rounding: take the first of them.
        return np.copy(honest[int(np.argmax(along >= along.max() * (1 - 1e-9)))])
