"""The (1+γ)-approximate geometric median (the paper's equation 6), with a certificate."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import check_number, wrong_value
from .careful import Median, careful_median
from .certificate import curvature_gap, residual_bound
from .gram import gram, join_and_total, offset_products, relative_error, smallest_square
from .pre_aggregation import RowMap, map_products, map_rows, map_weights, select
from .rows import ReplyRows, Rows, StoredRows, narrow
from .solvers import weiszfeld
from .threads import one_blas_thread
from .vectors import Vectors, as_vectors, check_finite

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_SUMMED = 256  # squares that are added up in the rows' own precision
_ADDED = 128  # rows that are added up in their own precision


@dataclass(frozen=True, eq=False)
class GeometricMedian:
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

    point: NDArray[np.float64]
    objective: float
    gap: float
    residual: float
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
    most γ. Where the minimiser is not unique (collinear points) it is one of them. Arbitrary points
    with a share α < 1/2 of the weight move the median by at most (1 − α)/√(1 − 2α) times the radius
    of the others.

    Parameters
    ----------
    points : array-like (n, d) or sequence of n equal-length vectors
        Real, finite, any float or integer dtype; n ≥ 1. An array (n, d) is not copied. Points in
        float32 are processed in float32 where that certifies γ, all others in float64.
    weights : array-like (n,), optional
        Nonnegative masses of the points, not all zero; equal by default.
    gamma : float, default 1e-9
        γ > 0, the required gap. Below about 1e-13 rounding decides; compare the returned gap.

    Raises ValueError where a point is not finite, not real or of another length (the message names
    its row), a weight is negative or not finite, or γ is not positive.

    Notes
    -----
    One pass over the data forms the inner products of the points, Weiszfeld's fixed point on their
    n × n matrix finds the weights, and one more pass forms the combination and measures the
    distances from it, which certify it by the strong convexity of the objective. Where that fails
    (the median is one of the points, points are collinear, cancellation destroys the inner
    products), the same is done in float64 with Newton's method and weak duality.

    Examples
    --------
    >>> import numpy as np
    >>> from flwr_byz.aggregation import geometric_median
    >>> points = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0], [0.0, 1e9]])
    >>> bool(np.linalg.norm(geometric_median(points).point) < 2)
    True
    """
    vectors = as_vectors(points, "points")
    check_number("gamma", gamma, above=0)
    mass = _as_mass(weights, len(vectors))
    share = mass[mass > 0] / mass.max()
    share /= share.sum()
    rows = _as_rows(vectors)
    measured = gram(rows)
    if not measured.finite.all():
        check_finite(vectors, "points")
    median = median_of_rows(rows, share, gamma, select(mass > 0), measured.products)
    with np.errstate(over="ignore"):
        objective = float(np.float64(median.objective) * mass.sum())
    point = median.point.astype(np.float64, copy=False)
    return GeometricMedian(
        point, objective, median.gap, median.residual, median.weights, median.iterations
    )


def median_of_rows(
    rows: Rows,
    mass: NDArray[np.float64],
    gamma: float,
    row_map: RowMap,
    products: NDArray[np.float64] | None,
) -> Median:
    """Find the geometric median of the k' mapped rows ``row_map @ rows``, to a gap of γ.

    Rows that `row_map` uses are finite; `mass` (k',) is positive and sums to one. `products` (k, k)
    are the rows' inner products from `gram`. The returned weights are those of the rows (k,).
    """
    if rows.dim == 0:
        weights = map_weights(row_map, mass)
        return Median(np.zeros(0), 0.0, gap=0.0, residual=0.0, weights=weights, iterations=0)
    with one_blas_thread(), np.errstate(all="ignore"):
        median = None
        if products is not None:
            products = map_products(row_map, products)
            median = _fast_median(rows, mass, gamma, row_map, products)
        if median is None or not median.gap <= gamma:
            median = careful_median(rows, mass, gamma, row_map, products)
    return replace(median, weights=map_weights(row_map, median.weights))


