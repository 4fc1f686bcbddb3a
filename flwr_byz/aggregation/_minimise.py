"""Minimise a sum of distances in few dimensions: Newton's method with a line search."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

_MAX_ITERATIONS = 1000
_MAX_BISECTIONS = 60
_MAX_STALLED = 50  # iterations without a better iterate
_MAX_FIXED_POINT_STEPS = 100
_BESIDE = 1e-6  # of the median squared distance: nearer to a point, the fixed point crawls to it
_MAX_NEWTON_DIM = 1000  # beyond it a Newton system costs more than the Weiszfeld steps it saves
_SMALLEST_TOLERANCE = 1e-13  # below it float64 rounding decides
COINCIDENT = 1e-7  # of the median distance: nearer than this, a point counts as met
_RESOLUTION = 1e-14  # of the numbers behind a distance: nearer than this, float64 cannot tell


def met_points(
    distances: NDArray[np.float64], reach: NDArray[np.float64], coincident: float = COINCIDENT
) -> NDArray[np.bool_]:
    """Mark the points that a place has met: there any vector up to norm one is a subgradient.

    `reach` (n,) is the size of the numbers behind each distance, which bounds its resolution;
    `coincident` the share of the median distance below which a point counts as met.
    """
    near: NDArray[np.bool_] = (distances <= coincident * np.median(distances)) | (
        distances <= _RESOLUTION * reach
    )
    return near


def candidate_free_sets(
    distances: NDArray[np.float64], objective: float, gamma: float
) -> NDArray[np.bool_]:
    """Propose sets of points, (2, n), whose dual vectors `certified_gap` is to choose freely.

    Any set gives a valid bound. Good ones are the points whose whole contribution is below γ (it
    may be lost), and those so near the place that the median may sit beside them.
    """
    return np.stack([distances <= gamma / 8 * objective, distances <= 1e-4 * np.median(distances)])


def pulls(
    mass: NDArray[np.float64], distances: NDArray[np.float64], free: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return a_i / d_i, (n,), with zero at the free points."""
    return np.divide(mass, distances, out=np.zeros_like(mass), where=~free & (distances > 0))


def remaining_force(force: float, free_mass: float) -> float:
    """Norm of a force Σ a_i u_i once free points of that mass pull against it all they can."""
    return max(force - free_mass, 0.0)


def certified_gap(
    *,
    objective: float,
    excess: float,
    free_objective: float,
    free_mass: float,
    force: float,
    force_dot_mean: float,
    force_dot_free: float,
) -> float:
    """Bound the relative distance of an objective from the optimum, by weak duality.

    Take masses a that sum to one, the unit vectors u_i from a place y to the points outside of a
    free set J, and their force S = Σ a_i u_i. Let the free points share one dual vector against S:
    p_J = −t·S/a_J, with t ≤ 1 the most that keeps ‖p_J‖ ≤ 1. The mean of all dual vectors is then
    r = (1 − t)·S, and (p_i − r)/(1 + ‖r‖) have mean zero and norm at most one, so that
    Σ a_i⟨(p_i − r)/(1 + ‖r‖), z_i − y⟩ is a lower bound on the optimum.

    Parameters
    ----------
    objective : float
        f(y) = Σ a_i‖z_i − y‖.
    excess : float
        f(z) − f(y), where the point that is returned is z.
    free_objective, free_mass : float
        Parts of f(y) and of the mass that belong to J.
    force : float
        ‖S‖.
    force_dot_mean, force_dot_free : float
        ⟨S, Σ a_i(z_i − y)⟩ over all points, and over J alone.

    Returns
    -------
    float
        g with f(z) ≤ (1 + g)·min f; infinity where the bound says nothing.
    """
    if objective + excess <= 0.0:
        return 0.0
    residual = remaining_force(force, free_mass)
    kept = residual / force if force > 0.0 else 0.0
    free_loss = free_objective
    if free_mass > 0.0:
        free_loss += (1.0 - kept) / free_mass * force_dot_free
    loss = max(free_loss, 0.0) + kept * force_dot_mean
    lower_bound = objective - loss  # times 1 + residual
    if lower_bound <= 0.0:
        return float("inf")
    return max(excess * (1.0 + residual) + objective * residual + loss, 0.0) / lower_bound


