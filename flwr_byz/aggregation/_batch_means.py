"""k batch means of clients' vectors, formed block by block from where the vectors lie in memory."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import _kernels
from ._threads import map_in_threads

# A client's vector: 1-d arrays of real numbers, one after the other, left where they are.
Vector = Sequence[NDArray[Any]]

Part = TypeVar("Part")

# Wide blocks read memory in long runs; blocks that are not kept have to fit into a cache.
_WIDTH = 1 << 18
_BLOCK_BYTES = 3 << 23
_MIN_WIDTH, _MAX_WIDTH = 1 << 13, 1 << 17
_NUM_SAMPLES, _SAMPLE_WIDTH = 4, 32
# A norm that is so many times the distances loses too many digits.
_FAR = {np.dtype(np.float32): 8.0, np.dtype(np.float64): 1e3}


@dataclass(frozen=True)
class Block:
    """Coordinates `start` … `stop` − 1 of a vector, which lie within one of its pieces."""

    piece: int
    start: int
    stop: int
    piece_start: int

    @property
    def columns(self) -> slice:
        """Where the block is in a whole vector."""
        return slice(self.start, self.stop)

    def of(self, vector: Vector) -> NDArray[Any]:
        """Return the block of a vector, a view."""
        return vector[self.piece][self.start - self.piece_start : self.stop - self.piece_start]


class BatchMeans:
    """The means of k batches of vectors, as rows of offsets from a common centre.

    Parameters
    ----------
    batches : sequence of k sequences of vectors
        No batch is empty; all vectors have pieces of the same sizes.
    dtype : float32 or float64
        Precision in which members are added up.
    centre : vector, optional
        What is subtracted from every vector first, so that batch means which lie close together far
        from the origin keep their digits.
    kept : ndarray (k, d), optional
        Memory of that dtype to keep the means in from the first pass on; by default every pass
        forms them anew.
    filled : bool, default False
        Whether `kept` holds the means already.
    """

    def __init__(
        self,
        batches: Sequence[Sequence[Vector]],
        dtype: np.dtype[np.floating],
        centre: Vector | None = None,
        kept: NDArray[np.floating] | None = None,
        *,
        filled: bool = False,
    ) -> None:
        self.batches = batches
        self.dtype = dtype
        self.centre = centre
        self._kept = kept
        self._filled = filled
        self._thread = threading.local()

    def __len__(self) -> int:
        return len(self.batches)

    @cached_property
    def dim(self) -> int:
        """Number of coordinates d."""
        return sum(len(piece) for piece in self.batches[0][0])

    @property
    def rounding(self) -> NDArray[np.float64]:
        """Bound on the error of each mean relative to its norm about the centre, (k,).

        It takes the members of a batch for no longer than √b times their mean: where members cancel
        each other, the mean is what `dtype` makes of it.
        """
        sizes = np.array([len(batch) for batch in self.batches], dtype=np.float64)
        roundings = np.where(sizes > 1, (sizes + 1) * np.sqrt(sizes), self.centre is not None)
        return roundings * (float(np.finfo(self.dtype).eps) / 2)

    def blocks(self, width: int = _WIDTH) -> list[Block]:
        """Cut the coordinates into blocks; the same for any number of threads."""
        blocks, piece_start = [], 0
        for piece, values in enumerate(self.batches[0][0]):
            piece_stop = piece_start + len(values)
            blocks += [
                Block(piece, start, min(start + width, piece_stop), piece_start)
                for start in range(piece_start, piece_stop, width)
            ]
            piece_start = piece_stop
        return blocks

    def rows(self, block: Block) -> NDArray[np.floating]:
        """Return one block of every mean, (k, width), good until the thread asks for the next."""
        if self._kept is None:
            rows = self._scratch(len(self) * (block.stop - block.start)).reshape(len(self), -1)
        else:
            rows = self._kept[:, block.columns]
            if self._filled:
                return rows
        centre = None if self.centre is None else block.of(self.centre)
        spare = np.empty(rows.shape[1], self.dtype)
        for row, batch in zip(rows, self.batches, strict=True):
            _mean([block.of(vector) for vector in batch], centre, row, spare)
        return rows

    def _scratch(self, size: int) -> NDArray[np.floating]:
        """Return memory of the thread's own: fresh pages cost more time than the work on them."""
        held: NDArray[np.floating] | None = getattr(self._thread, "scratch", None)
        if held is None or len(held) < size:
            held = self._thread.scratch = np.empty(size, self.dtype)
        return held[:size]

    def gram(self, target: Vector | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the means' inner products about the centre, and about a target; one pass.

        Parameters
        ----------
        target : vector or None
            None is the origin.

        Returns
        -------
        gram, target_gram : ndarray (k, k), float64
            Not finite where a vector is not, or where float64 overflows. An entry is off by at most
            about `_kernels.INNER` roundings of `dtype`, relative to the product of the norms.
        """
        k = len(self)

        def part(block: Block) -> NDArray[np.float64]:
            return _kernels.gram(self.rows(block), self._target_offset(block, target))

        with np.errstate(over="ignore", invalid="ignore"):
            total = np.zeros((k + 1, k + 1))
            for products in self._over_blocks(part):
                total += products
            total = np.triu(total) + np.triu(total, 1).T
            gram, cross = total[:k, :k], total[:k, k]
            return gram, gram - cross - cross[:, None] + total[k, k]

    def measure(
        self, weights: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Measure the means' distances from a combination in float64; one pass.

        Returns
        -------
        distances : ndarray (k,)
        norms : ndarray (k,)
            Of the means, about the centre.
        norm : float
            Of the combination, about the centre.
        """
        parts = self._over_blocks(
            lambda block: _kernels.squared_distances(weights, self.rows(block))
        )
        with np.errstate(over="ignore", invalid="ignore"):
            distances = np.sqrt(np.sum([to_place for to_place, _, _ in parts], axis=0))
            norms = np.sqrt(np.sum([to_centre for _, to_centre, _ in parts], axis=0))
        return distances, norms, sum(place for _, _, place in parts) ** 0.5

    def combine(
        self,
        weights: NDArray[np.float64],
        write: Callable[[Block, NDArray[np.floating]], None],
    ) -> None:
        """Hand every block of the weighted sum of the means to `write`, in threads; one pass.

        A mean that is all of it is handed out as it stands here, a batch of one vector exactly.
        """
        cast = weights.astype(self.dtype)
        alone = np.flatnonzero(weights == 1.0)
        whole = int(alone[0]) if len(alone) else None

        def part(block: Block) -> None:
            with np.errstate(over="ignore", invalid="ignore"):
                if whole is not None and len(self.batches[whole]) == 1:
                    write(block, block.of(self.batches[whole][0]).astype(np.float64))
                    return
                if self._kept is not None and self._filled:
                    combination = _kernels.combination(cast, self._kept[:, block.columns])
                else:
                    combination = self._combination(cast, block)
                if self.centre is not None:
                    combination += block.of(self.centre)
                write(block, combination)

        map_in_threads(part, self.blocks(_MAX_WIDTH))

    def _combination(self, weights: NDArray[np.floating], block: Block) -> NDArray[np.floating]:
        """Add up weighted means one after the other, without a block of them all."""
        total = np.zeros(block.stop - block.start, self.dtype)
        row, spare = np.empty_like(total), np.empty_like(total)
        centre = None if self.centre is None else block.of(self.centre)
        for weight, batch in zip(weights, self.batches, strict=True):
            members = [block.of(vector) for vector in batch]
            if centre is None and len(members) == 1:
                np.multiply(members[0], weight, out=row, casting="same_kind")
            else:
                _mean(members, centre, row, spare)
                row *= weight
            total += row
        return total

    def _over_blocks(self, function: Callable[[Block], Part]) -> list[Part]:
        def quiet(block: Block) -> Part:
            with np.errstate(over="ignore", invalid="ignore"):
                return function(block)

        width = _WIDTH
        if self._kept is None:
            width = _BLOCK_BYTES // (self.dtype.itemsize * len(self))
            width = min(max(width // _MIN_WIDTH * _MIN_WIDTH, _MIN_WIDTH), _MAX_WIDTH)
        parts = map_in_threads(quiet, self.blocks(width))
        self._filled = True
        return parts

    def _target_offset(self, block: Block, target: Vector | None) -> NDArray[np.floating] | None:
        """Return target − centre; None where they are the same."""
        if target is self.centre:
            return None
        offset = np.zeros(block.stop - block.start, self.dtype)
        if target is not None:
            offset += block.of(target)
        if self.centre is not None:
            offset -= block.of(self.centre)
        return offset


def find_centre(
    batches: Sequence[Sequence[Vector]], dtype: np.dtype[np.floating], origin: Vector | None
) -> Vector | None:
    """Choose what to subtract from every vector so that inner products keep their digits.

    The origin (None is zero), unless on a sample of the coordinates most batch means are far nearer
    to each other than to it: then the vector nearest to their middle, if on all coordinates, too,
    the first vectors of most batches lie nearer to it than to the origin.
    """
    blocks = _sample([len(piece) for piece in batches[0][0]])
    if not blocks:
        return origin

    def sampled(vector: Vector) -> NDArray[np.float64]:
        return np.concatenate([block.of(vector) for block in blocks], dtype=np.float64)

    with np.errstate(over="ignore", invalid="ignore"):
        members = [np.stack([sampled(vector) for vector in batch]) for batch in batches]
        means = np.stack([batch.mean(axis=0) for batch in members])
        finite = np.flatnonzero(np.isfinite(means).all(axis=1))
        if len(finite) == 0:
            return origin
        middle = np.median(means[finite], axis=0)
        spreads = np.linalg.norm(means[finite] - middle, axis=1)
        lengths = np.linalg.norm(
            means[finite] if origin is None else means[finite] - sampled(origin), axis=1
        )
        if np.median(lengths) <= _FAR[dtype] * np.median(spreads):
            return origin
        distances = [np.linalg.norm(batch - middle, axis=1) for batch in members]
        nearest = int(np.nanargmin([np.fmin.reduce(d) for d in distances]))
        centre = batches[nearest][int(np.nanargmin(distances[nearest]))]
        far = [_distance(batch[0], centre) > _distance(batch[0], origin) for batch in batches]
        return origin if 2 * sum(far) >= len(batches) else centre


def _distance(vector: Vector, place: Vector | None) -> float:
    """Return the distance of a vector from a place (None is zero), in float64."""
    squares = 0.0
    for number, piece in enumerate(vector):
        for start in range(0, len(piece), _WIDTH):
            offset = piece[start : start + _WIDTH].astype(np.float64)
            if place is not None:
                offset -= place[number][start : start + _WIDTH]
            squares += float(offset @ offset)
    return float(np.sqrt(squares))


def mean_is_finite(batch: Sequence[Vector], dtype: np.dtype[np.floating]) -> bool:
    """Tell whether no number leaves the range of `dtype` where the batch is added up in it."""
    for number, piece in enumerate(batch[0]):
        for start in range(0, len(piece), _WIDTH):
            members = [vector[number][start : start + _WIDTH] for vector in batch]
            mean, spare = np.empty((2, len(members[0])), dtype)
            with np.errstate(over="ignore", invalid="ignore"):
                _mean(members, None, mean, spare)
            if not np.isfinite(mean).all():
                return False
    return True


def _sample(sizes: Sequence[int]) -> list[Block]:
    """Cut a few short blocks out of the vector, spread evenly."""
    ends = np.cumsum(sizes)
    if sum(sizes) == 0:
        return []
    starts = np.unique(np.linspace(0, ends[-1] - 1, _NUM_SAMPLES, dtype=np.intp))
    pieces = np.searchsorted(ends, starts, side="right")
    return [
        Block(int(p), int(s), int(min(s + _SAMPLE_WIDTH, ends[p])), int(ends[p] - sizes[p]))
        for p, s in zip(pieces, starts, strict=True)
    ]


def _mean(
    members: Sequence[NDArray[Any]],
    centre: NDArray[Any] | None,
    out: NDArray[np.floating],
    spare: NDArray[np.floating],
) -> None:
    """Write the mean of the members' offsets from the centre into `out`."""
    dtype = out.dtype
    if centre is not None:
        np.subtract(members[0], centre, out=out, dtype=dtype, casting="same_kind")
        for member in members[1:]:
            np.subtract(member, centre, out=spare, dtype=dtype, casting="same_kind")
            out += spare
    elif len(members) == 1:
        np.copyto(out, members[0], casting="same_kind")
    else:
        np.add(members[0], members[1], out=out, dtype=dtype, casting="same_kind")
        for member in members[2:]:
            np.add(out, member, out=out, dtype=dtype, casting="same_kind")
    if len(members) > 1:
        out /= len(members)
