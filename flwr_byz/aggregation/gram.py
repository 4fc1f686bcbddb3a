"""Inner products of the rows: next to the rows themselves, all that a rule looks at.

Every distance between rows, every norm, and every distance from a combination of rows follows from
their k × k inner products.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, reduce

import numpy as np
from numpy.typing import NDArray

from .rows import Rows, narrow
from .threads import one_blas_thread

_SUMMED = 1024  # coordinates whose products are added up in the rows' own precision
_HELD = 1 << 22  # numbers of a block, and of its products, that are worked on together

Kernel = Callable[[NDArray[np.floating]], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Gram:
    """What one pass over k rows tells of them.

    Attributes
    ----------
    products : ndarray (k, k), float64, or None
        Their inner products, off by at most `relative_error`; None where d ≤ k, for then the rows
        themselves are the smaller matrix. Not finite in row and column i where row i is not, or
        where its square overflows.
    norms : ndarray (k,), float64
    finite : ndarray (k,), bool
        Whether a row holds neither NaN nor infinity.
    """

    products: NDArray[np.float64] | None
    norms: NDArray[np.float64]
    finite: NDArray[np.bool_]


def gram(rows: Rows) -> Gram:
    """Measure the rows in one pass over the data, and again those whose squares leave the range.

    Products are added up in the rows' precision over a run of coordinates and in float64 over the
    runs.
    """
    with one_blas_thread(), np.errstate(all="ignore"):
        products = total(rows, _products) if rows.dim > len(rows) else None
        squares = np.full(len(rows), np.nan) if products is None else products.diagonal()
        norms, finite = np.sqrt(squares), np.ones(len(rows), np.bool_)
        again = np.flatnonzero(~(np.isfinite(squares) & (squares > smallest_square(rows))))
        if len(again):
            largest = reduce(np.maximum, _parts(rows, partial(_largest, again)), np.zeros(1))
            finite[again] = np.isfinite(largest)
            exponents = np.maximum(np.frexp(np.where(finite[again], largest, 1.0))[1], -1000)
            factors = np.ldexp(1.0, -exponents)[:, None]
            scaled = np.sqrt(total(rows, partial(_scaled_squares, again, factors)))
            norms[again] = np.ldexp(scaled, exponents)
        return Gram(products, norms, finite)


def total(rows: Rows, kernel: Kernel) -> NDArray[np.float64]:
    """Add up what a kernel makes of every block; 0 where there is none."""
    return reduce(np.add, _parts(rows, kernel), np.zeros(()))


def relative_error(rows: Rows) -> float:
    """Return e with |error of ⟨z_i, z_j⟩| ≤ e·‖z_i‖‖z_j‖ for the inner products of `gram`.

    A sum of L products in a precision of unit u is off by at most L·u/(1 − L·u) times the product
    of the norms, in whatever order it is added up (Higham 2002, "Accuracy and Stability of
    Numerical Algorithms", section 3.1), where nothing underflows.
    """
    unit = float(np.finfo(rows.dtype).eps) / 2
    terms = min(rows.dim, _SUMMED) + rows.dim // _SUMMED * (rows.dtype == np.float64) + 2
    return terms * unit / (1 - terms * unit)


def smallest_square(rows: Rows) -> float:
    """Return the sum of squares below which underflow may show in the rows' precision."""
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
    moved: NDArray[np.float64] = products - about - about[:, None] + weights @ about
    return moved


def _parts(rows: Rows, kernel: Kernel) -> Iterator[NDArray[np.float64]]:
    return (part for parts in rows.map(kernel) for part in parts)


def _products(block: NDArray[np.floating]) -> NDArray[np.float64]:
    k, width = block.shape
    products = np.zeros((k, k))
    step = _SUMMED * max(_HELD // (k * max(k, _SUMMED)), 1)
    for start in range(0, width, step):
        part = block[:, start : start + step]
        of_part = _products_of_runs(part)
        if not np.isfinite(of_part.diagonal()).all():
            shrunk, factors = shrink(part, np.isfinite(of_part.diagonal()))
            of_part = _products_of_runs(shrunk) / factors / factors[:, None]
        products += of_part
    return products


def _products_of_runs(block: NDArray[np.floating]) -> NDArray[np.float64]:
    k, width = block.shape
    whole = width - width % _SUMMED
    runs = block[:, :whole].reshape(k, -1, _SUMMED).transpose(1, 0, 2)
    products = np.matmul(runs, runs.transpose(0, 2, 1)).sum(axis=0, dtype=np.float64)
    last = block[:, whole:]
    products += last @ last.T
    return np.asarray(products)


def shrink(
    rows: NDArray[np.floating], fits: NDArray[np.bool_]
) -> tuple[NDArray[np.floating], NDArray[np.float64]]:
    """Multiply rows whose squares leave float32 by a power of two; return it for each row, too."""
    factors = np.where(fits, 1.0, 2.0**-80)
    return rows * factors[:, None].astype(rows.dtype), factors


def _largest(which: NDArray[np.intp], block: NDArray[np.floating]) -> NDArray[np.float64]:
    largest = np.zeros(len(which))
    for part in narrow(block):
        chosen = part[which]
        np.maximum(largest, np.maximum(chosen.max(axis=1), -chosen.min(axis=1)), out=largest)
    return largest


def _scaled_squares(
    which: NDArray[np.intp], factors: NDArray[np.float64], block: NDArray[np.floating]
) -> NDArray[np.float64]:
    squares = np.zeros(len(which))
    for part in narrow(block):
        scaled = np.multiply(part[which], factors, dtype=np.float64)
        squares += np.einsum("ij,ij->i", scaled, scaled)
    return squares
