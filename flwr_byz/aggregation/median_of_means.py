"""The paper's robust gradient aggregation A_k: batch means, norm trimming, geometric median."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._vectors import Vectors, as_vectors, norms
from .batches import split_into_batches
from .geometric_median import check_gamma, geometric_median

TrimNorm = float | Literal["auto"] | None

Item = TypeVar("Item")

_AUTO_TRIM_FACTOR = 2.0


class AllBatchesTrimmed(ValueError):
    """Every batch mean is longer than the norm allowed."""


@dataclass(frozen=True, eq=False)
class GeometricMedianOfMeans:
    """The aggregate of one round and how each batch fared.

    Attributes
    ----------
    point : ndarray (d,), float64
        Geometric median of the batch means that were kept.
    gap : float
        Its certified relative gap (see `GeometricMedian`).
    iterations : int
        Steps of the solver.
    batch_norms : ndarray (k,), float64
        Norms of the batch means, from `origin` where one is given.
    batch_weights : ndarray (k,), float64
        ``point`` is ``sum(batch_weights[l] * batch_mean[l])``; zero for a batch that was trimmed.
    trimmed : ndarray (k,), bool
        The batches whose mean was longer than the norm allowed.
    """

    point: NDArray[np.float64]
    gap: float
    iterations: int
    batch_norms: NDArray[np.float64]
    batch_weights: NDArray[np.float64]
    trimmed: NDArray[np.bool_]


def geometric_median_of_means(
    vectors: ArrayLike | Sequence[ArrayLike],
    num_batches: int,
    *,
    trim_norm: TrimNorm = None,
    gamma: float = 1e-9,
) -> GeometricMedianOfMeans:
    """Aggregate the vectors of m clients: the paper's A_k (equation 8, Remark 2).

    Parameters
    ----------
    vectors : array-like (m, d) or sequence of m equal-length vectors
        In client order; real, finite. Batch l holds clients l·b … (l+1)·b − 1.
    num_batches : int
        k, between 1 (the mean) and m (the geometric median).
    trim_norm : float, "auto" or None, default None
        τ of Remark 2: batch means of norm above it are left out. "auto" takes twice the median
        norm of the batch means; None trims nothing.
    gamma : float, default 1e-9
        γ > 0 of the (1+γ)-approximate geometric median.

    Returns
    -------
    GeometricMedianOfMeans

    Raises
    ------
    ValueError
        Where an argument is out of range, or a vector is not finite or of another length (the
        message names its row).
    AllBatchesTrimmed
        A ValueError: where every batch mean is longer than `trim_norm`.
    """
    rows = as_vectors(vectors, "vectors")
    batches = split_into_batches(list(rows), num_batches)
    return aggregate_batch_means([mean(b) for b in batches], trim_norm=trim_norm, gamma=gamma)


def mean(
    items: Sequence[Item], vector_of: Callable[[Item], NDArray[np.floating]] = np.asarray
) -> NDArray[np.float64]:
    """Average finite vectors in float64, one after the other; no sum on the way overflows.

    Parameters
    ----------
    items : sequence, not empty
        The vectors, or what `vector_of` makes each of them from, so that one is held at a time.
    vector_of : callable, optional

    Returns
    -------
    ndarray (d,), float64
    """
    total = vector_of(items[0]).astype(np.float64)
    with np.errstate(over="ignore"):
        for item in items[1:]:
            total += vector_of(item)
    if np.isfinite(total).all():
        total /= len(items)
        return total
    total.fill(0.0)
    for item in items:
        total += vector_of(item) / len(items)
    return total


def aggregate_batch_means(
    batch_means: Vectors,
    *,
    trim_norm: TrimNorm = None,
    gamma: float = 1e-9,
    origin: NDArray[np.floating] | None = None,
) -> GeometricMedianOfMeans:
    """Trim k batch means by norm and take the geometric median of the rest (Remark 2).

    Parameters
    ----------
    batch_means : ndarray (k, d) or list of k arrays (d,)
        Finite floats, k ≥ 1.
    trim_norm, gamma
        As in `geometric_median_of_means`.
    origin : ndarray (d,), optional
        The place that norms are measured from: the model that was sent, where the batch means are
        of trained weights.

    Returns
    -------
    GeometricMedianOfMeans

    Raises
    ------
    ValueError
        Where an argument is out of range.
    AllBatchesTrimmed
        Where every batch mean is longer than `trim_norm`.
    """
    check_trim_norm(trim_norm)
    check_gamma(gamma)
    if origin is None:
        batch_norms = norms(batch_means)
    else:
        batch_norms = np.concatenate(
            [norms([np.subtract(z, origin, dtype=np.float64)]) for z in batch_means]
        )
    if trim_norm == "auto":
        limit = _AUTO_TRIM_FACTOR * float(np.median(batch_norms))
    else:
        limit = float("inf") if trim_norm is None else trim_norm
    trimmed = batch_norms > limit
    kept = np.flatnonzero(~trimmed)
    if len(kept) == 0:
        raise AllBatchesTrimmed(
            f"trim_norm = {trim_norm} leaves no batch: the shortest batch mean has norm "
            f"{batch_norms.min():.6g}"
        )
    median = geometric_median([batch_means[int(i)] for i in kept], gamma=gamma)
    batch_weights = np.zeros(len(batch_norms))
    batch_weights[kept] = median.weights
    return GeometricMedianOfMeans(
        point=median.point,
        gap=median.gap,
        iterations=median.iterations,
        batch_norms=batch_norms,
        batch_weights=batch_weights,
        trimmed=trimmed,
    )


def check_trim_norm(trim_norm: TrimNorm) -> None:
    """Raise ValueError where τ is neither a positive number nor "auto" nor None."""
    if trim_norm is None or trim_norm == "auto":
        return
    if isinstance(trim_norm, str) or not trim_norm > 0:
        raise ValueError(f'trim_norm must be a positive number, "auto" or None, got {trim_norm!r}')
