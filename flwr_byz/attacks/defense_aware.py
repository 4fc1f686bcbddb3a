"""Attacks made against one rule, or against whichever rule the server uses."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, sqrt
from operator import itemgetter
from typing import ClassVar, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import wrong_kind, wrong_value
from .attack import Attack, Direction, Knowledge, Vector, number
from .omniscient import Omniscient, deviation_of, direction_against, mean_of, squared_distances


@dataclass(frozen=True, eq=False)
class ModelReplacement(Attack):
    """Send (m/η)(θ_target − θ), so that a mean steps to θ_target (Bagdasaryan et al. 2020).

    For gradients, send its opposite. θ_target = `target` is a vector (d,), or one number for every
    coordinate, and η = `server_learning_rate` > 0.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"model"})
    common: ClassVar[bool] = True
    target: ArrayLike = 0.0
    server_learning_rate: float = number(1.0, above=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        target, needed = np.asarray(self.target), "a finite number or vector"
        if target.dtype.kind not in "iuf":
            raise wrong_kind("target", needed, self.target)
        if not np.isfinite(target).all():
            raise wrong_value("target", needed, self.target)

    def __call__(self, knowledge: Knowledge) -> Vector:
        self.check_known(knowledge)
        assert knowledge.model is not None
        step: Vector = np.asarray(self.target, np.float64) - knowledge.model
        factor = knowledge.num_clients / self.server_learning_rate
        return -factor * step if knowledge.uses_gradients else factor * step


@dataclass(frozen=True)
class FangTrimmedMean(Omniscient):
    """Send numbers just beyond the honest extremes, on the side against the mean's sign.

    Where the honest mean of a coordinate is positive, each colluder draws its number between the
    honest minimum and that minimum moved down by a `factor` b > 1; otherwise between the maximum
    and the maximum moved up. Made against the trimmed mean and the coordinatewise median (Fang,
    Cao, Jia and Gong 2020, section 4.3).
    """

    common: ClassVar[bool] = False
    factor: float = number(2.0, above=1.0)

    def _vector(self, honest: Vector, knowledge: Knowledge) -> Vector:
        is_positive = mean_of(honest) > 0
        extreme: Vector = np.where(is_positive, honest.min(axis=0), honest.max(axis=0))
        divides = (extreme > 0) == is_positive  # a product would move it inwards
        moved = np.where(divides, extreme / self.factor, extreme * self.factor)
        return extreme + knowledge.rng.random(len(extreme)) * (moved - extreme)


@dataclass(frozen=True)
class FangKrum(Omniscient):
    """Send −λ·sign(μ), with λ halved until Krum picks the colluders' vector, or λ is below 1e-5.

    λ starts at the bound of Fang, Cao, Jia and Gong 2020 (section 4.2).
    """

    def _vector(self, honest: Vector, knowledge: Knowledge) -> Vector:
        q = knowledge.num_byzantine
        num_closest = max(len(honest) - 2, 1)  # m − q − 2 of Krum
        signs = np.sign(mean_of(honest))
        dim = max(len(signs), 1)
        nearest = _krum_scores(honest, num_closest).min()
        scale = float(np.sqrt(nearest / (max(len(honest) - q - 1, 1) * dim)))
        scale += float(np.linalg.norm(honest, axis=1).max() / np.sqrt(dim))
        while 1e-5 <= scale < inf:
            everyone = np.concatenate([np.tile(-scale * signs, (q, 1)), honest])
            scores = _krum_scores(everyone, num_closest)
            if scores[0] < scores[q:].min():
                break
            scale /= 2
        return -scale * signs


def _krum_scores(vectors: Vector, num_closest: int) -> Vector:
    """Return the sum of the squared distances from each vector to its closest ones, (n,)."""
    distances = np.sort(squared_distances(vectors), axis=1)
    return np.asarray(distances[:, 1 : num_closest + 1].sum(axis=1))


@dataclass(frozen=True)
class BatchTakeover(Omniscient):
    """Move the mean of every batch that holds a colluder to one vector t, against medians of means.

    The colluders of a batch of size b share b·t minus the sum of its honest vectors. All these
    batch means are t = μ − r·s·p, with r = `radius` ≥ 0, p by `direction` (see `direction_against`)
    and s the typical distance of an honest batch mean from μ: too near to be outliers, and all on
    one side. The adversary of the paper knows the batches, too (section 1.2).
    """

    requires: ClassVar[frozenset[str]] = frozenset({"honest", "batches"})
    common: ClassVar[bool] = False
    radius: float = number(2.0, least=0.0)
    direction: Direction = "mean"

    def target(self, knowledge: Knowledge) -> Vector:
        """Return t, (d,)."""
        self.check_known(knowledge)
        honest, batches = knowledge.honest, knowledge.batches
        assert honest is not None
        assert batches is not None
        typical = np.linalg.norm(deviation_of(honest))
        step = self.radius * float(typical) * sqrt(len(batches) / knowledge.num_clients)
        return mean_of(honest) - step * direction_against(honest, self.direction)

    def _vector(self, honest: Vector, knowledge: Knowledge) -> Vector:
        assert knowledge.batches is not None
        (batch,) = (batch for batch in knowledge.batches if knowledge.client in batch)
        others: Vector = honest[np.isin(_honest_clients(knowledge), batch)].sum(axis=0)
        num_colluders = len(set(knowledge.byzantine).intersection(batch))
        return (len(batch) * self.target(knowledge) - others) / num_colluders


def _honest_clients(knowledge: Knowledge) -> NDArray[np.intp]:
    return np.setdiff1d(np.arange(knowledge.num_clients), knowledge.byzantine)


@dataclass(frozen=True)
class Adaptive(Omniscient):
    """Send μ − s·p with the direction p and the scale s that do most harm to the server's own rule.

    Harm is ‖rule(all vectors) − μ‖, and the rule is evaluated at most `budget` ≥ 6 times. In each
    direction the search tries a geometric sequence of scales, from a hundredth to a thousand times
    the typical distance of an honest vector from μ, then scales closer and closer to the best (cf.
    Shejwalkar and Houmansadr 2021, and El-Mhamdi, Guerraoui, Rouault 2018).
    """

    requires: ClassVar[frozenset[str]] = frozenset({"honest", "rule"})
    budget: int = number(48, least=6)

    def _vector(self, honest: Vector, knowledge: Knowledge) -> Vector:
        rule = knowledge.rule
        assert rule is not None
        mean = mean_of(honest)
        everyone = np.empty((knowledge.num_clients, len(mean)))
        everyone[_honest_clients(knowledge)] = honest

        def harm(vector: Vector) -> float:
            everyone[list(knowledge.byzantine)] = vector
            moved = float(np.linalg.norm(rule(everyone) - mean))
            return moved if np.isfinite(moved) else inf

        typical = float(np.linalg.norm(deviation_of(honest))) or 1.0
        steps = [typical * direction_against(honest, name) for name in get_args(Direction)]
        found = [most_harmful(harm, mean, step, self.budget // 3, (-2, 3)) for step in steps]
        return max(found, key=itemgetter(0))[1]


def most_harmful(
    harm: Callable[[Vector], float],
    mean: Vector,
    step: Vector,
    budget: int,
    within: tuple[float, float],
) -> tuple[float, Vector]:
    """Search the scale s of μ − s·step within powers of ten: most harm, and what does it.

    First coarsely in the logarithm, then in halved steps around the best.
    """
    logs = np.linspace(*within, max(budget // 2, 2)).tolist()
    tried = {log: harm(mean - 10.0**log * step) for log in logs}
    width = logs[1] - logs[0]
    while len(tried) + 2 <= budget:
        width /= 2
        centre = max(tried, key=tried.__getitem__)
        for log in (centre - width, centre + width):
            tried[log] = harm(mean - 10.0**log * step)
    best = max(tried, key=tried.__getitem__)
    return tried[best], mean - 10.0**best * step