@dataclass(frozen=True)
class _Iterate:
    """The sum of distances and its subgradient at one place."""

    points: NDArray[np.float64]  # (n, r)
    mass: NDArray[np.float64]  # (n,), sums to one
    place: NDArray[np.float64]  # (r,)
    tolerance: float
    coincident: float

    @cached_property
    def offsets(self) -> NDArray[np.float64]:
        return self.points - self.place

    @cached_property
    def distances(self) -> NDArray[np.float64]:
        distances: NDArray[np.float64] = np.linalg.norm(self.offsets, axis=1)
        return distances

    @cached_property
    def reach(self) -> NDArray[np.float64]:
        reach: NDArray[np.float64] = np.linalg.norm(self.points, axis=1)
        return reach + np.linalg.norm(self.place)

    @cached_property
    def free(self) -> NDArray[np.bool_]:
        return met_points(self.distances, self.reach, self.coincident)

    @cached_property
    def pulls(self) -> NDArray[np.float64]:
        """a_i / d_i of the points not met, zero for those met."""
        return pulls(self.mass, self.distances, self.free)

    @cached_property
    def force(self) -> NDArray[np.float64]:
        return self.pulls @ self.offsets

    @cached_property
    def residual(self) -> float:
        """Norm of the smallest subgradient: 0 at the median, never more than 1."""
        return remaining_force(float(np.linalg.norm(self.force)), float(self.mass[self.free].sum()))

    @cached_property
    def gap(self) -> float:
        objective = float(self.mass @ self.distances)
        mean = self.mass @ self.offsets
        gaps = []
        for free in candidate_free_sets(self.distances, objective, self.tolerance):
            force = pulls(self.mass, self.distances, free) @ self.offsets
            gaps.append(
                certified_gap(
                    objective=objective,
                    excess=0.0,
                    free_objective=float(self.mass[free] @ self.distances[free]),
                    free_mass=float(self.mass[free].sum()),
                    force=float(np.linalg.norm(force)),
                    force_dot_mean=float(force @ mean),
                    force_dot_free=float(force @ (self.mass[free] @ self.offsets[free])),
                )
            )
        return min(gaps)

    @property
    def converged(self) -> bool:
        return self.residual <= self.tolerance and self.gap <= self.tolerance / 2

    def at(self, place: NDArray[np.float64], coincident: float | None = None) -> "_Iterate":
        if coincident is None:
            coincident = self.coincident
        return _Iterate(self.points, self.mass, place, self.tolerance, coincident)

    def newton_step(self) -> NDArray[np.float64]:
        """Solve the Newton system; on a point met, in the steepest direction alone."""
        curvature = float(self.pulls.sum())
        units = np.divide(
            self.offsets,
            self.distances[:, None],
            out=np.zeros_like(self.offsets),
            where=~self.free[:, None],
        )
        if self.free.any():
            length = float(np.linalg.norm(self.force))
            direction = self.force / length
            along = float(self.pulls @ (1.0 - np.square(units @ direction)))
            return direction * (self.residual / max(along, 1e-14 * curvature))
        hessian = -(units.T * self.pulls) @ units
        hessian[np.diag_indices_from(hessian)] += curvature * (1.0 + 1e-14)
        try:
            step = np.asarray(np.linalg.solve(hessian, self.force), dtype=np.float64)
        except np.linalg.LinAlgError:
            step = self.weiszfeld_step()
        return step

    def weiszfeld_step(self) -> NDArray[np.float64]:
        """Weiszfeld's step; on a point met, the shortened one of Vardi and Zhang (2000)."""
        length = float(np.linalg.norm(self.force))
        return self.force * (self.residual / length / float(self.pulls.sum()))


