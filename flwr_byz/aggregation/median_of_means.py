"""The paper's robust gradient aggregation A_k: batch means, norm trimming, geometric median."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._batch_means import BatchMeans, Block, Vector, find_centre, mean_is_finite
from ._in_blocks import Found, Points, search
from ._threads import map_in_threads
from ._vectors import as_vectors, norms
from .batches import split_into_batches
from .geometric_median import careful_median, check_gamma

TrimNorm = float | Literal["auto"] | None

Item = TypeVar("Item")

_AUTO_TRIM_FACTOR = 2.0
_FLOAT64 = np.dtype(np.float64)


class Means(Points, Protocol):
    """Batch means that can be combined; see `BatchMeans`, which is one of them."""

    @property
    def batches(self) -> Sequence[Sequence[Vector]]:
        """The vectors that they are the means of."""

    @property
    def dim(self) -> int:
        """Number of coordinates d."""

    def combine(
        self,
        weights: NDArray[np.float64],
        write: Callable[[Block, NDArray[np.floating]], None],
    ) -> None:
        """Hand the weighted sum to `write`, block by block."""


class AllBatchesTrimmed(ValueError):
    """Every batch mean is longer than the norm allowed."""


class SumsOverflow(ValueError):
    """The sums of half of the batches or more leave the range of their dtype."""


class NotFinite(ValueError):
    """Vectors that hold NaN or infinity.

    Attributes
    ----------
    members : list of (int, int)
        For each such vector its batch and its place therein.
    """

    def __init__(self, members: list[tuple[int, int]]) -> None:
        super().__init__(f"{len(members)} vectors hold NaN or infinity")
        self.members = members


@dataclass(frozen=True, eq=False)
class Aggregation:
    """How the batches fared in an aggregate that was handed out block by block.

    Attributes
    ----------
    gap, iterations, batch_norms, batch_weights, trimmed
        See `GeometricMedianOfMeans`.
    too_long : ndarray (k,), bool
        The batches whose mean is longer than the norm allowed; none of them is trimmed where that
        would leave too few.
    left_out : ndarray (k,), bool
        The batches whose sum left the range of its dtype: they are trimmed whatever the norm
        allowed, and their norm is infinite. Finite vectors of honest clients do not do that.
    norm : float
        Norm of the aggregate, from `origin` where one is given.
    """

    gap: float
    iterations: int
    batch_norms: NDArray[np.float64]
    batch_weights: NDArray[np.float64]
    trimmed: NDArray[np.bool_]
    too_long: NDArray[np.bool_]
    left_out: NDArray[np.bool_]
    norm: float


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
        The batches whose mean was longer than the norm allowed, or whose sum overflowed.
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
    num_byzantine: int | None = None,
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
        norm of the batch means; None trims nothing. Nothing is trimmed, either, where that would
        leave too few batches to outvote the Byzantine ones.
    gamma : float, default 1e-9
        γ > 0 of the (1+γ)-approximate geometric median.
    num_byzantine : int, optional
        q, less than k/2: at least 2q + 1 batches are kept. By default no more are trimmed than
        (k − 1) // 2, the most that k batches outvote.

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
    batches = split_into_batches([(row,) for row in rows], num_batches)
    check_count("num_byzantine", num_byzantine, least=0)
    check_outvoted(num_byzantine, num_batches)
    least_kept = least_to_keep(num_batches, num_byzantine)
    return aggregate_to_point(
        _means_of(batches, _FLOAT64, None, None), trim_norm, gamma, least_kept
    )


def least_to_keep(num_batches: int, num_byzantine: int | None) -> int:
    """Return how many of k batches have to be left after trimming, for the rule to hold.

    2q + 1 where q is given. Else k less the number that k batches outvote: where all of those are
    Byzantine, that is how many honest ones there are.
    """
    if num_byzantine is None:
        return num_batches - (num_batches - 1) // 2
    return 2 * num_byzantine + 1


def aggregate_to_point(
    means: Means, trim_norm: TrimNorm, gamma: float, least_kept: int
) -> GeometricMedianOfMeans:
    """Aggregate the batch means of whole vectors into one point, in float64."""
    point = np.empty(means.dim)

    def write(block: Block, combination: NDArray[np.floating]) -> None:
        point[block.columns] = combination

    try:
        aggregation = _aggregate(means, write, trim_norm, gamma, None, least_kept)
    except NotFinite as error:
        batch, place = error.members[0]
        row = sum(len(b) for b in means.batches[:batch]) + place
        raise ValueError(f"vectors must be finite: vectors[{row}] holds NaN or infinity") from None
    return GeometricMedianOfMeans(
        point=point,
        gap=aggregation.gap,
        iterations=aggregation.iterations,
        batch_norms=aggregation.batch_norms,
        batch_weights=aggregation.batch_weights,
        trimmed=aggregation.trimmed,
    )


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
        total += vector_of(item) / (2.0 * len(items))
    largest = np.finfo(np.float64).max
    np.clip(total, -largest / 2, largest / 2, out=total)
    total *= 2.0
    return total


def aggregate_batches(
    batches: Sequence[Sequence[Vector]],
    write: Callable[[Block, NDArray[np.floating]], None],
    *,
    trim_norm: TrimNorm = None,
    gamma: float = 1e-9,
    origin: Vector | None = None,
    least_kept: int = 1,
    dtype: np.dtype[np.floating] = _FLOAT64,
    memory: NDArray[np.floating] | None = None,
) -> Aggregation:
    """Average batches of vectors where they lie, trim the means, take their geometric median.

    Parameters
    ----------
    batches : sequence of k sequences of vectors
        Real; a vector is a sequence of one-dimensional arrays, of the same sizes for all vectors.
    write : callable
        Is handed each block of coordinates and the aggregate there, in several threads.
    trim_norm, gamma
        As in `geometric_median_of_means`.
    origin : vector, optional
        The place that norms are measured from: the model that was sent, where the vectors are
        trained weights.
    least_kept : int, default 1
        Nothing is trimmed where fewer batches than that would be kept.
    dtype : float32 or float64, default float64
        Precision in which members are added up and the aggregate is formed. With float32 the gap is
        still certified, for float32 sums of the members' offsets from a common centre.
    memory : ndarray (k, d), optional
        Of that dtype: where to keep the batch means while they are needed; made anew by default.

    Returns
    -------
    Aggregation

    Raises
    ------
    ValueError
        Where an argument is out of range.
    NotFinite
        A ValueError: where vectors hold NaN or infinity.
    AllBatchesTrimmed
        A ValueError: where every batch mean is longer than `trim_norm`.
    """
    means = _means_of(batches, dtype, origin, memory)
    return _aggregate(means, write, trim_norm, gamma, origin, least_kept, memory=memory)


def aggregate_rows(
    rows: NDArray[np.floating],
    sizes: Sequence[int],
    write: Callable[[Block, NDArray[np.floating]], None],
    *,
    trim_norm: TrimNorm = None,
    gamma: float = 1e-9,
    least_kept: int = 1,
) -> Aggregation:
    """Aggregate batch means that were formed already, as `aggregate_batches` does.

    Parameters
    ----------
    rows : ndarray (k, d), float32 or float64
        The batch means; norms are theirs.
    sizes : sequence of int
        Sizes of the pieces of a vector, which sum to d: no block crosses them.
    write, trim_norm, gamma, least_kept
        As in `aggregate_batches`.

    Returns
    -------
    Aggregation

    Raises
    ------
    ValueError, AllBatchesTrimmed
        As `aggregate_batches` does.
    SumsOverflow
        A ValueError: where half of the batch means or more hold NaN or infinity. Fewer are left
        out: a batch of finite vectors has such a mean where its sum overflowed.
    """
    ends = np.cumsum(sizes, dtype=np.intp)[:-1]
    batches = [[np.split(row, ends)] for row in rows]
    means = BatchMeans(batches, rows.dtype, None, rows, filled=True)
    return _aggregate(means, write, trim_norm, gamma, None, least_kept, summed=True)


def _aggregate(
    means: Means,
    write: Callable[[Block, NDArray[np.floating]], None],
    trim_norm: TrimNorm,
    gamma: float,
    origin: Vector | None,
    least_kept: int,
    *,
    memory: NDArray[np.floating] | None = None,
    summed: bool = False,
) -> Aggregation:
    """Aggregate the means; those that are `summed` already come of finite vectors."""
    check_trim_norm(trim_norm)
    check_gamma(gamma)
    usable = np.ones(len(means), dtype=np.bool_)

    def select(batch_norms: NDArray[np.float64]) -> NDArray[np.intp]:
        short = np.flatnonzero(usable & ~_too_long(batch_norms, trim_norm, usable))
        return short if len(short) >= least_kept else np.flatnonzero(usable)

    def find(means: Means) -> Found | None:
        if means.dim <= len(means):
            return None
        selects = trim_norm is not None or not usable.all()
        return search(means, gamma, target=origin, select=select if selects else None)

    found = find(means)
    if found is None:
        usable = _usable(means, summed)
        if not usable.all():
            means = _means_of(_emptied(means.batches, usable), means.dtype, origin, memory)
            found = find(means)
    if found is not None:
        means.combine(found.weights, write)
    else:
        found = _carefully(means.batches, write, select, gamma, origin)
    trimmed = np.ones(len(means), dtype=np.bool_)
    trimmed[select(found.norms)] = False
    return Aggregation(
        gap=found.gap,
        iterations=found.iterations,
        batch_norms=np.where(usable, found.norms, np.inf),
        batch_weights=found.weights,
        trimmed=trimmed,
        too_long=usable & _too_long(found.norms, trim_norm, usable),
        left_out=~usable,
        norm=found.norm,
    )


def _usable(means: Means, summed: bool) -> NDArray[np.bool_]:
    """Mark the batches whose sum stays in the range of its dtype, where that is most of them."""
    if not summed:
        _check_finite(means.batches)
    finite = map_in_threads(lambda batch: mean_is_finite(batch, means.dtype), means.batches)
    usable = np.array(finite, dtype=np.bool_)
    if 2 * usable.sum() > len(usable):
        return usable
    if summed:
        raise SumsOverflow(f"the sums of {(~usable).sum()} of {len(usable)} batches overflow")
    return np.ones_like(usable)


def _emptied(
    batches: Sequence[Sequence[Vector]], usable: NDArray[np.bool_]
) -> list[Sequence[Vector]]:
    """Put zero in the place of the batches that are not usable."""
    zero = [np.broadcast_to(np.float32(0.0), piece.shape) for piece in batches[0][0]]
    return [batch if ok else [zero] for batch, ok in zip(batches, usable, strict=True)]


def _means_of(
    batches: Sequence[Sequence[Vector]],
    dtype: np.dtype[np.floating],
    origin: Vector | None,
    memory: NDArray[np.floating] | None,
) -> BatchMeans:
    if len(batches) == 1:  # nothing is outvoted, so the mean may as well be the best there is
        dtype, memory = _FLOAT64, None
    if memory is None and any(len(batch) > 1 for batch in batches):
        memory = np.empty((len(batches), sum(len(piece) for piece in batches[0][0])), dtype)
    return BatchMeans(batches, dtype, find_centre(batches, dtype, origin), memory)


def _too_long(
    batch_norms: NDArray[np.float64], trim_norm: TrimNorm, usable: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Mark the batches whose mean is longer than τ, where not all that are usable are."""
    if trim_norm is None:
        return np.zeros(len(batch_norms), dtype=np.bool_)
    typical = float(np.median(batch_norms[usable]))
    limit = _AUTO_TRIM_FACTOR * typical if trim_norm == "auto" else trim_norm
    too_long: NDArray[np.bool_] = batch_norms > limit
    if too_long[usable].all():
        raise AllBatchesTrimmed(
            f"trim_norm = {trim_norm} leaves no batch: the shortest batch mean has norm "
            f"{batch_norms[usable].min():.6g}"
        )
    return too_long


