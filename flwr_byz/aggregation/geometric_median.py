"""The (1+γ)-approximate geometric median (the paper's equation 6), with a certificate."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._batch_means import BatchMeans, Block, Vector, find_centre
from ._coordinates import (
    central_row,
    coordinatewise_median,
    gram_coordinates,
    plain_coordinates,
    qr_coordinates,
)
from ._in_blocks import search
from ._minimise import (
    candidate_free_sets,
    certified_gap,
    met_points,
    minimise,
    pulls,
    remaining_force,
)
from ._vectors import (
    Vectors,
    as_vectors,
    block,
    check_finite,
    column_blocks,
    norms,
    power_of_two_scale,
)

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_UNIT = float(np.finfo(np.float64).eps)
_ROUNDING = 16 * _UNIT
_FAR = 2.0**40  # times as far as most of the mass
_SAFE = 2.0**-64  # distances of vectors that are scaled by it do not overflow


@dataclass(frozen=True, eq=False)
class GeometricMedian:
    """A point that nearly minimises the weighted sum of distances, and how near it is.

    Attributes
    ----------
    point : ndarray (d,), float64
        The approximate geometric median.
    objective : float
        Weighted sum of the distances from `point` to the points; for points in float32 from inner
        products in float32, with about six digits.
    gap : float
        Certified relative gap: the true objective at `point` is at most ``(1 + gap) * optimum``.
    weights : ndarray (n,), float64
        Nonnegative, sums to one: ``point`` is ``sum(weights[i] * points[i])`` to rounding.
    iterations : int
        Steps of the solver.
    """

    point: NDArray[np.float64]
    objective: float
    gap: float
    weights: NDArray[np.float64]
    iterations: int


def geometric_median(
    points: ArrayLike | Sequence[ArrayLike],
    weights: ArrayLike | None = None,
    *,
    gamma: float = 1e-9,
) -> GeometricMedian:
    """Compute a (1+γ)-approximate geometric median.

    It minimises ``sum(weights[i] * norm(z - points[i]))`` over z, to a certified relative gap of at
    most γ. Where the minimiser is not unique (collinear points) it is one of them. Up to half of
    the weight can be arbitrary without moving the median beyond C_α times the radius of the rest
    (the paper's Lemma 1).

    Parameters
    ----------
    points : array-like (n, d) or sequence of n equal-length vectors
        Real, finite, any float or integer dtype; n ≥ 1. An array (n, d) is read in place; float32
        points are worked on in float32 where that certifies γ, all others in float64.
    weights : array-like (n,), optional
        Nonnegative masses of the points, not all zero; equal by default.
    gamma : float, default 1e-9
        γ > 0, the gap that is asked for. Below about 1e-13 rounding decides, and the gap that is
        returned says what was reached.

    Returns
    -------
    GeometricMedian

    Raises
    ------
    ValueError
        Where a point is not finite, not real or of another length (the message names its row),
        where a weight is negative or not finite, or where γ is not positive.

    Notes
    -----
    The median is a convex combination of the points, so the search runs in at most n dimensions:
    on the Gram matrix (one pass over the data): Weiszfeld's fixed point and, where that crawls,
    Newton's method with a line search; for 200 points and more, Weiszfeld passes over the data
    where these are quick. Distances from the
    median, measured on the data where they are not float32, then certify it by the strong convexity
    of the objective. Where that is not to be had, because the median is one of the points, points
    lie on a line or cancellation spoiled the Gram matrix, weak duality certifies it in float64 in
    two more passes, if need be after another search on coordinates from a QR factorisation.
    """
    vectors = as_vectors(points, "points")
    check_gamma(gamma)
    mass = _as_mass(weights, len(vectors))
    heavy = np.flatnonzero(mass > 0)
    if len(heavy) < len(vectors):
        vectors = [vectors[int(i)] for i in heavy]
    share = mass[heavy] / mass.max()
    share /= share.sum()
    median = _fast(vectors, share, gamma)
    if median is None:
        check_finite(vectors, "points")
        median = careful_median(vectors, share, gamma)
    all_weights = np.zeros(len(mass))
    all_weights[heavy] = median.weights
    with np.errstate(over="ignore"):
        objective = float(np.float64(median.objective) * mass.sum())
    return replace(median, objective=objective, weights=all_weights)


def _fast(vectors: Vectors, mass: NDArray[np.float64], gamma: float) -> GeometricMedian | None:
    """Find the median in two or three passes; None where that does not certify it."""
    if len(vectors[0]) <= len(vectors):
        return None
    batches = [[(row,)] for row in vectors]
    if (
        all(row.dtype == _FLOAT32 for row in vectors)
        and find_centre(batches, _FLOAT32, None) is None
    ):
        median = _found(_in_place(vectors, batches, _FLOAT32, None), mass, gamma)
        if median is not None:
            return median
    centre = find_centre(batches, _FLOAT64, None)
    return _found(_in_place(vectors, batches, _FLOAT64, centre), mass, gamma)


def _in_place(
    vectors: Vectors,
    batches: list[list[tuple[NDArray[np.floating]]]],
    dtype: np.dtype[np.floating],
    centre: Vector | None,
) -> BatchMeans:
    """Return the vectors as batch means of one member each; an array of them is not copied."""
    if isinstance(vectors, np.ndarray) and vectors.dtype == dtype and centre is None:
        return BatchMeans(batches, dtype, None, vectors, filled=True)
    return BatchMeans(batches, dtype, centre)


def _found(points: BatchMeans, mass: NDArray[np.float64], gamma: float) -> GeometricMedian | None:
    measured = points.dtype == _FLOAT64
    found = search(points, gamma, mass=mass, target=points.centre, measured=measured)
    if found is None:
        return None
    gap = found.gap
    if points.centre is not None and found.objective > 0.0:
        # The objective grows by no more than the point is moved when the centre is added back.
        gap += _UNIT * float(norms(list(points.centre))[0]) / found.objective
        if gap > gamma:
            return None
    point = np.empty(points.dim)

    def write(block: Block, combination: NDArray[np.floating]) -> None:
        point[block.columns] = combination

    points.combine(found.weights, write)
    return GeometricMedian(
        point=point,
        objective=found.objective,
        gap=gap,
        weights=found.weights,
        iterations=found.iterations,
    )


def careful_median(vectors: Vectors, mass: NDArray[np.float64], gamma: float) -> GeometricMedian:
    """Find the median of any finite vectors, on the float64 numbers themselves, in more passes.

    Masses sum to one, and so do the weights of the objective. Vectors so far off that float64 does
    not hold them beside the others are drawn near first.
    """
    near, kept, centre = _drawn_near(vectors, mass)
    if (kept == 1.0).all():
        return _careful_median(vectors, mass, gamma)
    median = _careful_median(near, mass, gamma)
    weights = median.weights * kept
    weights[centre] += float(median.weights @ (1.0 - kept))
    distances = np.concatenate([norms([row - median.point]) for row in vectors])
    with np.errstate(over="ignore"):
        return replace(median, objective=float(mass @ distances), weights=weights)


def _drawn_near(
    vectors: Vectors, mass: NDArray[np.float64]
) -> tuple[Vectors, NDArray[np.float64], int]:
    """Draw vectors that are very far off towards one in the midst of the others.

    That changes by less than 2^-40 the direction in which they pull at any place near the median,
    and so the median by no more than a residual of that size does.

    Returns
    -------
    vectors : n vectors
    kept : ndarray (n,)
        The share of the way that each of them has kept.
    centre : int
        The one they are drawn to.
    """
    middle = coordinatewise_median(vectors, _SAFE)
    centre = int(np.argmin(_lengths(vectors, middle)))
    distances = _lengths(vectors, np.multiply(vectors[centre], _SAFE, dtype=np.float64))
    order = np.argsort(distances, kind="stable")
    most = min(int(np.searchsorted(np.cumsum(mass[order]), 0.5 + 1e-9)), len(order) - 1)
    limit = _FAR * float(distances[order[most]])
    kept = np.ones(len(distances))
    far = np.flatnonzero(distances > limit)
    if len(far) == 0:
        return vectors, kept, centre
    kept[far] = limit / distances[far]
    near = list(vectors)
    for row in map(int, far):
        here = np.asarray(vectors[centre], dtype=np.float64)
        offset = vectors[row] * _SAFE - here * _SAFE
        near[row] = here + offset * (kept[row] / _SAFE)
    return near, kept, centre


def _lengths(vectors: Vectors, place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return distances from a place; all of it scaled so that nothing overflows."""
    return np.concatenate(
        [norms([np.multiply(row, _SAFE, dtype=np.float64) - place]) for row in vectors]
    )


def _careful_median(vectors: Vectors, mass: NDArray[np.float64], gamma: float) -> GeometricMedian:
    scale = power_of_two_scale(vectors)
    iterations = 0
    best = None
    for combination, steps in _combinations(vectors, scale, mass, gamma):
        iterations += steps
        certified = _certify(vectors, scale, mass, combination, gamma)
        if best is None or certified.shortfall(gamma) < best.shortfall(gamma):
            best = certified
        if best.shortfall(gamma) == (gamma, gamma):
            break
    assert best is not None
    with np.errstate(over="ignore"):
        objective = float(np.float64(best.objective) / scale)
    return GeometricMedian(
        point=best.point,
        objective=objective,
        gap=best.gap,
        weights=best.weights,
        iterations=iterations,
    )


def _combinations(
    vectors: Vectors, scale: float, mass: NDArray[np.float64], gamma: float
) -> Iterator[tuple[NDArray[np.float64], int]]:
    """Yield convex weights that should do, and the steps they took; the sure ones come late."""
    if len(vectors[0]) <= len(vectors):
        searches = [(plain_coordinates, coordinatewise_median)]
    else:
        searches = [(gram_coordinates, central_row), (qr_coordinates, coordinatewise_median)]
    for coordinates, centre in searches:
        weights, steps = minimise(coordinates(vectors, scale, centre(vectors, scale)), mass, gamma)
        yield weights, steps
        # Where points differ in their last digits, their combination is no float64 vector.
        alone = np.zeros(len(weights))
        alone[np.argmax(weights)] = 1.0
        yield alone, 0


def check_gamma(gamma: float) -> None:
    """Raise ValueError where γ is not a positive finite number."""
    if not 0 < gamma < float("inf"):
        raise ValueError(f"gamma must be positive and finite, got {gamma}")


def _as_mass(weights: ArrayLike | None, num_points: int) -> NDArray[np.float64]:
    if weights is None:
        return np.ones(num_points)
    mass = np.asarray(weights, dtype=np.float64)
    if mass.shape != (num_points,):
        raise ValueError(f"weights must have shape ({num_points},), got {mass.shape}")
    if not (np.isfinite(mass).all() and (mass >= 0).all() and mass.any()):
        raise ValueError("weights must be nonnegative, finite and not all zero")
    return mass


@dataclass(frozen=True, eq=False)
class _Certified:
    point: NDArray[np.float64]
    objective: float
    gap: float
    residual: float
    weights: NDArray[np.float64]

    def shortfall(self, gamma: float) -> tuple[float, float]:
        """Gap and residual, for comparison: as small as was asked for is small enough."""
        return max(self.gap, gamma), max(self.residual, gamma)


def _certify(
    vectors: Vectors,
    scale: float,
    mass: NDArray[np.float64],
    weights: NDArray[np.float64],
    gamma: float,
) -> _Certified:
    """Form the convex combination and certify it on the data, in float64.

    Two passes. The dual vectors start from the combination before it is rounded to float64
    coordinates (y, kept as an offset from the heaviest point), the objective is that of the rounded
    one (z).
    """
    centre = np.multiply(vectors[int(np.argmax(weights))], scale, dtype=np.float64)
    n, d = len(vectors), len(vectors[0])
    point = np.empty(d)
    squared_to_y, squared_to_z, squared_reach = np.zeros(n), np.zeros(n), np.zeros(n)
    for columns in column_blocks(n, d):
        scaled = block(vectors, columns, scale)
        offsets = scaled - centre[columns]
        shift = weights @ offsets
        squared_reach += np.einsum("ij,ij->i", offsets, offsets)
        offsets -= shift
        squared_to_y += np.einsum("ij,ij->i", offsets, offsets)
        point[columns] = centre[columns] + shift
        scaled -= point[columns]
        squared_to_z += np.einsum("ij,ij->i", scaled, scaled)
    distances = np.sqrt(squared_to_y)
    objective = float(mass @ distances)
    excess = float(mass @ np.sqrt(squared_to_z)) - objective

    met = met_points(distances, np.sqrt(squared_reach))
    free_sets = np.concatenate([candidate_free_sets(distances, objective, gamma), met[None]])
    directions = np.stack([pulls(mass, distances, free) for free in free_sets])
    squared_forces, dot_mean, dot_free = np.zeros(3), np.zeros(3), np.zeros(3)
    for columns in column_blocks(n, d):
        offsets = block(vectors, columns, scale) - centre[columns]
        offsets -= weights @ offsets
        forces = directions @ offsets
        squared_forces += np.einsum("ij,ij->i", forces, forces)
        dot_mean += forces @ (mass @ offsets)
        dot_free += np.einsum("ij,ij->i", forces, (free_sets * mass) @ offsets)
    forces_norm = np.sqrt(squared_forces)
    gap = min(
        certified_gap(
            objective=objective,
            excess=excess,
            free_objective=float(mass[free] @ distances[free]),
            free_mass=float(mass[free].sum()),
            force=float(forces_norm[i]),
            force_dot_mean=float(dot_mean[i]),
            force_dot_free=float(dot_free[i]),
        )
        for i, free in enumerate(free_sets)
    )
    return _Certified(
        point=point / scale,
        objective=objective + excess,
        gap=gap + _ROUNDING if objective + excess > 0 else 0.0,
        residual=remaining_force(float(forces_norm[-1]), float(mass[met].sum())),
        weights=weights,
    )
