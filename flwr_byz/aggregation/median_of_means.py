"""Robust means: the paper's A_k, and any other rule behind any pre-aggregation.

``form_rows -> gram -> pre-aggregation -> rule``: each takes the result of the one before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .batches import check_batches, split_into_batches
from .geometric_median import GeometricMedian
from .gram import Gram, form_and_measure, gram, mapped, with_products
from .pre_aggregation import (
    NormTrimming,
    NoRowsLeft,
    PreAggregation,
    TrimNorm,
    check_trim_norm,
    minority,
)
from .row_map import RowMap, compose, select
from .rows import Rows, StoredRows, Vector
from .rule import Combination, Rule
from .threads import one_blas_thread
from .vectors import Vectors, as_vectors, check_finite


@dataclass(frozen=True, eq=False)
class Aggregate:
    """The aggregate of one round, with the norm and the weight of each batch.

    Attributes
    ----------
    combination : Combination
        Point and weights, and how far to trust them.
    batch_norms : ndarray (k,), float64
        Norms of the batch means, not finite where the mean is not.
    trimmed, not_finite, too_long : ndarray (k,), bool
        Batches that were left out by norm or are not finite; those whose mean is not finite, which
        count as Byzantine; and those whose mean is longer than τ of a `NormTrimming` that comes
        first, which are kept where too few would be left.
    num_rows : int
        Rows that the rule was given.
    """

    combination: Combination
    batch_norms: NDArray[np.float64]
    trimmed: NDArray[np.bool_]
    not_finite: NDArray[np.bool_]
    too_long: NDArray[np.bool_]
    num_rows: int

    @property
    def point(self) -> NDArray[np.floating]:
        """What the rule makes of the kept batch means, (d,), in their precision."""
        return self.combination.point

    @property
    def batch_weights(self) -> NDArray[np.float64]:
        """Weights of the batch means in the point, (k,); zero for a trimmed batch."""
        return self.combination.weights

    @property
    def gap(self) -> float:
        """As of `Median`; NaN where the rule is no geometric median."""
        return self.combination.gap

    @property
    def residual(self) -> float:
        """As of `Median`; NaN where the rule is no geometric median."""
        return self.combination.residual

    @property
    def iterations(self) -> int:
        """Steps of the solver."""
        return self.combination.iterations

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
    pre_aggregation: Sequence[PreAggregation] = (),
    num_byzantine: int | None = None,
) -> Aggregate:
    """Aggregate the vectors of m clients: the paper's A_k (equation 8, Remark 2).

    Parameters
    ----------
    vectors : array-like (m, d) or sequence of m equal-length vectors
        In client order; real, finite.
    num_batches : int
        k, between 1 (the mean) and m (the geometric median); see `split_into_batches`.
    trim_norm : float, "auto" or None, default None
        τ of Remark 2: batch means of norm above it are left out. "auto" takes twice the median
        norm of the batch means; None trims nothing. It is a `NormTrimming` before all else.
    gamma : float, default 1e-9
        γ > 0 of the (1+γ)-approximate geometric median.
    pre_aggregation : sequence, default ()
        What maps the batch means before their median, one after the other.
    num_byzantine : int, optional
        q. Nothing is trimmed where 2q batches or fewer would be left; without q, where more than
        (k − 1)//2 are too long.

    Raises ValueError where an argument is out of range, a vector is not finite or of another length
    (the message names its row), or every batch mean is longer than `trim_norm` (NoRowsLeft).
    """
    entries = (*trimming(trim_norm), *pre_aggregation)
    return robust_mean(
        vectors,
        num_batches,
        rule=GeometricMedian(gamma),
        pre_aggregation=entries,
        num_byzantine=num_byzantine,
    )


def robust_mean(
    vectors: ArrayLike | Sequence[ArrayLike],
    num_batches: int | None = None,
    *,
    rule: Rule,
    pre_aggregation: Sequence[PreAggregation] = (),
    num_byzantine: int | None = None,
    server_round: int = 0,
) -> Aggregate:
    """Aggregate the vectors of m clients by any rule behind any pre-aggregation.

    Parameters
    ----------
    vectors, pre_aggregation, num_byzantine
        As of `geometric_median_of_means`.
    num_batches : int, optional
        k; by default m, every vector for itself.
    rule
        Such as ``SpectralFilter()``.
    server_round : int, default 0
        What `Bucketing` draws from, together with its seed.

    Raises ValueError as `geometric_median_of_means`.

    Examples
    --------
    >>> import numpy as np
    >>> from flwr_byz.aggregation import NearestNeighborMixing, SpectralFilter, robust_mean
    >>> vectors = np.random.default_rng(0).normal(size=(20, 100))
    >>> vectors[:4] += 10.0
    >>> mean = robust_mean(vectors, rule=SpectralFilter(), num_byzantine=4).point
    >>> bool(np.linalg.norm(mean) < 5)
    True
    """
    vectors, batches = as_batches(vectors, num_batches, num_byzantine)
    rows, measured = form_and_measure(batches, np.dtype(np.float64))
    if not measured.finite.all():
        check_finite(vectors, "vectors")
        assert isinstance(rows, StoredRows)
        for row in np.flatnonzero(~measured.finite):  # its sum left the range of float64
            rows.matrix[row] = mean([vector for (vector,) in batches[row]])
        measured = gram(rows)
    return aggregate(
        rows,
        measured,
        rule=rule,
        pre_aggregation=pre_aggregation,
        num_byzantine=num_byzantine,
        server_round=server_round,
    )


def as_batches(
    vectors: ArrayLike | Sequence[ArrayLike], num_batches: int | None, num_byzantine: int | None
) -> tuple[Vectors, list[Sequence[Vector]]]:
    """Check the arguments of `robust_mean`; return the vectors, and them in their batches."""
    checked = as_vectors(vectors, "vectors")
    num_batches = len(checked) if num_batches is None else num_batches
    check_batches(num_byzantine, num_batches)
    return checked, split_into_batches([(vector,) for vector in checked], num_batches)


def aggregate(
    rows: Rows,
    measured: Gram,
    *,
    rule: Rule,
    pre_aggregation: Sequence[PreAggregation] = (),
    num_byzantine: int | None = None,
    num_malformed: int = 0,
    server_round: int = 0,
) -> Aggregate:
    """Map the rows by pre-aggregation, and combine them by the rule.

    `measured` is the result of `gram` for the rows; options and errors are those of `robust_mean`.
    Of the q Byzantine clients `num_malformed` are known to be in no row. There is an honest
    majority while the others are fewer than half of the rows; but the rule goes on to assume q,
    where so many are fewer than half, for honest clients send malformed replies, too.

    Raises NoRowsLeft also where no row is finite, or there is no honest majority.
    """
    if rule.needs_products or any(entry.needs_products for entry in pre_aggregation):
        measured = with_products(rows, measured)
    finite = measured.finite
    if not finite.any():
        raise NoRowsLeft("no batch mean is finite")
    row_map, long = select(finite), np.zeros(len(rows), dtype=np.bool_)
    first = pre_aggregation[0] if pre_aggregation else None
    if isinstance(first, NormTrimming):
        long[finite] = first.too_long(measured.norms[finite])
    with one_blas_thread(), np.errstate(all="ignore"):
        for entry in pre_aggregation:
            given = mapped(measured, row_map)
            q = None if num_byzantine is None else minority(len(given.norms), num_byzantine)
            row_map = compose(entry.row_map(given, q, server_round), row_map)
    num_rows = len(rows) if row_map is None else len(row_map)
    hidden = max((num_byzantine or 0) - num_malformed - int((~finite).sum()), 0)
    if num_rows <= 2 * hidden:
        text = f"{num_rows} rows are left after pre-aggregation, and {hidden} Byzantine clients"
        raise NoRowsLeft(f"{text} may have corrupted as many of them: no honest majority")
    made = rule.combine(rows, measured, row_map, minority(num_rows, num_byzantine))
    return Aggregate(
        combination=made,
        batch_norms=measured.norms,
        trimmed=_left_out(row_map, len(rows)),
        not_finite=~finite,
        too_long=long,
        num_rows=num_rows,
    )


def trimming(trim_norm: TrimNorm) -> tuple[NormTrimming, ...]:
    """Return the pre-aggregation that `trim_norm` stands for.

    Raises TypeError or ValueError unless it is a positive number, "auto" or None.
    """
    if trim_norm is None:
        return ()
    check_trim_norm(trim_norm, "trim_norm", note=', "auto" or None')
    return (NormTrimming(trim_norm),)


def mean(vectors: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
    """Average n ≥ 1 finite arrays of one shape, one by one, in float64 and without overflow."""
    with np.errstate(all="ignore"):
        average = sum(vectors, np.zeros(vectors[0].shape)) / len(vectors)
        if not np.isfinite(average).all():
            parts = (vector / np.float64(len(vectors)) for vector in vectors)
            largest = np.finfo(np.float64).max
            average = np.clip(sum(parts, np.zeros(vectors[0].shape)), -largest, largest)
    return np.asarray(average)


def _left_out(row_map: RowMap, num_rows: int) -> NDArray[np.bool_]:
    used = np.ones(num_rows, np.bool_) if row_map is None else row_map.any(axis=0)
    return np.asarray(~used)
