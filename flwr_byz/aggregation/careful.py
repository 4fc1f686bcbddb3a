"""The geometric median of any finite rows, in float64, where the fast method fails.

It takes the Gram matrix about a row near most others, which gives coordinates in few dimensions,
Newton's method on these, and a certificate by weak duality.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .certificate import duality_gap, residual_bound
from .gram import distances_between, join_and_total, total
from .row_map import RowMap, map_rows
from .rows import Rows, narrow
from .solvers import RESOLUTION, newton

_EPS = float(np.finfo(np.float64).eps)
_ROUNDING = 64 * _EPS
_MOST_OCTAVES = 400  # a row longer than most rows by more octaves counts as that long
_MOST_CENTRES = 3


@dataclass(frozen=True, eq=False)
class Median:
    """A point that nearly minimises the weighted sum of distances, with its certified gap.

    Attributes
    ----------
    point, weights : ndarray (d,), ndarray (n,), float64
        The approximate geometric median, ``sum(weights[i] * points[i])`` to rounding; the weights
        are nonnegative and sum to one.
    objective : float
        Weighted sum of the distances from `point` to the points; to about five digits for points
        in float32.
    gap : float
        Certified relative gap: the true objective at `point` is at most ``(1 + gap) * optimum``.
    residual : float
        Certified bound on the length of the weighted mean of the unit vectors from `point` to the
        points, before it is rounded to its dtype; of a point that coincides with it any vector of
        length at most 1 counts. `flwr_byz.theory.certified_c_alpha` takes it.
    iterations : int
        Steps of the solver.
    """

    point: NDArray[np.floating]
    objective: float
    gap: float
    residual: float
    weights: NDArray[np.float64]
    iterations: int

    def shortfall(self, gamma: float) -> tuple[float, float]:
        """Return gap and residual for comparison, where everything up to γ is equally good."""
        return max(self.gap, gamma), max(self.residual, gamma)


@dataclass(frozen=True, eq=False)
class _Scaled:
    """An exact map from a block of rows to float64 numbers of moderate size."""

    row_map: RowMap
    factors: NDArray[np.float64]  # (k', 1), powers of two
    factor: float  # of most rows

    def __call__(self, block: NDArray[np.floating]) -> NDArray[np.float64]:
        mapped = map_rows(self.row_map, block)
        return np.asarray(np.multiply(mapped, self.factors, dtype=np.float64))


def careful_median(
    rows: Rows,
    mass: NDArray[np.float64],
    gamma: float,
    row_map: RowMap,
    products: NDArray[np.float64] | None,
) -> Median:
    """Find the median of mapped rows, in float64, as `median_of_rows` does.

    `products` are the inner products of the mapped rows (k', k'), of any precision, if known; the
    weights are those of the mapped rows. The gap of the result, the best candidate, is above γ
    where float64 cannot resolve it, or no float64 vector is near enough.
    """
    scaled = _scale_of(rows, row_map)
    iterations = 0
    best: Median | None = None
    for weights, steps in _candidates(rows, scaled, mass, gamma, products):
        iterations += steps
        candidates = [weights]
        for candidate in candidates:
            found, distances = _certified(rows, scaled, mass, candidate, iterations)
            if best is None or found.shortfall(gamma) < best.shortfall(gamma):
                best = found
            if best.shortfall(gamma) == (gamma, gamma):
                return best
            if candidate is weights and distances.all():
                # Measured distances have more correct digits than the coordinates; and where
                # points differ in their last digits, their combination is no float64 vector.
                refined = mass / distances
                candidates += [refined / refined.sum(), np.eye(len(mass))[np.argmax(refined)]]
    assert best is not None
    return best


def _candidates(
    rows: Rows,
    scaled: _Scaled,
    mass: NDArray[np.float64],
    gamma: float,
    products: NDArray[np.float64] | None,
) -> Iterator[tuple[NDArray[np.float64], int]]:
    """Yield convex weights and the steps they took: cheap candidates first, reliable ones last."""
    if rows.dim <= len(mass):
        points = np.concatenate(list(rows.map(scaled)), axis=1)
        yield newton(points - np.median(points, axis=0), mass, gamma)
        return
    if products is not None:
        products = products * scaled.factors * scaled.factors.T
    if products is None or not np.isfinite(products).all():
        products = total(rows, partial(_gram_about, scaled, None))
    centres: list[int] = []
    for _ in range(_MOST_CENTRES):
        centre = int(np.argmin(np.median(distances_between(products), axis=0)))
        if centre in centres:
            break
        centres.append(centre)
        products = total(rows, partial(_gram_about, scaled, centre))
        yield newton(coordinates_of_gram(products), mass, gamma)
    factor = np.zeros((0, len(mass)))
    for block in rows.map(partial(_triangle, scaled, centres[-1])):
        factor = np.asarray(np.linalg.qr(np.concatenate([factor, block]), mode="r"))
    yield newton(np.ascontiguousarray(factor.T), mass, gamma)


def coordinates_of_gram(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return coordinates (n, n) of n points with the inner products of the Gram matrix.

    The matrix is scaled to a unit diagonal before its eigendecomposition, so that the error of a
    distance is about n·ε of the larger norm, even if other points are much longer.
    """
    n = len(gram)
    lengths = np.sqrt(gram.diagonal())
    unit = np.divide(1.0, lengths, out=np.zeros(n), where=lengths > 0)
    eigenvalues, eigenvectors = np.linalg.eigh(gram * unit * unit[:, None])
    eigenvalues[eigenvalues < 4 * n * _EPS * eigenvalues[-1]] = 0.0
    return np.asarray(lengths[:, None] * eigenvectors * np.sqrt(eigenvalues))


