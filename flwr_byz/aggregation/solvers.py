"""Minimise a sum of distances in few dimensions: Weiszfeld's fixed point, Newton's method."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

_MAX_WEISZFELD_STEPS = 300
_BESIDE = 1e-6  # of the median squared distance: Weiszfeld's steps stall nearer to a point
_MAX_ITERATIONS = 1000
_MAX_BISECTIONS = 60
_MAX_STALLED = 50  # iterations that do not shorten the residual by a hundredth
_MAX_NEWTON_DIM = 1000  # beyond it a Newton system costs more than the Weiszfeld steps it saves
_SMALLEST_TOLERANCE = 1e-14  # below it float64 rounding decides
RESOLUTION = 1e-14  # of the numbers behind a distance: float64 does not resolve less


def weiszfeld(
    gram: NDArray[np.float64], mass: NDArray[np.float64], gamma: float
) -> tuple[NDArray[np.float64], int] | None:
    """Find the weights of the geometric median by Weiszfeld's fixed point on inner products.

    `gram` is (n, n); `mass` and the weights (n,) are positive and sum to one. It stops when the
    residual, the mean of the unit vectors towards the points, is at most γ long. Returns the
    weights and the iterations, or None where it stalls: near a point, or with nearly half of the
    mass far off in one direction.
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


@dataclass(frozen=True)
class _Iterate:
    """The sum of distances and its subgradient at one position."""

    points: NDArray[np.float64]  # (n, r)
    mass: NDArray[np.float64]  # (n,), sums to one
    position: NDArray[np.float64]  # (r,)

    @cached_property
    def offsets(self) -> NDArray[np.float64]:
        return self.points - self.position

    @cached_property
    def distances(self) -> NDArray[np.float64]:
        return np.asarray(np.linalg.norm(self.offsets, axis=1))

    @cached_property
    def coincident(self) -> NDArray[np.bool_]:
        """Points at the position, where every vector of norm at most one is a subgradient."""
        reach = np.linalg.norm(self.points, axis=1) + np.linalg.norm(self.position)
        return np.asarray(self.distances <= RESOLUTION * reach)

    @cached_property
    def inverse_weights(self) -> NDArray[np.float64]:
        """a_i / d_i, zero for coincident points."""
        out = np.zeros_like(self.mass)
        return np.divide(self.mass, self.distances, out=out, where=~self.coincident)

    @cached_property
    def descent(self) -> NDArray[np.float64]:
        """Σ a_i u_i, minus the gradient."""
        return self.inverse_weights @ self.offsets

    @cached_property
    def residual(self) -> float:
        """Norm of the smallest subgradient: 0 at the median, at most 1."""
        held = float(self.mass[self.coincident].sum())
        return max(float(np.linalg.norm(self.descent)) - held, 0.0)

    def at(self, position: NDArray[np.float64]) -> "_Iterate":
        return _Iterate(self.points, self.mass, position)

    def step(self) -> NDArray[np.float64]:
        """Newton's step; on a coincident point, or in very many dimensions, along the descent."""
        total = float(self.inverse_weights.sum())
        units = self.offsets * (self.inverse_weights / self.mass)[:, None]
        if self.coincident.any() or len(self.position) > _MAX_NEWTON_DIM:
            direction = self.descent / float(np.linalg.norm(self.descent))
            along = float(self.inverse_weights @ (1.0 - np.square(units @ direction)))
            return direction * (self.residual / max(along, 1e-14 * total))
        hessian = -(units.T * self.inverse_weights) @ units
        hessian[np.diag_indices_from(hessian)] += total * (1.0 + 1e-14)
        try:
            return np.asarray(np.linalg.solve(hessian, self.descent))
        except np.linalg.LinAlgError:
            return self.descent / total  # Weiszfeld's


def newton(
    points: NDArray[np.float64], mass: NDArray[np.float64], gamma: float
) -> tuple[NDArray[np.float64], int]:
    """Find the geometric median of few-dimensional points as a convex combination of them.

    Newton's method with a line search, until the residual is far below γ. The position is then the
    exact median after a mass of that size is added somewhere; so one point very far off, which
    makes every relative gap small, cannot end the search early.

    `points` are (n, r); `mass` (n,) is positive and sums to one. Returns nonnegative weights (n,)
    of sum one, with the median at ``weights @ points``, and the iterations.
    """
    tolerance = max(gamma / 8, _SMALLEST_TOLERANCE)
    best = current = _Iterate(points, mass, _coordinatewise_median(points, mass))
    iterations, stalled, passed = 0, 0, best.residual
    while best.residual > tolerance and iterations < _MAX_ITERATIONS and stalled < _MAX_STALLED:
        iterations += 1
        current = _next_iterate(current, tolerance)
        if current.residual < best.residual:
            best = current
        # Near a tight cluster, rounding alone shortens the residual a little, again and again.
        stalled += 1
        if best.residual < 0.99 * passed:
            stalled, passed = 0, best.residual
    nearest = int(np.argmin(best.distances))
    if best.coincident[nearest]:
        weights = np.zeros(len(mass))
        weights[nearest] = 1.0
    else:
        weights = mass * (best.distances[nearest] / best.distances)
        weights /= weights.sum()
    return weights, iterations


def _next_iterate(current: _Iterate, tolerance: float) -> _Iterate:
    """Return the nearest point where it is the median, otherwise the best step."""
    vertex = current.at(current.points[int(np.argmin(current.distances))])
    if vertex.residual <= tolerance:
        return vertex
    lower = _descend(current)
    if lower.residual > 0.5 * current.residual:
        beside_vertex = _descend(vertex)
        if beside_vertex.residual < min(lower.residual, current.residual):
            return beside_vertex
    return lower


def _descend(start: _Iterate) -> _Iterate:
    """Take the step where it helps, otherwise search along it for the lowest position.

    The sum of distances is convex, so its slope along a line changes sign once. Bisection finds
    that position, even in a flat valley or with points very far off.
    """
    step = start.step()
    end = start.at(start.position + step)
    if end.residual < start.residual or end.descent @ step >= 0.0:
        return end
    low, high = 0.0, 1.0
    for _ in range(_MAX_BISECTIONS):
        middle = (low + high) / 2
        end = start.at(start.position + middle * step)
        low, high = (middle, high) if end.descent @ step > 0.0 else (low, middle)
    return end


def _coordinatewise_median(
    points: NDArray[np.float64], mass: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the weighted median of each coordinate, the midpoint where it is an interval."""
    order = np.argsort(points, axis=0, kind="stable")
    ordered = np.take_along_axis(points, order, axis=0)
    share = np.cumsum(mass[order], axis=0)
    lower = np.argmax(share >= 0.5 - 1e-12, axis=0)
    upper = np.argmax(share > 0.5 + 1e-12, axis=0)
    columns = np.arange(points.shape[1])
    return np.asarray((ordered[lower, columns] + ordered[upper, columns]) / 2)
