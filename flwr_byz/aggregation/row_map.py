"""Linear maps of the rows, applied to what is known of them instead of to the data.

A map is a matrix T (k', k), and the mapped rows are ``T @ rows``. Their inner products are
``T @ products @ T.T``, and weights w on them are weights ``T.T @ w`` on the rows: a map costs no
pass over the data.
"""

import numpy as np
from numpy.typing import NDArray

RowMap = NDArray[np.float64] | None  # None leaves the rows as they are


def select(kept: NDArray[np.bool_]) -> RowMap:
    """Return the map that selects the `kept` rows."""
    return None if kept.all() else np.eye(len(kept))[kept]


def compose(second: RowMap, first: RowMap) -> RowMap:
    """Return the map that applies `first` and then `second`."""
    if second is None or first is None:
        return first if second is None else second
    return np.asarray(second @ first)


def selects(row_map: RowMap) -> bool:
    """Say whether every mapped row is one of the rows."""
    if row_map is None:
        return True
    return bool(((row_map != 0.0).sum(axis=1) == 1).all() and (row_map.sum(axis=1) == 1.0).all())


def map_rows(row_map: RowMap, block: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return ``row_map @ block``: exactly where the map only selects rows, else in float64.

    Rows that the map does not use may hold NaN.
    """
    if row_map is None:
        return block
    if selects(row_map):
        selected: NDArray[np.floating] = block[row_map.argmax(axis=1)]
        return selected
    used = row_map.any(axis=0)
    return np.asarray(row_map[:, used] @ block[used].astype(np.float64))


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
