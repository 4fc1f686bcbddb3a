"""The k × k inner products of the rows: a rule needs nothing else, besides the rows themselves.

They determine every norm, every distance between rows, and every distance from a combination.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce

import numpy as np
from numpy.typing import NDArray

from .row_map import RowMap, map_products, selects
from .rows import BatchMeans, Kernel, Rows, StoredRows, Vector, form_rows, narrow
from .threads import one_blas_thread

_MULTIPLIED = 1 << 19  # numbers in one product of matrices
_CANCELS = 1e4  # squared lengths over squared distances: float32 leaves few digits of these
_SCALES = np.ldexp(1.0, [-600, 0, 600])  # one of them brings the squares of any row into range


@dataclass(frozen=True, eq=False)
class Gram:
    """The measures that one pass over k rows takes.

    The `products` (k, k) have an error of at most `relative_error`; they are None where d ≤ k,
    since the rows themselves are the smaller matrix then. Row and column i are not finite where row
    i is not, or where its square overflows.
    """

    products: NDArray[np.float64] | None
    norms: NDArray[np.float64]
    finite: NDArray[np.bool_]  # whether a row holds neither NaN nor infinity


def form_and_measure(
    batches: Sequence[Sequence[Vector]],
    dtype: np.dtype[np.floating],
    centre: Vector | None = None,
    memory: NDArray[np.floating] | None = None,
) -> tuple[Rows, Gram]:
    """Form rows as `form_rows` does, and measure them in the same pass."""
    rows = form_rows(batches, dtype, centre, memory)
    measured = gram(rows)
    return StoredRows(rows.matrix) if isinstance(rows, BatchMeans) else rows, measured


def gram(rows: Rows) -> Gram:
    """Measure the rows in one pass, and rows whose squares overflow or underflow in another.

    Products are added up in the rows' precision within a run of coordinates, and in float64 over
    the runs.
    """
    with one_blas_thread(), np.errstate(all="ignore"):
        products = total(rows, _products) if rows.dim > len(rows) else None
        squares = np.full(len(rows), np.nan) if products is None else products.diagonal()
        norms, finite = np.sqrt(squares), np.ones(len(rows), np.bool_)
        again = np.flatnonzero(~(np.isfinite(squares) & (squares > smallest_square(rows))))
        if len(again):
            shape = len(_SCALES), len(again)
            low, middle, high = np.sqrt(total(rows, partial(_scaled_squares, again), shape))
            finite[again] = np.isfinite(low)
            small = np.where(middle > 1e-140, middle, high / _SCALES[2])
            norms[again] = np.where(np.isinf(middle), low / _SCALES[0], small)
        return Gram(products, norms, finite)


def with_products(rows: Rows, measured: Gram) -> Gram:
    """Return the measures with the products of all finite rows, of however few dimensions.

    Products of rows in float32 that lie close together and far from zero are formed anew in
    float64, for their differences to be seen. Rows whose squares leave the range of float64 count
    as not finite.
    """
    products, shape = measured.products, (len(rows), len(rows))
    with one_blas_thread(), np.errstate(all="ignore"):
        if products is None:
            products = total(rows, _products, shape)
        if rows.dtype == np.float32 and _cancels(products, measured.finite):
            products = total(rows, _careful_products, shape)
    return replace(measured, products=products, finite=np.isfinite(products.diagonal()))


def mapped(measured: Gram, row_map: RowMap) -> Gram:
    """Return the measures of the mapped rows; where a map mixes rows, the products are needed."""
    if row_map is None:
        return measured
    products = measured.products
    if products is not None:
        products = map_products(row_map, products)
    if selects(row_map):
        norms = measured.norms[row_map.argmax(axis=1)]
    else:
        assert products is not None
        norms = np.sqrt(np.maximum(products.diagonal(), 0.0))
    return Gram(products, norms, np.ones(len(norms), np.bool_))


def total(
    rows: Rows, kernel: Kernel[NDArray[np.float64]], shape: tuple[int, ...] = ()
) -> NDArray[np.float64]:
    """Add up the results of a kernel on every block, starting from zeros of a shape."""
    return reduce(np.add, rows.map(kernel), np.zeros(shape))


def join_and_total(
    rows: Rows,
    kernel: Kernel[tuple[NDArray[np.floating], NDArray[np.float64]]],
    dtype: np.dtype[np.floating],
) -> tuple[NDArray[np.floating], NDArray[np.float64]]:
    """Join the coordinates that a kernel returns for every block, and add up its numbers."""
    point, start, sums = np.empty(rows.dim, dtype), 0, np.zeros((), np.float64)
    for coordinates, numbers in rows.map(kernel):
        point[start : start + len(coordinates)] = coordinates
        start += len(coordinates)
        sums = sums + numbers
    return point, sums


def relative_error(rows: Rows) -> float:
    """Return e with |error of ⟨z_i, z_j⟩| ≤ e·‖z_i‖‖z_j‖ for the inner products of `gram`.

    The error of a sum of L products in a precision of unit u is at most L·u/(1 − L·u) times the
    product of the norms, in any order of summation (Higham 2002, "Accuracy and Stability of
    Numerical Algorithms", section 3.1), where nothing underflows.
    """
    unit = float(np.finfo(rows.dtype).eps) / 2
    run = _run(len(rows))
    terms = run + rows.dim // run * (rows.dtype == np.float64) + 2
    return terms * unit / (1 - terms * unit)


def _run(num_rows: int) -> int:
    """Return the coordinates of a run: longer for many rows, where short runs are costly."""
    return 128 if num_rows <= 32 else 1024


def smallest_square(rows: Rows) -> float:
    """Return the sum of squares below which underflow may matter in the rows' precision."""
    limits = np.finfo(rows.dtype)
    return rows.dim * float(limits.tiny) / float(limits.eps)


def distances_between(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distances between rows, (k, k), from their inner products."""
    squares = products.diagonal()
    squared = squares + squares[:, None] - 2 * products
    return np.asarray(np.sqrt(np.maximum(squared, 0.0)))


def offset_products(
    products: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the inner products of the rows' offsets from their combination, (k, k)."""
    about = products @ weights
    return np.asarray(products - about - about[:, None] + weights @ about)


def _cancels(products: NDArray[np.float64], finite: NDArray[np.bool_]) -> bool:
    """Say whether most rows are much longer than their distances; no minority decides it."""
    products = products[np.ix_(finite, finite)]
    if not len(products):
        return False
    nearest = float(np.median(distances_between(products), axis=0).min())
    return float(np.median(products.diagonal())) > _CANCELS * nearest**2


def _products(block: NDArray[np.floating]) -> NDArray[np.float64]:
    products, run = np.zeros((len(block), len(block))), _run(len(block))
    for part in narrow(block, run, _MULTIPLIED):
        of_runs = _products_of_runs(part)
        if np.isfinite(np.diagonal(of_runs, axis1=1, axis2=2)).all():
            products += of_runs.sum(axis=0, dtype=np.float64) if len(of_runs) > 1 else of_runs[0]
        else:  # a square may have left float32
            products += _careful_products(part)
    return products


def _careful_products(block: NDArray[np.floating]) -> NDArray[np.float64]:
    """Form the products in float64."""
    products = np.zeros((len(block), len(block)))
    for part in narrow(block, _run(len(block))):
        products += _products_of_runs(part.astype(np.float64)).sum(axis=0)
    return products


def _products_of_runs(block: NDArray[np.floating]) -> NDArray[np.float64]:
    run = _run(len(block))
    if block.shape[1] % run:
        block = np.pad(block, ((0, 0), (0, -block.shape[1] % run)))
    runs = block.reshape(len(block), -1, run).transpose(1, 0, 2)
    return np.asarray(np.matmul(runs, runs.transpose(0, 2, 1)))


def _scaled_squares(which: NDArray[np.intp], block: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the sums of squares (3, n) of rows multiplied by each of `_SCALES`."""
    squares = np.zeros((len(_SCALES), len(which)))
    for part in narrow(block):
        values = part[which].astype(np.float64)
        squares += [np.square(scale * values).sum(axis=1) for scale in _SCALES]
    return squares
