"""The paper's Algorithm 2 on linear regression against an adversary that knows θ*."""

from collections.abc import Callable
from functools import partial
from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from clients.summarized_regression import SummarizedRegression, summaries
from flwr_byz.aggregation import geometric_median, geometric_median_of_means

Array = NDArray[np.float64]
Aggregate = Callable[[Array, Array], Array]
"""Maps batch means (t, k, d) and directions away from θ* (t, d) to aggregates (t, d)."""

_AT_ONCE = 500
_MOST_STEPS = 30
_TINY = 1e-300  # a distance that is not zero
_RIDGE = 1e-9  # of a curvature, which is singular where points are collinear
_RESIDUAL = 1e-9  # of a median: the length of the mean unit vector


def root_mean_square(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the root mean square of two values or more, and its standard error."""
    squares = np.square(values)
    mean = float(squares.mean())
    return sqrt(mean), float(squares.std(ddof=1)) / sqrt(len(squares) * mean) / 2


def of_means(means: Array, away: Array) -> Array:
    """Return the geometric medians of t sets of k means (t, k, d), whatever is `away`."""
    return medians(means)


def as_built(trim_norm: float = inf, gamma: float = 1e-9) -> Aggregate:
    """Return this package's own rule, without the number of Byzantine clients."""
    longest = None if trim_norm == inf else trim_norm
    rule = partial(geometric_median_of_means, trim_norm=longest, gamma=gamma)
    return lambda means, away: np.stack([rule(each, len(each)).point for each in means])


def trainings(
    *,
    count: int,
    num_batches: int,
    num_byzantine: int,
    batch_samples: int,
    dim: int,
    rounds: int,
    distance: float,
    seed: int,
    reach: float = 1e6,
    step: float = 1.0,
    aggregate: Aggregate = of_means,
) -> Array:
    """Run Algorithm 2 many times, hundreds at once, and return ‖θt − θ*‖ of each training.

    Data are those of the paper's section 4: y = ⟨w, θ*⟩ + ζ with w ~ N(0, I) and ζ ~ N(0, 1), drawn
    by the batches' sufficient statistics. In each round the q batches that would bring the model
    nearest to θ* are taken to where they push it straight away from θ*.

    Parameters
    ----------
    count : int
        Number of trainings.
    num_batches, num_byzantine, dim, rounds : int
        k, q ≤ k, d, and rounds.
    batch_samples : int
        N/k ≥ d.
    distance : float
        ‖θ0 − θ*‖ > 0, in a random direction.
    seed : int
        Of data and starts.
    reach : float
        The norm of a Byzantine batch's mean.
    step : float
        η.
    aggregate : callable, optional
        The rule, by default the geometric median.

    Returns
    -------
    ndarray (count, rounds + 1), float64
        Before and after each round.
    """
    parts = []
    for first in range(0, count, _AT_ONCE):
        size = min(_AT_ONCE, count - first)
        rng = np.random.default_rng([seed, first])
        hessians, offsets = batches(size * num_batches, batch_samples, dim, seed + first)
        hessians = hessians.reshape(size, num_batches, dim, dim)
        offsets = offsets.reshape(size, num_batches, dim)
        from_optimum = rng.normal(size=(size, dim))
        from_optimum *= distance / np.linalg.norm(from_optimum, axis=1, keepdims=True)
        followed = descend(
            from_optimum,
            hessians=hessians,
            offsets=offsets,
            num_byzantine=num_byzantine,
            rounds=rounds,
            step=step,
            reach=reach,
            aggregate=aggregate,
        )
        parts.append(np.linalg.norm(followed, axis=2).T)
    return np.concatenate(parts)


def descend(
    errors: Array,
    *,
    hessians: Array,
    offsets: Array,
    num_byzantine: int,
    rounds: int,
    step: float,
    reach: float = 1e6,
    curvatures: Array | float = 1.0,
    aggregate: Aggregate = of_means,
) -> Array:
    """Follow t trainings, in whose rounds the adversary takes the q batches that gain it most.

    Parameters
    ----------
    errors : ndarray (t, d)
        θ0 − θ* ≠ 0 of each.
    hessians, offsets : ndarray (t, k, d, d) and (t, k, d)
        Ĥ and ĝ of the batches, whose means are Ĥ(θ − θ*) − ĝ.
    num_byzantine, rounds : int
        q and the number of rounds.
    step, reach : float
        η, and the norm of a Byzantine batch's mean.
    curvatures : float or ndarray (d,), optional
        The eigenvalues of H, along the axes: Byzantine means push along H⁻¹(θ − θ*).
    aggregate : callable, optional
        The rule, by default the geometric median.

    Returns
    -------
    ndarray (rounds + 1, t, d)
        θ − θ* before and after each round.
    """
    found = [errors]
    for _ in range(rounds):
        means = (hessians @ found[-1][:, None, :, None])[..., 0] - offsets
        away = -found[-1] / curvatures
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        pushes = np.einsum("tkd,td->tk", means, away)
        taken = np.argsort(pushes, axis=1)[:, :num_byzantine, None]
        np.put_along_axis(means, taken, reach * away[:, None], axis=1)
        found.append(found[-1] - step * aggregate(means, away))
    return np.stack(found)


def batches(count: int, samples: int, dim: int, seed: int) -> tuple[Array, Array]:
    """Draw batches' Hessians Ĥ (count, d, d) and the deviations ĝ (count, d) at θ*."""
    problem = SummarizedRegression(count, samples, dim, seed)
    return summaries(problem)[1:]


def medians(points: Array, kept: NDArray[np.bool_] | None = None) -> Array:
    """Return the geometric medians (t, d) of t sets of points (t, k, d), by Newton's method.

    Where a step makes the residual longer, it is Weiszfeld's. The few medians that do not come
    below a residual of 1e-9, such as those at a point, are `geometric_median`'s. Only the points
    of each set that are `kept` (t, k) count, all by default, and one at least.
    """
    kept = np.ones(points.shape[:2], dtype=np.bool_) if kept is None else kept
    mass = kept / kept.sum(axis=1, keepdims=True)
    ordered = np.sort(np.where(kept[..., None], points, np.inf), axis=1)
    middle = (kept.sum(axis=1) - 1) // 2
    at = ordered[np.arange(len(points)), middle]
    if points.shape[2] == 1:
        return at
    pull, curvature, weight = _pulls(points, mass, at)
    for _ in range(_MOST_STEPS):
        residual = np.linalg.norm(pull, axis=1)
        if residual.max() <= _RESIDUAL:
            break
        tried = at + np.linalg.solve(curvature, pull[..., None])[..., 0]
        found = _pulls(points, mass, tried)
        worse = ~(np.linalg.norm(found[0], axis=1) <= residual)
        at = np.where(worse[:, None], at + pull / weight[:, None], tried)
        pull, curvature, weight = _pulls(points, mass, at) if worse.any() else found
    for place in np.flatnonzero(~(np.linalg.norm(pull, axis=1) <= _RESIDUAL)):
        at[place] = geometric_median(points[place][kept[place]]).point
    return at


def _pulls(points: Array, mass: Array, at: Array) -> tuple[Array, Array, Array]:
    """Return the mean unit vectors from `at` to the points, their derivatives and weights."""
    units = points - at[:, None]
    distances = np.maximum(np.linalg.norm(units, axis=2), _TINY)
    units /= distances[..., None]
    inverse = mass / distances
    weight = inverse.sum(axis=1)
    curvature = (1 + _RIDGE) * weight[:, None, None] * np.eye(points.shape[2])
    curvature -= (units * inverse[..., None]).transpose(0, 2, 1) @ units
    return (mass[:, None] @ units)[:, 0], curvature, weight