def _carefully(
    batches: Sequence[Sequence[Vector]],
    write: Callable[[Block, NDArray[np.floating]], None],
    select: Callable[[NDArray[np.float64]], NDArray[np.intp]],
    gamma: float,
    origin: Vector | None,
) -> Found:
    """Aggregate on float64 copies of the batch means: for any finite vectors, in more passes."""
    means = [mean(batch, _joined) for batch in batches]
    zero = 0.0 if origin is None else _joined(origin)
    batch_norms = np.concatenate([norms([z - zero]) for z in means])
    kept = select(batch_norms)
    median = careful_median([means[i] for i in kept], np.full(len(kept), 1 / len(kept)), gamma)
    for block in BatchMeans(batches, _FLOAT64).blocks():
        write(block, median.point[block.columns])
    weights = np.zeros(len(batches))
    weights[kept] = median.weights
    return Found(
        weights=weights,
        gap=median.gap,
        iterations=median.iterations,
        objective=median.objective,
        norms=batch_norms,
        norm=float(norms([median.point - zero])[0]),
    )


def _check_finite(batches: Sequence[Sequence[Vector]]) -> None:
    members = [(b, i) for b, batch in enumerate(batches) for i in range(len(batch))]
    finite = map_in_threads(
        lambda m: all(np.isfinite(piece).all() for piece in batches[m[0]][m[1]]), members
    )
    if not all(finite):
        raise NotFinite([m for m, is_finite in zip(members, finite, strict=True) if not is_finite])


def _joined(vector: Vector) -> NDArray[np.float64]:
    return np.concatenate(vector, dtype=np.float64) if len(vector) else np.zeros(0)


def check_trim_norm(trim_norm: TrimNorm) -> None:
    """Raise ValueError where τ is neither a positive number nor "auto" nor None."""
    if trim_norm is None or trim_norm == "auto":
        return
    if isinstance(trim_norm, str) or not trim_norm > 0:
        raise ValueError(f'trim_norm must be a positive number, "auto" or None, got {trim_norm!r}')


def check_count(name: str, value: int | None, *, least: int) -> None:
    """Raise ValueError where a value is neither None nor an integer of at least that."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


def check_outvoted(num_byzantine: int | None, num_batches: int) -> None:
    """Raise ValueError where k batches do not outvote q Byzantine ones."""
    if num_byzantine is not None and num_batches <= 2 * num_byzantine:
        raise ValueError(
            f"num_batches must be at least 2·num_byzantine + 1 = {2 * num_byzantine + 1}, got "
            f"{num_batches}"
        )
