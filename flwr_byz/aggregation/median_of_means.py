"""The paper's robust gradient aggregation A_k: batch means, norm trimming, geometric median.

``form_rows -> gram -> select rows -> median_of_rows``: each takes the result of the one before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import check_number
from .batches import check_batches, split_into_batches
from .geometric_median import median_of_rows
from .gram import Gram, form_and_measure, gram
from .pre_aggregation import NoRowsLeft, TrimNorm, check_trim_norm, select, too_long
from .rows import Rows, StoredRows
from .vectors import as_vectors, check_finite


@dataclass(frozen=True, eq=False)
class GeometricMedianOfMeans:
    """The aggregate of one round, with the norm and the weight of each batch.

    Attributes
    ----------
    point : ndarray (d,)
        Geometric median of the kept batch means, in their precision.
    gap, residual, iterations : float, float, int
        As of `GeometricMedian`.
    batch_norms, batch_weights : ndarray (k,), float64
        Norms of the batch means, not finite where the mean is not, and their weights: ``point`` is
        ``sum(batch_weights[l] * batch_mean[l])``, with zero for a trimmed batch.
    trimmed, not_finite, too_long : ndarray (k,), bool
        Batches that were left out; those whose mean is not finite, which count as Byzantine; and
        those whose mean is longer than τ, which are kept where too few would be left.
    """

    point: NDArray[np.floating]
    gap: float
    residual: float
    iterations: int
    batch_norms: NDArray[np.float64]
    batch_weights: NDArray[np.float64]
    trimmed: NDArray[np.bool_]
    not_finite: NDArray[np.bool_]
    too_long: NDArray[np.bool_]

    @property
    def num_kept(self) -> int:
        """Number of batches in the median."""
        return int((~self.trimmed).sum())

    @property
    def norm(self) -> float:
        """Norm of the point."""
        return float(gram(StoredRows(self.point[None])).norms[0])


def geometric_median_of_means(
    vectors: ArrayLike | Sequence[ArrayLike],
    num_batches: int,
    *,
    trim_norm: TrimNorm = None,
    gamma: float = 1e-9,
    num_byzantine: int | None = None,
) -> GeometricMedianOfMeans:
    """Aggregate the vectors of m clients: the paper's A_k (equation 8, Remark 2).

    Parameters
    ----------
    vectors : array-like (m, d) or sequence of m equal-length vectors
        In client order; real, finite.
    num_batches : int
        k, between 1 (the mean) and m (the geometric median); see `split_into_batches`.
    trim_norm : float, "auto" or None, default None
        τ of Remark 2: batch means of norm above it are left out. "auto" takes twice the median
        norm of the batch means; None trims nothing.
    gamma : float, default 1e-9
        γ > 0 of the (1+γ)-approximate geometric median.
    num_byzantine : int, optional
        q. Nothing is trimmed where 2q batches or fewer would be left; without q, where more than
        (k − 1)//2 are too long.

    Raises ValueError where an argument is out of range, a vector is not finite or of another length
    (the message names its row), or every batch mean is longer than `trim_norm` (NoRowsLeft).
    """
    vectors = as_vectors(vectors, "vectors")
    check_batches(num_byzantine, num_batches)
    batches = split_into_batches([(vector,) for vector in vectors], num_batches)
    rows, measured = form_and_measure(batches, np.dtype(np.float64))
    if not measured.finite.all():
        check_finite(vectors, "vectors")
        assert isinstance(rows, StoredRows)
        for row in np.flatnonzero(~measured.finite):  # its sum left the range of float64
            rows.matrix[row] = mean([vector for (vector,) in batches[row]])
        measured = gram(rows)
    return median_of_means(
        rows, measured, trim_norm=trim_norm, gamma=gamma, num_byzantine=num_byzantine
    )


def median_of_means(
    rows: Rows,
    measured: Gram,
    *,
    trim_norm: TrimNorm = None,
    gamma: float = 1e-9,
    num_byzantine: int | None = None,
) -> GeometricMedianOfMeans:
    """Trim batch means by norm and take the geometric median of the others.

    `measured` is the result of `gram` for the rows; options and errors are those of
    `geometric_median_of_means`. Raises NoRowsLeft also where no row is finite.
    """
    check_trim_norm(trim_norm)
    check_number("gamma", gamma, above=0)
    finite = measured.finite
    if not finite.any():
        raise NoRowsLeft("no batch mean is finite")
    long = np.zeros(len(rows), dtype=np.bool_)
    long[finite] = too_long(measured.norms[finite], trim_norm)
    num_rows, num_long = int(finite.sum()), int(long.sum())
    if num_byzantine is not None:  # an honest majority has to remain
        trims = num_rows - num_long > 2 * max(num_byzantine - int((~finite).sum()), 0)
    else:  # as many as the median withstands: where more are too long, τ is below honest norms
        trims = num_long <= (num_rows - 1) // 2
    kept = finite & ~long if trims else finite
    mass = np.full(int(kept.sum()), 1 / kept.sum())
    median = median_of_rows(rows, mass, gamma, select(kept), measured.products)
    return GeometricMedianOfMeans(
        point=median.point,
        gap=median.gap,
        residual=median.residual,
        iterations=median.iterations,
        batch_norms=measured.norms,
        batch_weights=median.weights,
        trimmed=~kept,
        not_finite=~finite,
        too_long=long,
    )


def mean(vectors: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
    """Average n ≥ 1 finite arrays of one shape, one by one, in float64 and without overflow."""
    with np.errstate(all="ignore"):
        average = sum(vectors, np.zeros(vectors[0].shape)) / len(vectors)
        if not np.isfinite(average).all():
            parts = (vector / np.float64(len(vectors)) for vector in vectors)
            largest = np.finfo(np.float64).max
            average = np.clip(sum(parts, np.zeros(vectors[0].shape)), -largest, largest)
    return np.asarray(average)