def minimise(
    points: NDArray[np.float64], mass: NDArray[np.float64], gamma: float
) -> tuple[NDArray[np.float64], int]:
    """Find the geometric median of few-dimensional points as a convex combination of them.

    Stops where the certified gap is at most γ/2 *and* the mean of the unit vectors towards the
    points is no longer than γ. The second condition says that the place is the exact median once a
    mass γ is added somewhere, so that one point very far off, which makes any relative gap small,
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
    start = _coordinatewise_median(points, mass)
    found = _Iterate(points, mass, start, tolerance, COINCIDENT)
    best_gap, best_weights, iterations = float("inf"), mass, 0
    # First take points for met a little way off; where that is too coarse, go to the end.
    for coincident in (COINCIDENT, 0.0):
        found, steps = _search(found.at(found.place, coincident))
        iterations += steps
        weights = _convex_weights(found)
        gap = found.at(weights @ points).gap
        if gap < best_gap:
            best_gap, best_weights = gap, weights
        if best_gap <= tolerance:
            break
    return best_weights, iterations


def fixed_point(
    gram: NDArray[np.float64], mass: NDArray[np.float64], gamma: float
) -> tuple[NDArray[np.float64], int] | None:
    """Find the weights by Weiszfeld's fixed point on inner products; None where it crawls.

    Stops where the mean of the unit vectors towards the points is no longer than γ. No product here
    is one that BLAS splits between threads, so that the same bytes come out for any number of them.

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
    """
    tolerance = max(gamma, _SMALLEST_TOLERANCE)
    weights = mass
    for iteration in range(1, _MAX_FIXED_POINT_STEPS + 1):
        about = np.einsum("ij,j->i", gram, weights)
        squared = gram.diagonal() - 2 * about + weights @ about
        if not squared.min() > _BESIDE * np.median(squared):
            return None
        distances = np.sqrt(squared)
        ratios = weights * distances / mass
        if float(mass @ np.abs(ratios / (mass @ ratios) - 1.0)) <= tolerance:
            return weights, iteration
        weights = mass / distances
        weights /= weights.sum()
    return None


def _search(start: _Iterate) -> tuple[_Iterate, int]:
    """Step until an iterate has converged or none gets better; return the best."""
    best = current = start
    iterations = stalled = 0
    while not best.converged and iterations < _MAX_ITERATIONS and stalled < _MAX_STALLED:
        iterations += 1
        previous, current = current, _next_iterate(current)
        if current is previous:
            break
        better = current.converged or current.residual < best.residual
        best, stalled = (current, 0) if better else (best, stalled + 1)
    return best, iterations


def _next_iterate(current: _Iterate) -> _Iterate:
    """Return the nearest point where that is the median, else the best step there is."""
    vertex = current.at(current.points[int(np.argmin(current.distances))])
    if vertex.converged:
        return vertex
    if current.residual == 0.0:
        return current
    if current.points.shape[1] > _MAX_NEWTON_DIM:
        return current.at(current.place + current.weiszfeld_step())
    lower = _descend(current)
    if vertex.residual > 0.0 and lower.residual > 0.5 * current.residual:
        beside_vertex = _descend(vertex)
        if beside_vertex.residual < min(lower.residual, current.residual):
            return beside_vertex
    return lower


def _descend(start: _Iterate) -> _Iterate:
    """Take the Newton step where it helps, else search along it for the lowest place.

    The sum of distances is convex, so its slope along a line changes sign once: bisection finds
    where, in the flattest valley and however far off some points are.
    """
    step = start.newton_step()
    end = start.at(start.place + step)
    if end.residual < start.residual or end.force @ step >= 0.0:
        return end
    low, high = 0.0, 1.0
    for _ in range(_MAX_BISECTIONS):
        middle = (low + high) / 2
        end = start.at(start.place + middle * step)
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
