"""The paper's Algorithm 2 on linear regression against an adversary that knows θ*."""

from collections.abc import Callable
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from clients.summarized_regression import SummarizedRegression, summaries
from flwr_byz.aggregation import geometric_median, geometric_median_of_means, split_into_batches
from flwr_byz.aggregation.pre_aggregation import TrimNorm

Array = NDArray[np.float64]
Aggregate = Callable[[Array, Array], Array]
"""Maps batch means (t, k, d) and directions away from θ* (t, d) to aggregates (t, d)."""

_AT_ONCE = 500
_MOST_STEPS = 30
_TINY = 1e-300  # a distance that is not zero
_RIDGE = 1e-9  # of a curvature, which is singular where points are collinear
_RESIDUAL = 1e-9  # of a median: the length of the mean unit vector


def descend(
    *,
    num_clients: int,
    num_byzantine: int,
    num_batches: int,
    samples_per_client: int,
    dim: int,
    rounds: int,
    distance: float,
    reach: float,
    seed: int,
    step: float = 0.5,
    trim_norm: TrimNorm = None,
    gamma: float = 1e-9,
) -> NDArray[np.float64]:
    """Run Algorithm 2 and return ‖θt − θ*‖ before and after each round.

    Data are those of the paper's section 4: y = ⟨w, θ*⟩ + ζ with w ~ N(0, I) and ζ ~ N(0, 1). In
    each round one client is Byzantine in each of the q batches that would bring the model nearest
    to θ*. It takes the mean of its batch to where that pushes the model straight away from θ*, at a
    norm of `reach`.

    Parameters
    ----------
    num_clients, num_byzantine, num_batches, samples_per_client, dim : int
        m, q ≤ k, k, N/m and d.
    rounds : int
    distance : float
        ‖θ0 − θ*‖ > 0, in a random direction.
    reach : float
        The norm of a Byzantine batch's mean.
    seed : int
        Of data and start.
    step : float, default 0.5
        η; by default L/(2M²) with L = M = 1.
    trim_norm, gamma
        Of the rule; see `flwr_byz.aggregation.geometric_median_of_means`.

    Returns
    -------
    ndarray (rounds + 1,), float64
    """
    rng = np.random.default_rng(seed)
    hessians = np.empty((num_clients, dim, dim))
    offsets = np.empty((num_clients, dim))
    for client in range(num_clients):
        features = rng.normal(size=(samples_per_client, dim))
        noise = rng.normal(size=samples_per_client)
        hessians[client] = features.T @ features / samples_per_client
        offsets[client] = features.T @ noise / samples_per_client
    from_optimum = rng.normal(size=dim)
    from_optimum *= distance / np.linalg.norm(from_optimum)
    batches = [list(batch) for batch in split_into_batches(range(num_clients), num_batches)]
    errors = [distance]
    for _ in range(rounds):
        gradients = hessians @ from_optimum - offsets
        away = -from_optimum / errors[-1]
        pushes = [gradients[batch].mean(axis=0) @ away for batch in batches]
        for taken in np.argsort(pushes)[:num_byzantine]:
            first, *others = batches[taken]
            target = len(batches[taken]) * reach * away
            gradients[first] = target - gradients[others].sum(axis=0)
        aggregate = geometric_median_of_means(
            gradients, num_batches, trim_norm=trim_norm, gamma=gamma
        ).point
        from_optimum = from_optimum - step * aggregate
        errors.append(float(np.linalg.norm(from_optimum)))
    return np.array(errors)


def root_mean_square(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the root mean square of two values or more, and its standard error."""
    squares = np.square(values)
    mean = float(squares.mean())
    return sqrt(mean), float(squares.std(ddof=1)) / sqrt(len(squares) * mean) / 2


def medians_of_means(means: Array, away: Array) -> Array:
    """Return the geometric medians of t sets of k points (t, k, d), whatever is `away`."""
    return medians(means)


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
    aggregate: Aggregate = medians_of_means,
) -> Array:
    """Run many trainings such as `descend` does, hundreds at once; return the errors of each.

    Batches are drawn by their sufficient statistics, which a batch mean depends on alone.

    Parameters
    ----------
    count : int
        Number of trainings.
    batch_samples : int
        N/k ≥ d.
    aggregate : callable, optional
        The rule, by default the geometric median.
    num_batches, num_byzantine, dim, rounds, distance, seed, reach, step
        As of `descend`.

    Returns
    -------
    ndarray (count, rounds + 1), float64
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
        errors = [np.full(size, distance)]
        for _ in range(rounds):
            means = (hessians @ from_optimum[:, None, :, None])[..., 0] - offsets
            away = -from_optimum / errors[-1][:, None]
            pushes = np.einsum("tkd,td->tk", means, away)
            taken = np.argsort(pushes, axis=1)[:, :num_byzantine, None]
            np.put_along_axis(means, taken, reach * away[:, None], axis=1)
            from_optimum = from_optimum - step * aggregate(means, away)
            errors.append(np.linalg.norm(from_optimum, axis=1))
        parts.append(np.stack(errors, axis=1))
    return np.concatenate(parts)


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
