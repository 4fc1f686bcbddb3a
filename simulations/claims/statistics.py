"""Numbers with their 95 % intervals, from the runs alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, bootstrap, linregress

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]


@dataclass(frozen=True)
class Estimate:
    """A number, its 95 % interval, and how many runs are behind it."""

    value: float
    low: float
    high: float
    num_runs: int

    def __str__(self) -> str:
        return self.with_digits(3)

    def with_digits(self, digits: int) -> str:
        """Write down number and interval with so many decimals."""
        value, low, high = (f"{v:.{digits}f}" for v in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]".replace("-", "−")

    def within(self, low: float, high: float) -> bool:
        """Whether the whole interval lies between two numbers."""
        return low <= self.low and self.high <= high


def estimate(samples: Sequence[ArrayLike], statistic: Statistic) -> Estimate:
    """Estimate a statistic of the cells' means by the bootstrap (percentiles).

    Parameters
    ----------
    samples : sequence of c arrays (runs,)
        A number of each run, cell by cell. Runs are drawn anew within their cell; a cell of one run
        gives no interval.
    statistic : callable
        Maps means (…, c) to numbers (…).
    """
    samples = [np.asarray(sample, np.float64) for sample in samples]

    def of_runs(*drawn: Array, axis: int = -1) -> Array:
        return statistic(np.stack([runs.mean(axis=axis) for runs in drawn], axis=-1))

    value, num_runs = float(of_runs(*samples)), sum(map(len, samples))
    if min(map(len, samples)) < 2:
        return Estimate(value, math.nan, math.nan, num_runs)
    found = bootstrap(samples, of_runs, n_resamples=2000, method="percentile", rng=0)
    low, high = found.confidence_interval
    return Estimate(value, float(low), float(high), num_runs)


def share(hits: Sequence[bool]) -> Estimate:
    """Estimate a probability, with the exact interval of Clopper and Pearson."""
    number = int(np.sum(hits))
    interval = binomtest(number, len(hits)).proportion_ci(method="exact")
    return Estimate(number / len(hits), float(interval.low), float(interval.high), len(hits))


def slope(along: ArrayLike) -> Statistic:
    """Return the statistic: slope of log mean against log `along`, by least squares."""
    x = np.log(np.asarray(along, np.float64))
    return lambda means: _line(x, np.log(means)).slope


def determination(along: ArrayLike) -> Statistic:
    """Return the statistic: R² of the means as a straight line in `along`."""
    x = np.asarray(along, np.float64)
    return lambda means: _line(x, means).rvalue ** 2


def _line(x: Array, y: Array):  # type: ignore[no-untyped-def]
    return linregress(np.broadcast_to(x, y.shape), y, axis=-1)


def mean(means: Array) -> Array:
    """Return the statistic: the mean of the only cell."""
    return means[..., 0]


def geometric_mean(means: Array) -> Array:
    """Return the statistic: the geometric mean of the only cell, from the logarithms."""
    return np.exp(means[..., 0])


def ratio(means: Array) -> Array:
    """Return the statistic: first mean over second."""
    return means[..., 0] / means[..., 1]


def rounds_until(errors: Array, level: float) -> Array:
    """Return the first round of each run with an error of at most `level`; infinity for none."""
    there = errors <= level
    return np.where(there.any(axis=1), there.argmax(axis=1), np.inf)


def contractions(errors: Array) -> Array:
    """Return each run's factor of a round, on average until twice the error it ends at."""
    rounds = np.maximum((errors <= 2 * errors[:, -1:]).argmax(axis=1), 1)
    reached = errors[np.arange(len(errors)), rounds]
    return np.asarray((reached / errors[:, 0]) ** (1 / rounds))