def _fast_median(
    rows: Rows,
    mass: NDArray[np.float64],
    gamma: float,
    row_map: RowMap,
    products: NDArray[np.float64],
) -> Median | None:
    """Find the median in one more pass over the data; None or a large gap where that fails.

    Where rows are not much longer than the distances, the inner products give these accurately
    enough to certify the median; otherwise they are measured.
    """
    found = weiszfeld(products, mass, gamma) if np.isfinite(products).all() else None
    if found is None:
        return None
    weights, iterations = found
    norms = np.sqrt(products.diagonal())
    typical = float(weights @ norms)
    unit = float(np.finfo(rows.dtype).eps) / 2
    roundings = min(len(weights), _ADDED) + len(weights) // _ADDED + 2
    moved = roundings * unit * typical
    # The weight of a row that is very far off may round to a denormal number, or to zero.
    moved += float(np.abs(weights - weights.astype(rows.dtype)) @ norms)
    products = offset_products(products, weights)
    errors = np.sqrt(relative_error(rows)) * (norms + typical)
    is_middle = len(mass) == 2 and mass[0] == mass[1]  # all points between two are medians

    def certified(distances: NDArray[np.float64], error: float) -> tuple[float, float]:
        residual = residual_bound(distances, mass, weights, distance_error=error, moved=moved)
        if is_middle:
            return residual**2, residual
        gap = curvature_gap(products, distances, mass, errors, residual, error, moved)
        return gap, residual

    distances = np.sqrt(products.diagonal())
    measured_error = (_SUMMED / 2 + 3) * unit
    if certified(distances, measured_error)[0] > gamma:  # measured distances would not help
        return None
    # |√(1 ± t) − 1| ≤ 0.6·t for t ≤ 1/2; for larger t nothing is certified.
    error = 0.6 * float(np.square(errors / distances).max()) + moved / float(distances.min())
    gap, residual = certified(distances, error)
    measures = gap > gamma or norms.min() ** 2 <= smallest_square(rows)
    kernel = partial(_combined, weights.astype(rows.dtype), row_map, measures)
    point, squares = join_and_total(rows, kernel, rows.dtype)
    if measures:
        distances = np.sqrt(squares)
        if not (np.isfinite(distances).all() and distances.min() ** 2 > smallest_square(rows)):
            return None
        gap, residual = certified(distances, measured_error)
    return Median(point, float(mass @ distances), gap, residual, weights, iterations)


def _combined(
    weights: NDArray[np.floating], row_map: RowMap, measures: bool, block: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.float64]]:
    """Combine a block of mapped rows, and measure the squares of their distances from it, if asked.

    The distances (k',) have an error of at most ``_SUMMED/2 + 3`` roundings of the block's
    precision, where nothing underflows.
    """
    mapped = map_rows(row_map, block)
    coordinates = _weighted_sum(weights, mapped)
    squares, start = np.zeros(len(mapped)), 0
    is_copy = mapped.flags.writeable
    parts = (mapped,) if is_copy else narrow(mapped, _SUMMED, 3 << 16)
    for part in parts if measures else ():
        of_part = coordinates[start : start + part.shape[1]]
        offsets = np.subtract(part, of_part, out=part if is_copy else None)
        start += part.shape[1]
        measured = _squared_norms(offsets)
        if not np.isfinite(measured).all():  # a square may have left float32
            measured = _squared_norms(offsets.astype(np.float64))
        squares += measured
    return coordinates, squares


def _weighted_sum(
    weights: NDArray[np.floating], block: NDArray[np.floating]
) -> NDArray[np.floating]:
    starts = range(0, len(block), _ADDED)
    parts = [weights[i : i + _ADDED] @ block[i : i + _ADDED] for i in starts]
    if len(parts) == 1:
        return parts[0]
    return np.sum(parts, axis=0, dtype=np.float64).astype(block.dtype)


def _squared_norms(offsets: NDArray[np.floating]) -> NDArray[np.float64]:
    k, width = offsets.shape
    whole = width - width % _SUMMED
    runs, last = offsets[:, :whole].reshape(k, -1, _SUMMED), offsets[:, whole:]
    squares = np.matmul(runs[..., None, :], runs[..., None])[..., 0, 0].sum(axis=1, dtype="f8")
    return np.asarray(squares + np.einsum("ij,ij->i", last, last))


def _as_rows(vectors: Vectors) -> Rows:
    if isinstance(vectors, np.ndarray) and vectors.dtype in (_FLOAT32, _FLOAT64):
        return StoredRows(vectors)
    all_float32 = all(row.dtype == _FLOAT32 for row in vectors)
    return ReplyRows([(row,) for row in vectors], _FLOAT32 if all_float32 else _FLOAT64)


def _as_mass(weights: ArrayLike | None, num_points: int) -> NDArray[np.float64]:
    if weights is None:
        return np.ones(num_points)
    mass = np.asarray(weights, dtype=np.float64)
    if mass.shape != (num_points,):
        raise ValueError(f"weights must have shape ({num_points},), got {mass.shape}")
    if not (np.isfinite(mass).all() and (mass >= 0).all() and mass.any()):
        raise wrong_value("weights", "nonnegative, finite and not all zero", weights)
    return mass
