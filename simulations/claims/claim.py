"""What a claim is: where it stands, and its judge."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from clients.problem import make_problem
from clients.rules import batches_of
from flwr_byz.aggregation import split_into_batches

from .statistics import Array, Estimate, estimate, geometric_mean, ratio

AWAY = "AwayFromTruth"


@dataclass(frozen=True)
class Number:
    """A measured number, what it should be, and whether it is.

    Attributes
    ----------
    label, value, wanted : str
    holds : bool or None
        None: for information.
    where : str
        The part of the range tried in which it holds, as "up to q = 7"; empty for all of it.
    """

    label: str
    value: str
    wanted: str = ""
    holds: bool | None = None
    where: str = ""

    @property
    def verdict(self) -> str:
        """Whether it holds, and where; empty for information."""
        if self.holds is None:
            return ""
        return f"holds {self.where}".rstrip() if self.holds else "does not hold"


def at_most(label: str, value: float, limit: float, digits: int = 3) -> Number:
    """Compare a number with its largest."""
    return Number(label, f"{value:.{digits}f}", f"at most {limit:.4g}", bool(value <= limit))


def at_least(label: str, value: float, limit: float) -> Number:
    """Compare a number with its least."""
    return Number(label, f"{value:.0f}", f"at least {limit:g}", bool(value >= limit))


def boundary(label: str, held: Mapping[Hashable, bool], where: str, wanted: str = "") -> Number:
    """Say how far a claim holds along a range.

    Parameters
    ----------
    label, wanted : str
        Of the number.
    held : mapping
        From each place of the range to whether it holds there; it counts up to the first place at
        which it does not.
    where : str
        The boundary, with {} for the last place of those, as ``"up to q = {}"``.
    """
    first_failure = next((number for number, each in enumerate(held.values()) if not each), None)
    if first_failure is None:
        return Number(label, f"all of {len(held)}", wanted, True)
    if first_failure == 0:
        return Number(label, f"not {where.format(next(iter(held)))}", wanted, False)
    found = where.format(list(held)[first_failure - 1])
    return Number(label, found, wanted, True, found)


def joint_verdict(numbers: Sequence[Number]) -> str:
    """Join the verdicts of numbers: one that does not hold is enough; boundaries add up."""
    if any(number.holds is False for number in numbers):
        return "does not hold"
    boundaries = dict.fromkeys(number.where for number in numbers if number.where)
    return f"holds {', '.join(boundaries)}".rstrip()


Judge = Callable[[pd.DataFrame, Figure], list[Number]]


@dataclass(frozen=True)
class Claim:
    """A claim, the runs of its name that try it, and its judge.

    Attributes
    ----------
    name : str
        Runs of it are called so, or so with ":" and more.
    title, source, says, setting : str
    judge : callable
        Draws into the figure and returns the numbers, from the runs as `with_sizes` gives them.
    in_parts : bool, default False
        Whether each number is judged alone: its label up to a ":" names the part.
    """

    name: str
    title: str
    source: str
    says: str
    setting: str
    judge: Judge
    in_parts: bool = False

    def runs(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the claim's rows."""
        return frame[frame.name.str.partition(":")[0] == self.name]


def with_sizes(frame: pd.DataFrame) -> pd.DataFrame:
    """Add to runs of regressions q, k, n, d and N = mn."""
    m, q = frame.num_clients, frame.num_byzantine
    problems = [make_problem(*each, seed=0) for each in zip(frame.problem, m, strict=True)]
    sized = frame.assign(
        q=q,
        k=[batches_of(*each) for each in zip(frame.rule, m, q, strict=True)],
        n=[problem.samples_per_client for problem in problems],  # type: ignore[attr-defined]
        d=[problem.dim for problem in problems],  # type: ignore[attr-defined]
    )
    return sized.assign(N=m * sized.n)


def by(runs: pd.DataFrame, column: str) -> dict[Hashable, pd.DataFrame]:
    """Part runs by a column, in the order of its values."""
    return dict(iter(runs.groupby(column)))


def errors(runs: pd.DataFrame) -> Array:
    """Return the errors of each run, (runs, rounds + 1)."""
    return np.array(runs["values"].tolist())


def beside(runs: pd.DataFrame, others: pd.DataFrame) -> Estimate:
    """Estimate the mean final error of runs over that of others."""
    return estimate([runs.final, others.final], ratio)


def paired(runs: pd.DataFrame, others: pd.DataFrame) -> Estimate:
    """Estimate the geometric mean of runs' final errors over those of others with the same data.

    Runs of one seed have the same data whatever q is, and count as one.
    """
    keys = ["q", "n", "seed"]
    ratios = runs.set_index(keys).final / others.set_index(keys).final
    return estimate([np.log(ratios.dropna()).groupby(["n", "seed"]).mean()], geometric_mean)


def with_radius(runs: pd.DataFrame) -> pd.DataFrame:
    """Add the largest ‖Z(θ*)‖ of the k batches, all clients honest: the r of Lemma 1 at θ*.

    Whichever batches are Byzantine, the means of the others are as near to the true gradient.
    """
    keys = zip(runs.problem, runs.num_clients, runs.k, runs.seed, strict=True)
    return runs.assign(radius=[_radius(*each) for each in keys])


@lru_cache(maxsize=4096)
def _radius(text: str, num_clients: int, num_batches: int, seed: int) -> float:
    problem = make_problem(text, num_clients, seed)
    optimum = [problem.optimum()]  # type: ignore[attr-defined]
    gradients = np.stack([problem.reply(c, optimum, 1)[0][0] for c in range(num_clients)])
    batches = split_into_batches(range(num_clients), num_batches)
    return max(float(np.linalg.norm(gradients[list(batch)].mean(axis=0))) for batch in batches)


def at_most_one(label: str, floor: Estimate) -> Number:
    """Compare floors: the first must not be the larger one."""
    return Number(label, str(floor), "at most 1", floor.high <= 1)
