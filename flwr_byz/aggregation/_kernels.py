"""Kernels on one block of coordinates of k points, (k, width).

Matrix products are cut so small that BLAS does not split them between its own threads: the same
bytes come out for any number of threads, and threads of ours do not wait for those of BLAS.
"""

import numpy as np
from numpy.typing import NDArray

INNER = 128  # coordinates that a product adds up in the points' own precision
_TILE = 50  # rows of a product
_HELD = 1 << 20  # numbers that are held of products at a time
_CACHED = 1 << 18  # numbers that are held in float64 at a time, to stay in a core's cache
_CHUNK = 8192  # coordinates that are looked at together, where that many can be held


def gram(rows: NDArray[np.floating], last: NDArray[np.floating] | None) -> NDArray[np.float64]:
    """Return the upper triangle of the Gram matrix of the rows and of one more row (or zero)."""
    k, width = rows.shape
    products = np.zeros((k + 1, k + 1))
    whole = width - width % INNER
    step = max(min(_HELD // (k * k), _HELD // (2 * k * INNER)), 1) * INNER
    runs = [(start, min(start + step, whole), INNER) for start in range(0, whole, step)]
    if whole < width:
        runs.append((whole, width, width - whole))
    for start, stop, inner in runs:
        stack = rows[:, start:stop].reshape(k, -1, inner).transpose(1, 0, 2)
        part = _gram_of_stack(stack)
        if not np.isfinite(part.diagonal()).all():
            part = _gram_of_stack(stack.astype(np.float64))
        products[:k, :k] += part
        if last is not None:
            column = last[start:stop].reshape(-1, inner, 1).astype(np.float64)
            products[:k, k] += np.matmul(stack, column).sum(axis=0)[:, 0]
            products[k, k] += np.square(column).sum()
    return products


def _gram_of_stack(stack: NDArray[np.floating]) -> NDArray[np.float64]:
    """Add up the upper triangles of the Gram matrices of a stack, (s, k, inner)."""
    k = stack.shape[1]
    products = np.zeros((k, k))
    tiles = -(-k // _TILE)
    cuts = [k * i // tiles for i in range(tiles + 1)]
    for i in range(tiles):
        upper = stack[:, cuts[i] : cuts[i + 1]]
        for j in range(i, tiles):
            lower = stack[:, cuts[j] : cuts[j + 1]].transpose(0, 2, 1)
            tile = np.matmul(upper, lower).sum(axis=0, dtype=np.float64)
            products[cuts[i] : cuts[i + 1], cuts[j] : cuts[j + 1]] = tile
    return products


def combination(weights: NDArray[np.floating], rows: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the weighted sum of the rows, (width,), in their precision."""
    k, width = rows.shape
    whole = width - width % INNER
    stack = rows[:, :whole].reshape(k, -1, INNER).transpose(1, 0, 2)
    return np.concatenate([np.matmul(weights, stack).ravel(), weights @ rows[:, whole:]])


def squared_distances(
    weights: NDArray[np.float64], rows: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return squares of the rows' distances from their combination, of their norms, and of its.

    All of it in float64.
    """
    distances, norms, norm = np.zeros(len(rows)), np.zeros(len(rows)), 0.0
    chunk = max(min(_CHUNK, _CACHED // len(rows)), 1)
    for start in range(0, rows.shape[1], chunk):
        offsets = rows[:, start : start + chunk].astype(np.float64)
        norms += np.einsum("ij,ij->i", offsets, offsets)
        place = weights @ offsets
        norm += float(place @ place)
        offsets -= place
        distances += np.einsum("ij,ij->i", offsets, offsets)
    return distances, norms, norm
