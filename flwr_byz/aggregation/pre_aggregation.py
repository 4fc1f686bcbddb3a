"""Linear maps of the rows before their median.

A map is a matrix T (k', k), and the mapped rows are ``T @ rows``. Their inner products are
``T @ products @ T.T``, and weights w on them are weights ``T.T @ w`` on the rows: a map costs no
pass over the data.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..checks import check_number

TrimNorm = float | Literal["auto"] | None
RowMap = NDArray[np.float64] | None  # None leaves the rows as they are


class NoRowsLeft(ValueError):
    """No row is left for the median."""


def select(kept: NDArray[np.bool_]) -> RowMap:
    """Return the map that selects the `kept` rows."""
    return None if kept.all() else np.eye(len(kept))[kept]


def map_rows(row_map: RowMap, block: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return ``row_map @ block``, exactly where the map only selects rows."""
    if row_map is None:
        return block
    used = row_map.any(axis=0)  # the others may hold NaN
    if np.count_nonzero(row_map) == len(row_map) and (row_map.sum(axis=1) == 1.0).all():
        selected: NDArray[np.floating] = block[row_map.argmax(axis=1)]
        return selected
    mapped: NDArray[np.floating] = row_map[:, used].astype(block.dtype) @ block[used]
    return mapped


def map_products(row_map: RowMap, products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``row_map @ products @ row_map.T``: the inner products of the mapped rows."""
    if row_map is None:
        return products
    used = row_map.any(axis=0)
    left = row_map[:, used]
    mapped: NDArray[np.float64] = left @ products[np.ix_(used, used)] @ left.T
    return mapped


def map_weights(row_map: RowMap, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``row_map.T @ weights``: the weights on the rows, given those on the mapped rows."""
    return weights if row_map is None else weights @ row_map


def too_long(norms: NDArray[np.float64], trim_norm: TrimNorm) -> NDArray[np.bool_]:
    """Mark the rows whose norm is above τ (the paper's Remark 2).

    "auto" is twice the median of the norms (k,); None marks nothing. Raises NoRowsLeft where all
    rows are too long.
    """
    if trim_norm is None:
        return np.zeros(len(norms), dtype=np.bool_)
    with np.errstate(all="ignore"):
        limit = 2.0 * float(np.median(norms)) if trim_norm == "auto" else trim_norm
    marked: NDArray[np.bool_] = norms > limit
    if marked.all():
        shortest = f"the shortest batch mean has norm {norms.min():.6g}"
        raise NoRowsLeft(f"trim_norm = {trim_norm} leaves no batch: {shortest}")
    return marked


def check_trim_norm(trim_norm: TrimNorm) -> None:
    """Check that τ is a positive number, "auto" or None."""
    if trim_norm is not None and not (isinstance(trim_norm, str) and trim_norm == "auto"):
        check_number("trim_norm", trim_norm, above=0, note=', "auto" or None')