def _scale_of(rows: Rows, row_map: RowMap) -> _Scaled:
    """Choose powers of two that bring most rows near one, and no row far above that."""
    largest = np.max(list(rows.map(partial(_largest, row_map))), axis=0)
    exponents = np.frexp(largest)[1]
    nonzero = exponents[largest > 0]
    most = int(np.median(nonzero)) if len(nonzero) else 0
    own = np.maximum(np.maximum(most, exponents - _MOST_OCTAVES), -1000)
    factors = np.ldexp(1.0, -own)
    return _Scaled(row_map, factors[:, None], float(np.ldexp(1.0, -max(most, -1000))))


def _certified(
    rows: Rows,
    scaled: _Scaled,
    mass: NDArray[np.float64],
    weights: NDArray[np.float64],
    iterations: int,
) -> tuple[Median, NDArray[np.float64]]:
    """Form the convex combination and certify it on the data; also return the distances from it.

    The dual vectors start from the combination before it is rounded to float64 coordinates (y); the
    objective is that of the rounded one (x).
    """
    point, (to_y, to_x, reach) = _combine(rows, scaled, weights)
    coincident = to_y <= RESOLUTION * reach
    if coincident.any():
        inverse = np.divide(mass, to_y, out=np.zeros_like(mass), where=~coincident)
        residual = 0.0
        if inverse.any():  # Weiszfeld's step from y is the others' gradient over `inverse.sum()`
            _, (from_moved, _, _) = _combine(rows, scaled, inverse / inverse.sum())
            descent = float(inverse.sum() * from_moved[coincident].min())
            residual = max(descent - float(mass[coincident].sum()), 0.0)
    else:
        residual = residual_bound(to_y, mass, weights)
    objective, reached = float(mass @ to_y), float(mass @ to_x)
    excluded = float(mass[coincident] @ to_y[coincident])
    gap = duality_gap(objective, reached, residual=residual, excluded_objective=excluded)
    median = Median(
        point=point,
        objective=float(np.float64(reached) / scaled.factor),
        gap=gap + _ROUNDING if reached > 0 else 0.0,
        residual=residual,
        weights=weights * (scaled.factors[:, 0] / scaled.factor),
        iterations=iterations,
    )
    return median, to_y


def _combine(
    rows: Rows, scaled: _Scaled, weights: NDArray[np.float64]
) -> tuple[NDArray[np.floating], NDArray[np.float64]]:
    """Return the combination, and the distances of each row whose squares `_combined` adds."""
    kernel = partial(_combined, scaled, weights)
    point, squares = join_and_total(rows, kernel, np.dtype(np.float64))
    return point, np.sqrt(squares)


def _largest(row_map: RowMap, block: NDArray[np.floating]) -> NDArray[np.float64]:
    mapped = map_rows(row_map, block)
    return np.asarray(np.maximum(mapped.max(axis=1), -mapped.min(axis=1)), np.float64)


def _gram_about(
    scaled: _Scaled, centre: int | None, block: NDArray[np.floating]
) -> NDArray[np.float64]:
    products = np.zeros((len(scaled.factors), len(scaled.factors)))
    for part in narrow(block):
        offsets = scaled(part)
        if centre is not None:
            offsets -= offsets[centre].copy()
        products += offsets @ offsets.T
    return products


def _triangle(scaled: _Scaled, centre: int, block: NDArray[np.floating]) -> NDArray[np.float64]:
    factor = np.zeros((0, len(scaled.factors)))
    for part in narrow(block, least=max(256, 8 * len(block))):
        offsets = scaled(part)
        offsets -= offsets[centre].copy()
        taller = np.concatenate([factor.T, offsets], axis=1).T  # in LAPACK's memory layout
        factor = np.asarray(np.linalg.qr(taller, mode="r"))
    return factor


def _combined(
    scaled: _Scaled, weights: NDArray[np.float64], block: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the combination of a block, and three squared distances (3, k') of its rows.

    They are those from the combination before and after its rounding, and from the heaviest row,
    the size of the numbers that the others are computed from.
    """
    points, squares = [], np.zeros((3, len(weights)))
    for part in narrow(block):
        values = scaled(part)
        heaviest = values[int(np.argmax(weights))].copy()
        offsets = values - heaviest
        shift = weights @ offsets
        reach = np.einsum("ij,ij->i", offsets, offsets)
        offsets -= shift
        to_y = np.einsum("ij,ij->i", offsets, offsets)
        points.append((heaviest + shift) / scaled.factor)
        values -= points[-1] * scaled.factor
        to_x = np.einsum("ij,ij->i", values, values)
        squares += np.stack([to_y, to_x, reach])
    return np.concatenate(points), squares
