"""The geometric median of points that stay where they are, in two or three passes over the data.

The fast way: it either finds convex weights with a certified gap or gives up. The careful way,
which `geometric_median` takes then, holds for any input.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ._batch_means import Vector
from ._coordinates import coordinates_of_gram
from ._kernels import INNER
from ._local_gap import local_gap, ratio_gap
from ._minimise import fixed_point, minimise

_ROUNDING = 2.0**-43  # of sums in float64, whatever their order
# Beyond it, LAPACK's threads show in the last digits of eigenvalues; somewhat further on, a product
# per pair costs more than passes of distances.
_MAX_GRAM_POINTS = 199
_MAX_PASSES = 12
_MIN_PROGRESS = 0.5  # a pass that shortens the gap by less than that is one of too many


class Points(Protocol):
    """Points that can be passed over; see `BatchMeans`, which is one of them."""

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """Precision of the points."""

    @property
    def centre(self) -> Vector | None:
        """What the points are offsets from."""

    @property
    def rounding(self) -> NDArray[np.float64]:
        """Error of each point relative to its norm about the centre, (n,)."""

    def __len__(self) -> int:
        """Return the number of points n."""

    def gram(self, target: Vector | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return inner products about the centre, and about a target."""

    def measure(
        self, weights: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Return distances from a combination, norms, and the combination's norm."""


@dataclass(frozen=True, eq=False)
class Found:
    """Convex weights and what is known of their combination y.

    Attributes
    ----------
    weights : ndarray (n,)
        Zero for the points that were left out.
    gap : float
    iterations : int
    objective : float
        Weighted sum of the distances from y.
    norms : ndarray (n,)
        Of all points, from the target.
    norm : float
        Of y, from the target.
    """

    weights: NDArray[np.float64]
    gap: float
    iterations: int
    objective: float
    norms: NDArray[np.float64]
    norm: float


def search(
    points: Points,
    gamma: float,
    *,
    mass: NDArray[np.float64] | None = None,
    target: Vector | None = None,
    select: Callable[[NDArray[np.float64]], NDArray[np.intp]] | None = None,
    measured: bool = False,
) -> Found | None:
    """Find convex weights of the geometric median; None where their gap cannot be certified.

    Parameters
    ----------
    points : Points
    gamma : float
    mass : ndarray (n,), optional
        Positive, sums to one; equal by default.
    target : vector, optional
        Where norms are taken from; None is the origin.
    select : callable, optional
        Maps the norms of the points to the indices of those that are kept; all by default.
    measured : bool
        Whether distances are measured on the data even where inner products suffice.
    """
    if mass is None:
        mass = np.full(len(points), 1 / len(points))
    if select is None and len(points) > _MAX_GRAM_POINTS and target is points.centre:
        found = _from_distances(points, mass, gamma)
        if found is not None:
            return found
    gram, target_gram = points.gram(target)
    if not (np.isfinite(gram).all() and np.isfinite(target_gram).all()):
        return None
    norms = np.sqrt(np.maximum(target_gram.diagonal(), 0.0))
    kept = np.arange(len(points)) if select is None else select(norms)
    weights, gap, iterations, distances = _from_gram(
        points, gram, mass / mass[kept].sum(), gamma, kept, measured
    )
    if gap > gamma:
        return None
    return Found(
        weights=weights,
        gap=gap,
        iterations=iterations,
        objective=float(mass[kept] @ distances),
        norms=norms,
        norm=max(float(weights @ target_gram @ weights), 0.0) ** 0.5,
    )


def _from_gram(
    points: Points,
    gram: NDArray[np.float64],
    mass: NDArray[np.float64],
    gamma: float,
    kept: NDArray[np.intp],
    measured: bool,
) -> tuple[NDArray[np.float64], float, int, NDArray[np.float64]]:
    """Return all weights, the gap, iterations, and the distances of the points that are kept."""
    gram, mass, rounding = gram[np.ix_(kept, kept)], mass[kept], points.rounding[kept]
    weights = np.zeros(len(points))
    if len(kept) == 1:
        weights[kept] = 1.0
        return weights, 0.0, 0, np.zeros(1)
    if len(kept) == 2 and mass[0] == mass[1]:
        return _midpoint(points, gram, kept)
    found = fixed_point(gram, mass, gamma)
    if found is None:
        vertex = _at_a_point(points, gram, mass, kept)
        if vertex is not None:
            return vertex
        found = minimise(coordinates_of_gram(gram), mass, gamma)
    weights[kept], iterations = found
    convex = weights[kept]
    about = gram @ convex
    products = gram - about - about[:, None] + convex @ about
    squared = products.diagonal()
    if squared.min() <= 0.0:
        return weights, float("inf"), iterations, np.zeros(len(kept))

    unit = float(np.finfo(points.dtype).eps) / 2
    norms = np.sqrt(gram.diagonal())
    product_errors = (INNER + 2) * unit * np.square(norms + convex @ norms) / squared
    moved = (INNER + 2) * unit * float(convex @ norms)
    moved += float(np.finfo(points.dtype).smallest_subnormal) * float(norms.sum())

    def gap(distances: NDArray[np.float64], measuring_errors: NDArray[np.float64]) -> float:
        return _ROUNDING + local_gap(
            products,
            distances,
            mass,
            convex,
            errors=measuring_errors + rounding * norms / distances,
            product_errors=product_errors,
            moved=moved,
        )

    distances = np.sqrt(squared)
    first = gap(distances, 0.51 * product_errors)
    if first <= gamma and not measured:
        return weights, first, iterations, distances
    if first == float("inf") and product_errors.max() > 0.01:
        return weights, first, iterations, distances
    distances, _, _ = points.measure(weights)
    distances = distances[kept]
    if not (np.isfinite(distances).all() and distances.min() > 0.0):
        return weights, float("inf"), iterations, distances
    return weights, gap(distances, np.full(len(kept), _ROUNDING)), iterations, distances


def _midpoint(
    points: Points, gram: NDArray[np.float64], kept: NDArray[np.intp]
) -> tuple[NDArray[np.float64], float, int, NDArray[np.float64]]:
    """Between two points of one mass all places are medians; beside them, errors enter squared."""
    weights = np.zeros(len(points))
    weights[kept] = 0.5
    distance = max(gram[0, 0] - 2 * gram[0, 1] + gram[1, 1], 0.0) ** 0.5 / 2
    unit = float(np.finfo(points.dtype).eps) / 2
    error = (INNER + 2) * unit * float(np.sqrt(gram.diagonal()).mean())
    gap = (error / distance) ** 2 if distance > 100 * error else float("inf")
    return weights, _ROUNDING + gap, 0, np.full(2, distance)


def _at_a_point(
    points: Points, gram: NDArray[np.float64], mass: NDArray[np.float64], kept: NDArray[np.intp]
) -> tuple[NDArray[np.float64], float, int, NDArray[np.float64]] | None:
    """Show that the nearest point to all others is their median, where it is: the gap is zero then.

    That holds where the unit vectors from it to the others add up to no more than the mass that
    sits on it, its own and that of points equal to it. Colluding clients bring that about.
    """
    lengths = gram.diagonal()
    between = np.sqrt(np.maximum(lengths + lengths[:, None] - 2 * gram, 0.0))
    nearest = int(np.argmin(between @ mass))
    weights = np.zeros(len(points))
    weights[kept[nearest]] = 1.0
    distances = points.measure(weights)[0][kept]
    here = distances == 0.0
    if not (here[nearest] and np.isfinite(distances).all()):
        return None
    unit = float(np.finfo(points.dtype).eps) / 2
    norms = np.sqrt(lengths)
    about = gram - gram[nearest] - gram[:, nearest, None] + gram[nearest, nearest]
    pulls = np.divide(mass, distances, out=np.zeros_like(mass), where=~here)
    # Errors of the products, and of the means that they are the products of.
    spoilt = float(pulls @ (norms + norms[nearest])) ** 2 * (INNER + 2) * unit
    moved = float(pulls @ (points.rounding[kept] * norms)) + float(pulls.sum()) * float(
        points.rounding[kept[nearest]] * norms[nearest]
    )
    force = max(float(pulls @ about @ pulls) + spoilt, 0.0) ** 0.5 + 2 * moved
    return (weights, 0.0, 0, distances) if force <= mass[here].sum() else None


def _from_distances(points: Points, mass: NDArray[np.float64], gamma: float) -> Found | None:
    """Find the weights by Weiszfeld passes over the data; None where these crawl.

    Right for many points in many more dimensions, which lie nearly at one distance from their
    median: a pass then comes nearer by orders of magnitude, where the Gram matrix would cost as
    much as dozens of passes.
    """
    unit = float(np.finfo(points.dtype).eps) / 2
    weights, gap = mass, float("inf")
    for iteration in range(1, _MAX_PASSES + 1):
        distances, norms, norm = points.measure(weights)
        if not (np.isfinite(distances).all() and distances.min() > 0.0):
            return None
        previous, gap = gap, ratio_gap(distances, mass, weights) + _ROUNDING
        objective = float(mass @ distances)
        moved = (INNER + 2) * unit * float(weights @ norms)
        point_errors = points.rounding * norms
        # The gradient at y is no longer than the gap; what errors add to it is of second order.
        loss = moved**2 * float((mass / distances).sum())
        loss += float(mass @ (np.square(point_errors) / distances))
        loss += gap * (moved + float(mass @ point_errors))
        # One point far off makes any relative gap small: the gradient has to be, too.
        ratios = weights * distances / mass
        gradient = float(mass @ np.abs(ratios / (mass @ ratios) - 1.0))
        if gap + loss / objective <= gamma and gradient <= gamma:
            return Found(weights, gap + loss / objective, iteration, objective, norms, norm)
        if gap > _MIN_PROGRESS * previous:
            return None
        weights = mass / distances
        weights /= weights.sum()
    return None
