"""All-knowing attacks that are aimed at one rule, or at whatever rule the server has."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, get_args

import numpy as np

from .attack import Knowledge, Vector, check_choice, check_finite
from .omniscient import (
    AllKnowing,
    Direction,
    direction_against,
    mean_of,
    squared_distances,
    standard_deviation,
)

_LEAST_LAMBDA = 1e-5  # the source gives up below it


@dataclass(frozen=True)
class FangTrimmedMean(AllKnowing):
    """Send numbers just beyond the honest extremes, against the mean's sign (Fang et al. 2020).

    Where the mean of a coordinate is positive, a number between its honest minimum and that minimum
    moved down by the factor b; else between its maximum and that moved up. Each colluder draws its
    own. Made against the trimmed mean and the coordinatewise median (section 4.3).

    Parameters
    ----------
    factor : float, default 2.0
        b > 1.
    """

    common: ClassVar[bool] = False
    factor: float = 2.0

    def __post_init__(self) -> None:
        check_finite("factor", self.factor)
        if self.factor <= 1:
            raise ValueError(f"factor must be greater than 1, got {self.factor}")

    def __call__(self, knowledge: Knowledge) -> Vector:
        """Return a number beyond the extreme in every coordinate."""
        honest = self.honest(knowledge)
        is_positive = mean_of(honest) > 0
        extreme: Vector = np.where(is_positive, honest.min(axis=0), honest.max(axis=0))
        divides = (extreme > 0) == is_positive  # to multiply would move it inwards
        moved = np.where(divides, extreme / self.factor, extreme * self.factor)
        return extreme + knowledge.rng.random(len(extreme)) * (moved - extreme)


@dataclass(frozen=True)
class FangKrum(AllKnowing):
    """Send −λ·sign(μ), λ the largest of a halving sequence that Krum still picks.

    From the bound of Fang, Cao, Jia and Gong 2020 (section 4.2) on, λ is halved until the vector
    of the colluders has the smallest Krum score; below 1e-5 the search ends, picked or not.
    """

    def __call__(self, knowledge: Knowledge) -> Vector:
        """Return −λ·sign(μ)."""
        honest, q = self.honest(knowledge), knowledge.num_byzantine
        num_closest = max(len(honest) - 2, 1)  # m − q − 2 of Krum
        signs = np.sign(mean_of(honest))
        dim = max(len(signs), 1)
        among = np.sort(squared_distances(honest), axis=1)
        nearest = among[:, 1 : max(len(honest) - 1, 2)].sum(axis=1).min()
        bound = np.sqrt(nearest / (max(len(honest) - q - 1, 1) * dim))
        bound += np.linalg.norm(honest, axis=1).max() / np.sqrt(dim)
        scale = float(bound)
        while scale >= _LEAST_LAMBDA and not _picked(-scale * signs, honest, q, num_closest):
            scale /= 2
        return -scale * signs


def _picked(vector: Vector, honest: Vector, q: int, num_closest: int) -> bool:
    """Say whether Krum picks one of q copies of a vector among the honest ones."""
    everyone = np.concatenate([np.tile(vector, (q, 1)), honest])
    closest = np.sort(squared_distances(everyone), axis=1)[:, 1 : num_closest + 1]
    scores = closest.sum(axis=1)
    return bool(scores[0] < scores[q:].min())


@dataclass(frozen=True)
class BatchTakeover(AllKnowing):
    """Make the mean of every batch that holds a colluder one vector t, aimed at medians of means.

    The colluders of a batch of size b send b·t less its honest vectors, divided among them. All
    batches taken over stand at t = μ − r·s·p/‖p‖, with s the typical distance of an honest batch
    mean from μ: near enough to be no outlier, and all on one side. The paper's adversary knows the
    grouping, too (section 1.2).

    Parameters
    ----------
    radius : float, default 2.0
        r ≥ 0.
    direction : {"mean", "spread", "sign"}, default "mean"
        p; see `direction_against`.
    """

    knows: ClassVar[frozenset[str]] = frozenset({"honest", "batches"})
    common: ClassVar[bool] = False
    radius: float = 2.0
    direction: Direction = "mean"

    def __post_init__(self) -> None:
        check_finite("radius", self.radius, least=0.0)
        check_choice("direction", self.direction, get_args(Direction))

    def target(self, knowledge: Knowledge) -> Vector:
        """Return t, (d,)."""
        honest, batches = self.honest(knowledge), knowledge.batches
        assert batches is not None
        against = direction_against(honest, self.direction)
        length = float(np.linalg.norm(against))
        typical = np.linalg.norm(standard_deviation(honest))
        typical *= np.sqrt(len(batches) / knowledge.num_clients)
        step = self.radius * typical / length if length > 0.0 else 0.0
        return mean_of(honest) - step * against

    def __call__(self, knowledge: Knowledge) -> Vector:
        """Return this colluder's share of what takes its batch to t."""
        target, honest = self.target(knowledge), self.honest(knowledge)
        assert knowledge.batches is not None
        colluders = set(knowledge.byzantine)
        honest_clients = (c for c in range(knowledge.num_clients) if c not in colluders)
        vectors = dict(zip(honest_clients, honest, strict=True))
        (batch,) = (batch for batch in knowledge.batches if knowledge.client in batch)
        others = sum((vectors[c] for c in batch if c in vectors), np.zeros_like(target))
        return (len(batch) * target - others) / len(colluders.intersection(batch))


