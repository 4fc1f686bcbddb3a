"""Minimise a sum of distances in few dimensions: Weiszfeld's fixed point, Newton's method."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .certificate import (
    duality_gap,
    excluded_sets,
    inverse_distance_weights,
    remaining_residual,
)

_MAX_WEISZFELD_STEPS = 300
_BESIDE = 1e-6  # of the median squared distance: nearer to a point, Weiszfeld's steps stall
_MAX_ITERATIONS = 1000
_MAX_BISECTIONS = 60
_MAX_STALLED = 50  # iterations without a residual that is shorter by a hundredth
_MAX_NEWTON_DIM = 1000  # beyond it a Newton system costs more than the Weiszfeld steps it saves
_SMALLEST_TOLERANCE = 1e-13  # below it float64 rounding decides
_COINCIDENT = 1e-7  # of the median distance: nearer than this, a point counts as coincident
_RESOLUTION = 1e-14  # of the numbers behind a distance: nearer than this, float64 cannot tell


def weiszfeld(
    gram: NDArray[np.float64], mass: NDArray[np.float64], gamma: float
) -> tuple[NDArray[np.float64], int] | None:
    """Find the weights of the geometric median by Weiszfeld's fixed point on inner products.

    Stops where the residual, the mean of the unit vectors towards the points, is no longer than γ.

    Parameters
    ----------
    gram : ndarray (n, n), float64
    mass : ndarray (n,)
        Positive, sums to one.
    gamma : float

    Returns
    -------
    weights : ndarray (n,)
        Positive, sums to one.
    iterations : int
        None in place of both where it stalls: beside a point, or with nearly half of the mass far
        off in one direction.
    """
    tolerance = max(gamma, _SMALLEST_TOLERANCE)
    weights = mass
    for iteration in range(1, _MAX_WEISZFELD_STEPS + 1):
        about = gram @ weights
        squared = gram.diagonal() - 2 * about + weights @ about
        if not squared.min() > _BESIDE * np.median(squared):
            return None
        distances = np.sqrt(squared)
        shares = weights * distances / mass
        if float(mass @ np.abs(shares / (mass @ shares) - 1.0)) <= tolerance:
            return weights, iteration
        weights = mass / distances
        weights /= weights.sum()
    return None


def coincident_points(
    distances: NDArray[np.float64], reach: NDArray[np.float64], coincident: float = _COINCIDENT
) -> NDArray[np.bool_]:
    """Mark the points that an iterate sits on: there any vector up to norm one is a subgradient.

    `reach` (n,) is the size of the numbers behind each distance, which bounds its resolution;
    `coincident` the share of the median distance below which a point counts.
    """
    near: NDArray[np.bool_] = (distances <= coincident * np.median(distances)) | (
        distances <= _RESOLUTION * reach
    )
    return near


@dataclass(frozen=True)
class _Iterate:
    """The sum of distances and its subgradient at one position."""

    points: NDArray[np.float64]  # (n, r)
    mass: NDArray[np.float64]  # (n,), sums to one
    position: NDArray[np.float64]  # (r,)
    tolerance: float
    coincident: float

    @cached_property
    def offsets(self) -> NDArray[np.float64]:
        return self.points - self.position

    @cached_property
    def distances(self) -> NDArray[np.float64]:
        distances: NDArray[np.float64] = np.linalg.norm(self.offsets, axis=1)
        return distances

    @cached_property
    def reach(self) -> NDArray[np.float64]:
        reach: NDArray[np.float64] = np.linalg.norm(self.points, axis=1)
        return reach + np.linalg.norm(self.position)

    @cached_property
    def excluded(self) -> NDArray[np.bool_]:
        return coincident_points(self.distances, self.reach, self.coincident)

    @cached_property
    def pulls(self) -> NDArray[np.float64]:
        """a_i / d_i, zero for coincident points."""
        return inverse_distance_weights(self.mass, self.distances, self.excluded)

    @cached_property
    def force(self) -> NDArray[np.float64]:
        """Σ a_i u_i, minus the gradient."""
        return self.pulls @ self.offsets

    @cached_property
    def residual(self) -> float:
        """Norm of the smallest subgradient: 0 at the median, never more than 1."""
        length = float(np.linalg.norm(self.force))
        return remaining_residual(length, float(self.mass[self.excluded].sum()))

    @cached_property
    def gap(self) -> float:
        objective = float(self.mass @ self.distances)
        mean = self.mass @ self.offsets
        gaps = []
        for excluded in excluded_sets(self.distances, objective, self.tolerance):
            weights = inverse_distance_weights(self.mass, self.distances, excluded)
            force = weights @ self.offsets
            gaps.append(
                duality_gap(
                    objective=objective,
                    excess=0.0,
                    excluded_objective=float(self.mass[excluded] @ self.distances[excluded]),
                    excluded_mass=float(self.mass[excluded].sum()),
                    residual=float(np.linalg.norm(force)),
                    residual_dot_mean=float(force @ mean),
                    residual_dot_excluded=float(
                        force @ (self.mass[excluded] @ self.offsets[excluded])
                    ),
                )
            )
        return min(gaps)

    @property
    def converged(self) -> bool:
        return self.residual <= self.tolerance and self.gap <= self.tolerance / 2

    def at(self, position: NDArray[np.float64], coincident: float | None = None) -> "_Iterate":
        if coincident is None:
            coincident = self.coincident
        return _Iterate(self.points, self.mass, position, self.tolerance, coincident)

    def newton_step(self) -> NDArray[np.float64]:
        """Solve the Newton system; on a coincident point, in the steepest direction alone."""
        curvature = float(self.pulls.sum())
        units = np.divide(
            self.offsets,
            self.distances[:, None],
            out=np.zeros_like(self.offsets),
            where=~self.excluded[:, None],
        )
        if self.excluded.any():
            direction = self.force / float(np.linalg.norm(self.force))
            along = float(self.pulls @ (1.0 - np.square(units @ direction)))
            return direction * (self.residual / max(along, 1e-14 * curvature))
        hessian = -(units.T * self.pulls) @ units
        hessian[np.diag_indices_from(hessian)] += curvature * (1.0 + 1e-14)
        try:
            return np.asarray(np.linalg.solve(hessian, self.force), dtype=np.float64)
        except np.linalg.LinAlgError:
            return self.weiszfeld_step()

    def weiszfeld_step(self) -> NDArray[np.float64]:
        """Weiszfeld's step; on a coincident point, the shortened one of Vardi and Zhang (2000)."""
        length = float(np.linalg.norm(self.force))
        return self.force * (self.residual / length / float(self.pulls.sum()))


