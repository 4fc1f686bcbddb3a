"""Coordinates of n points in few dimensions that keep every distance between them.

The geometric median is a convex combination of its points, so all that matters of n points in
d > n dimensions is the n numbers that place each of them in the subspace they span.
"""

import numpy as np
from numpy.typing import NDArray

from ._vectors import Vectors, block, column_blocks

_EPS = float(np.finfo(np.float64).eps)


def central_row(vectors: Vectors, scale: float) -> NDArray[np.float64]:
    """Return a vector near most others: the medoid of a few rows, judged on a few columns.

    (d,), scaled. Centring on it keeps small distances between vectors far from the origin.
    """
    n, d = len(vectors), len(vectors[0])
    columns = np.unique(np.linspace(0, d - 1, 256, dtype=np.intp)) if d else np.arange(0)
    sample = np.stack([np.multiply(row[columns], scale, dtype=np.float64) for row in vectors])
    candidates = np.unique(np.linspace(0, n - 1, 64, dtype=np.intp))
    typical_distance = [
        np.median(np.linalg.norm(sample - sample[candidate], axis=1)) for candidate in candidates
    ]
    row = vectors[int(candidates[np.argmin(typical_distance)])]
    return np.multiply(row, scale, dtype=np.float64)


def coordinatewise_median(vectors: Vectors, scale: float) -> NDArray[np.float64]:
    """Return the median of each coordinate, (d,), scaled: near the majority whatever the rest."""
    n, d = len(vectors), len(vectors[0])
    median = np.empty(d)
    for columns in column_blocks(n, d):
        median[columns] = np.median(block(vectors, columns, scale), axis=0)
    return median


def gram_coordinates(
    vectors: Vectors, scale: float, centre: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Place n points in n dimensions from their Gram matrix about `centre`: one fast pass.

    Squared distances are right to about n·ε of the larger squared norm (about the centre), however
    much longer other points are: the Gram matrix is scaled to a unit diagonal before its
    eigendecomposition. Directions below that resolution are dropped.
    """
    n, d = len(vectors), len(vectors[0])
    gram = np.zeros((n, n))
    for columns in column_blocks(n, d):
        offsets = block(vectors, columns, scale)
        offsets -= centre[columns]
        gram += offsets @ offsets.T
    return coordinates_of_gram(gram)


def coordinates_of_gram(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Place n points in n dimensions so that their inner products are those of the Gram matrix."""
    n = len(gram)
    lengths = np.sqrt(gram.diagonal())
    unit = np.divide(1.0, lengths, out=np.zeros(n), where=lengths > 0)
    eigenvalues, eigenvectors = np.linalg.eigh(gram * unit * unit[:, None])
    eigenvalues[eigenvalues < 4 * n * _EPS * eigenvalues[-1]] = 0.0
    coordinates: NDArray[np.float64] = lengths[:, None] * eigenvectors * np.sqrt(eigenvalues)
    return coordinates


def qr_coordinates(
    vectors: Vectors, scale: float, centre: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Place n points in n dimensions by a QR factorisation, block by block: slow and exact.

    Each coordinate is right to a small multiple of ε of its own point's norm about the centre
    (column-wise backward stability of Householder QR).
    """
    n, d = len(vectors), len(vectors[0])
    factor = np.zeros((0, n))
    for columns in column_blocks(n, d):
        offsets = block(vectors, columns, scale)
        offsets -= centre[columns]
        factor = np.asarray(np.linalg.qr(np.concatenate([factor, offsets.T]), mode="r"))
    return np.ascontiguousarray(factor.T)


def plain_coordinates(
    vectors: Vectors, scale: float, centre: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the points themselves about `centre`, (n, d): the choice where d ≤ n."""
    return block(vectors, slice(None), scale) - centre
