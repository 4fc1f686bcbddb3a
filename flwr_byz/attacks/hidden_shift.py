"""An attack on rules that look at the covariance of the replies, such as a spectral filter."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import inf, sqrt
from operator import itemgetter
from typing import ClassVar, Literal, get_args

import numpy as np

from ..checks import check_choice
from .attack import Knowledge, Vector, number
from .defense_aware import most_harmful
from .omniscient import Omniscient, mean_of

Harm = Literal["distance", "progress"]
Rule = Callable[[Vector], Vector]


@dataclass(frozen=True)
class HiddenShift(Omniscient):
    """Hide in the directions in which the honest vectors vary most, each colluder in one of them.

    Let λ_j, v_j be the eigenvalues and eigenvectors of the honest covariance, λ_1 the largest, each
    v_j turned towards the honest mean μ. A colluder among c in one place sends μ − s·√(λ_1·m/c)·p:
    with s = 1 these c add as much variance along p as the honest vectors have along v_1, so that
    with s < 1 a filter that follows the largest variance sees honest vectors first. Tried are the
    colluders shared out over p = v_1 … v_r; all of them at p = (v_1 + … + v_r)/√r, for r = 1, 2, 4,
    … ≤ q; and all at p along Σμ, the direction against μ in which the honest covariance Σ hides
    most. The server's rule is evaluated at most `budget` ≥ 8 times, or four times for each place
    where that is more, and what does most `harm` is sent: "distance" is ‖rule(all vectors) − μ‖,
    "progress" what is lost along μ.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"honest", "rule"})
    common: ClassVar[bool] = False
    budget: int = number(48, least=8)
    harm: Harm = "progress"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("harm", self.harm, get_args(Harm))

    def _vector(self, honest: Vector, knowledge: Knowledge) -> Vector:
        assert knowledge.rule is not None
        byzantine = tuple(knowledge.byzantine)
        given = honest.tobytes(), honest.shape, byzantine, knowledge.num_clients
        sent = _sent(self, *given, knowledge.rule)
        return np.asarray(sent[byzantine.index(knowledge.client)])


@lru_cache(maxsize=2)
def _sent(
    attack: HiddenShift,
    data: bytes,
    shape: tuple[int, int],
    byzantine: tuple[int, ...],
    num_clients: int,
    rule: Rule,
) -> Vector:
    """Return what the colluders send, (q, d): searched for once, whoever asks."""
    honest: Vector = np.frombuffer(data).reshape(shape)
    mean = mean_of(honest)
    centred = honest - mean
    everyone = np.empty((num_clients, len(mean)))
    everyone[np.setdiff1d(np.arange(num_clients), byzantine)] = honest
    along = mean / (float(np.linalg.norm(mean)) or 1.0)

    def harm(sent: Vector) -> float:
        everyone[list(byzantine)] = sent
        moved = rule(everyone) - mean
        size = float(np.linalg.norm(moved) if attack.harm == "distance" else -(moved @ along))
        return size if np.isfinite(size) else inf

    steps = [place @ centred for place in _places(centred, mean, len(byzantine), num_clients)]
    budget = max(attack.budget // len(steps), 4)
    found = [most_harmful(harm, mean, step, budget, (-1, 1)) for step in steps]
    return max(found, key=itemgetter(0))[1]


def _places(centred: Vector, mean: Vector, q: int, m: int) -> list[Vector]:
    """Return the steps of the colluders away from μ with s = 1, as weights of centred rows (q, n).

    Rows with no spread to hide in, or not finite as those of a lost model, leave them at μ.
    """
    products = centred @ centred.T
    if not np.isfinite(products).all():
        return [np.zeros((q, len(centred)))]
    eigenvalues, vectors = np.linalg.eigh(products)
    eigenvalues, vectors = eigenvalues[::-1], vectors[:, ::-1]
    rank = int(np.count_nonzero(eigenvalues > 1e-9 * max(eigenvalues[0], 0.0)))
    if rank == 0:
        return [np.zeros((q, len(centred)))]
    units = (vectors[:, :rank] / np.sqrt(eigenvalues[:rank])).T  # row j makes v_j of the rows
    units[(units @ centred) @ mean < 0] *= -1.0
    size = sqrt(float(eigenvalues[0]) / len(centred) * m)
    return list(_along(units, size, centred, mean, q))


def _along(units: Vector, size: float, centred: Vector, mean: Vector, q: int) -> Iterator[Vector]:
    r = 1
    while r <= min(q, len(units)):
        which = np.arange(q) % r
        yield size / np.sqrt(np.bincount(which))[which, None] * units[which]
        if r > 1:
            yield np.tile(size / sqrt(q * r) * units[:r].sum(axis=0), (q, 1))
        r *= 2
    hidden = centred @ mean
    length = float(np.linalg.norm(hidden @ centred))
    if length > 0.0:
        yield np.tile(size / sqrt(q) * hidden / length, (q, 1))