def newton(
    points: NDArray[np.float64], mass: NDArray[np.float64], gamma: float
) -> tuple[NDArray[np.float64], int]:
    """Find the geometric median of few-dimensional points as a convex combination of them.

    Newton's method with a line search. It stops where the certified gap is at most γ/2 *and* the
    residual no longer than γ. The second condition says that the position is the exact median once
    a mass γ is added somewhere, so that one point very far off, which makes any relative gap small,
    cannot end the search early.

    Parameters
    ----------
    points : ndarray (n, r), float64
    mass : ndarray (n,), float64
        Positive, sums to one.
    gamma : float

    Returns
    -------
    weights : ndarray (n,)
        Nonnegative, sums to one; the median is ``weights @ points``.
    iterations : int
    """
    tolerance = max(gamma, _SMALLEST_TOLERANCE)
    found = _Iterate(points, mass, _coordinatewise_median(points, mass), tolerance, _COINCIDENT)
    best_gap, best_weights, iterations = float("inf"), mass, 0
    # Points count as coincident a little way off first; where that is too coarse, not at all.
    for coincident in (_COINCIDENT, 0.0):
        found, steps = _search(found.at(found.position, coincident))
        iterations += steps
        weights = _convex_weights(found)
        gap = found.at(weights @ points).gap
        if gap < best_gap:
            best_gap, best_weights = gap, weights
        if best_gap <= tolerance:
            break
    return best_weights, iterations


def _search(start: _Iterate) -> tuple[_Iterate, int]:
    """Step until an iterate has converged or none gets better; return the best."""
    best = current = start
    iterations, stalled, passed = 0, 0, start.residual
    while not best.converged and iterations < _MAX_ITERATIONS and stalled < _MAX_STALLED:
        iterations += 1
        previous, current = current, _next_iterate(current)
        if current is previous:
            break
        if current.converged or current.residual < best.residual:
            best = current
        # Rounding alone makes it a little shorter for very long beside a tight cluster.
        stalled += 1
        if best.residual < 0.99 * passed:
            stalled, passed = 0, best.residual
    return best, iterations


def _next_iterate(current: _Iterate) -> _Iterate:
    """Return the nearest point where that is the median, else the best step there is."""
    vertex = current.at(current.points[int(np.argmin(current.distances))])
    if vertex.converged:
        return vertex
    if current.residual == 0.0:
        return current
    if current.points.shape[1] > _MAX_NEWTON_DIM:
        return current.at(current.position + current.weiszfeld_step())
    lower = _descend(current)
    if vertex.residual > 0.0 and lower.residual > 0.5 * current.residual:
        beside_vertex = _descend(vertex)
        if beside_vertex.residual < min(lower.residual, current.residual):
            return beside_vertex
    return lower


def _descend(start: _Iterate) -> _Iterate:
    """Take the Newton step where it helps, else search along it for the lowest position.

    The sum of distances is convex, so its slope along a line changes sign once: bisection finds
    where, in the flattest valley and however far off some points are.
    """
    step = start.newton_step()
    end = start.at(start.position + step)
    if end.residual < start.residual or end.force @ step >= 0.0:
        return end
    low, high = 0.0, 1.0
    for _ in range(_MAX_BISECTIONS):
        middle = (low + high) / 2
        end = start.at(start.position + middle * step)
        if end.converged:
            break
        low, high = (middle, high) if end.force @ step > 0.0 else (low, middle)
    return end


def _convex_weights(iterate: _Iterate) -> NDArray[np.float64]:
    """Weights of the Weiszfeld step from the iterate; a point that it sits on takes all."""
    nearest = int(np.argmin(iterate.distances))
    shortest = iterate.distances[nearest]
    if shortest <= _RESOLUTION * iterate.reach[nearest]:
        weights = np.zeros(len(iterate.mass))
        weights[nearest] = 1.0
    else:
        weights = iterate.mass * (shortest / iterate.distances)
        weights /= weights.sum()
    return weights


def _coordinatewise_median(
    points: NDArray[np.float64], mass: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted median of each coordinate, the midpoint where an interval of them is."""
    order = np.argsort(points, axis=0, kind="stable")
    ordered = np.take_along_axis(points, order, axis=0)
    share = np.cumsum(mass[order], axis=0)
    lower = np.argmax(share >= 0.5 - 1e-12, axis=0)
    upper = np.argmax(share > 0.5 + 1e-12, axis=0)
    columns = np.arange(points.shape[1])
    median: NDArray[np.float64] = (ordered[lower, columns] + ordered[upper, columns]) / 2
    return median
