"""The geometric median of rows in their own precision, found from their inner products."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from .careful import Median
from .certificate import curvature_gap, residual_bound
from .gram import (
    join_and_total,
    offset_products,
    relative_error,
    smallest_square,
)
from .row_map import RowMap, map_rows, map_weights
from .rows import Rows, narrow
from .solvers import weiszfeld
from .threads import one_blas_thread

_SUMMED = 256  # squares that are added up in the rows' own precision
_ADDED = 128  # rows that are added up in their own precision


def fast_median(
    rows: Rows,
    mass: NDArray[np.float64],
    gamma: float,
    row_map: RowMap,
    products: NDArray[np.float64],
    norms: NDArray[np.float64],
) -> Median | None:
    """Find the median in one more pass over the data; None or a large gap where that fails.

    Where rows are not much longer than the distances, the inner products give these accurately
    enough to certify the median; otherwise they are measured. `products` (k', k') are those of the
    mapped rows, `norms` (k,) those of the rows.
    """
    found = weiszfeld(products, mass, gamma) if np.isfinite(products).all() else None
    if found is None:
        return None
    weights, iterations = found
    mapping = np.eye(len(weights)) if row_map is None else row_map
    on_rows = map_weights(row_map, weights)
    used = mapping.any(axis=0)
    norms, offsets = norms[used], mapping[:, used] - on_rows[used]
    typical = float(on_rows[used] @ norms)
    unit = float(np.finfo(rows.dtype).eps) / 2
    roundings = min(len(on_rows), _ADDED) + len(on_rows) // _ADDED + 2
    moved = roundings * unit * typical
    # The weight of a row that is very far off may round to a denormal number, or to zero.
    moved += float(np.abs(on_rows - on_rows.astype(rows.dtype))[used] @ norms)
    shortest = float(products.diagonal().min())
    products = offset_products(products, weights)
    # An offset is Σ c_a z_a: the error of a product of two is at most e·Σ|c_a|‖z_a‖·Σ|c′_a|‖z_a‖.
    errors = np.sqrt(relative_error(rows)) * (np.abs(offsets) @ norms)
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
    measures = gap > gamma or shortest <= smallest_square(rows)
    kernel = partial(_combined, on_rows, row_map, measures)
    point, squares = join_and_total(rows, kernel, rows.dtype)
    if measures:
        distances = np.sqrt(squares)
        if not (np.isfinite(distances).all() and distances.min() ** 2 > smallest_square(rows)):
            return None
        gap, residual = certified(distances, measured_error)
    return Median(point, float(mass @ distances), gap, residual, weights, iterations)


def combine(rows: Rows, weights: NDArray[np.float64]) -> NDArray[np.floating]:
    """Return the combination of the rows (d,) under weights (k,), in their precision."""
    with one_blas_thread(), np.errstate(all="ignore"):
        parts = list(rows.map(partial(_combination, weights)))
    return np.concatenate([np.zeros(0, rows.dtype), *parts])


def _combined(
    weights: NDArray[np.float64], row_map: RowMap, measures: bool, block: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.float64]]:
    """Combine a block of rows, and measure the squares of the mapped rows' distances, if asked.

    The distances (k',) have an error of at most ``_SUMMED/2 + 3`` roundings of the block's
    precision, where nothing underflows.
    """
    coordinates = _combination(weights, block)
    if not measures:
        return coordinates, np.zeros(())
    mapped = map_rows(row_map, block)
    squares, start = np.zeros(len(mapped)), 0
    is_copy = mapped.flags.writeable
    parts = (mapped,) if is_copy else narrow(mapped, _SUMMED, 3 << 16)
    for part in parts:
        of_part = coordinates[start : start + part.shape[1]]
        offsets = np.subtract(part, of_part, out=part if is_copy else None)
        start += part.shape[1]
        measured = _squared_norms(offsets)
        if not np.isfinite(measured).all():  # a square may have left float32
            measured = _squared_norms(offsets.astype(np.float64))
        squares += measured
    return coordinates, squares


def _combination(
    weights: NDArray[np.floating], block: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Return ``weights @ block``; rows without weight may hold NaN."""
    used = weights != 0.0
    weights = weights.astype(block.dtype)
    if used.all():
        return _weighted_sum(weights, block)
    return _weighted_sum(weights[used], block[used])


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