@dataclass(frozen=True)
class Adaptive(AllKnowing):
    """Send μ − s·p with the direction and the scale that do the most harm to the server's own rule.

    Harm is ‖rule(all vectors) − μ‖. The scales of each direction are first a geometric sequence
    between a hundredth and a thousand times the typical distance of an honest vector from μ, then
    closer and closer to the best (cf. Shejwalkar and Houmansadr 2021, and the optimised attacks of
    El-Mhamdi, Guerraoui, Rouault 2018).

    Parameters
    ----------
    budget : int, default 48
        How often the rule may be tried, at least 6.
    """

    knows: ClassVar[frozenset[str]] = frozenset({"honest", "rule"})
    budget: int = 48

    def __post_init__(self) -> None:
        if self.budget < 6:
            raise ValueError(f"budget must be at least 6, got {self.budget}")

    def __call__(self, knowledge: Knowledge) -> Vector:
        """Return the vector that moved the aggregate furthest from μ."""
        honest = self.honest(knowledge)
        rule = knowledge.rule
        assert rule is not None
        mean = mean_of(honest)
        everyone = np.empty((knowledge.num_clients, len(mean)))
        colluders = sorted(knowledge.byzantine)
        everyone[np.setdiff1d(np.arange(knowledge.num_clients), colluders)] = honest
        typical = float(np.linalg.norm(standard_deviation(honest)))

        def harm(scale: float, unit: Vector) -> float:
            everyone[colluders] = mean - scale * unit
            moved = float(np.linalg.norm(rule(everyone) - mean))
            return moved if np.isfinite(moved) else float("inf")

        best, most = mean, -1.0
        for direction in get_args(Direction):
            against = direction_against(honest, direction)
            length = float(np.linalg.norm(against))
            if length == 0.0:
                continue
            unit = against * ((typical if typical > 0.0 else 1.0) / length)
            scale, moved = _best_scale(partial(harm, unit=unit), self.budget // 3)
            if moved > most:
                best, most = mean - scale * unit, moved
        return best


def _best_scale(harm: Callable[[float], float], budget: int) -> tuple[float, float]:
    """Search the logarithm of the scale coarsely, then by halves around the best; maximise."""
    logs = np.linspace(-2.0, 3.0, max(budget // 2, 2)).tolist()
    tried = {log: harm(10.0**log) for log in logs}
    width = logs[1] - logs[0]
    while len(tried) + 2 <= budget:
        width /= 2
        centre = max(tried, key=tried.__getitem__)
        for log in (centre - width, centre + width):
            tried[log] = harm(10.0**log)
    best = max(tried, key=tried.__getitem__)
    return 10.0**best, tried[best]
