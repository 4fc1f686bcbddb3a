"""Numbers with their 95 % intervals, from the runs alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

Array = NDArray[np.float64]
_RESAMPLES = 2000
_SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A number, its 95 % interval, and how many runs are behind it."""

    value: float
    low: float
    high: float
    num_runs: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]".replace("-", "−")

    def within(self, low: float, high: float) -> bool:
        """Whether the whole interval lies between two numbers."""
        return low <= self.low and self.high <= high


def estimate(samples: Sequence[Array], statistic: Callable[[Array], Array]) -> Estimate:
    """Estimate a statistic of the cells' means by the bootstrap (percentiles).

    Parameters
    ----------
    samples : sequence of c arrays (runs,)
        A number of each run, cell by cell. Runs are drawn anew within their cell.
    statistic : callable
        Maps means (…, c) to numbers (…).
    """
    rng = np.random.default_rng(_SEED)
    means = [
        sample[rng.integers(len(sample), size=(_RESAMPLES, len(sample)))].mean(axis=1)
        for sample in samples
    ]
    low, high = np.quantile(statistic(np.stack(means, axis=-1)), [0.025, 0.975])
    value = statistic(np.array([sample.mean() for sample in samples]))
    return Estimate(float(value), float(low), float(high), sum(map(len, samples)))


def slope(along: ArrayLike) -> Callable[[Array], Array]:
    """Return the statistic: slope of log mean against log `along`, by least squares."""
    x = np.log(np.asarray(along, np.float64))
    weights = (x - x.mean()) / np.square(x - x.mean()).sum()
    return lambda means: np.log(means) @ weights


def determination(along: ArrayLike) -> Callable[[Array], Array]:
    """Return the statistic: R² of the means as a straight line in `along`."""
    x = np.asarray(along, np.float64)
    x = x - x.mean()

    def squared_correlation(means: Array) -> Array:
        y = means - means.mean(axis=-1, keepdims=True)
        share: Array = np.square(y @ x) / (np.square(x).sum() * np.square(y).sum(axis=-1))
        return share

    return squared_correlation


def ratio(means: Array) -> Array:
    """Return the statistic: first mean over second."""
    return np.asarray(means[..., 0] / means[..., 1])


def share(hits: int, num_runs: int) -> Estimate:
    """Estimate a probability, with the exact interval of Clopper and Pearson."""
    interval = binomtest(hits, num_runs).proportion_ci(method="exact")
    return Estimate(hits / num_runs, float(interval.low), float(interval.high), num_runs)


def rounds_until(errors: Array, level: float) -> Array:
    """Return the first round of each run with an error of at most `level`; infinity for none."""
    there = errors <= level
    return np.where(there.any(axis=1), there.argmax(axis=1), np.inf)


def contractions(errors: Array) -> Array:
    """Return each run's factor of a round, on average until twice the error it ends at."""
    rounds = np.array([rounds_until(run[None], 2 * run[-1])[0] for run in errors])
    rounds = np.maximum(rounds, 1).astype(np.intp)
    reached = errors[np.arange(len(errors)), rounds]
    return np.asarray((reached / errors[:, 0]) ** (1 / rounds))
