"""The points of a round: k batch means, stored once and read from then on, never formed anew.

The Gram matrix, the certificate and the combination all read the points through `Rows.map`: the
rule judges the very numbers that it applies, to the bit. Vectors that cancel within a batch only
corrupt the row of that batch.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .threads import map_in_threads

# A client's vector: one-dimensional arrays of real numbers, the concatenation of which is never
# formed. All vectors of a round have pieces of the same sizes.
Vector = Sequence[NDArray[Any]]

Part = TypeVar("Part")
Kernel = Callable[[NDArray[np.floating]], Part]

_SMALL = 1 << 21  # numbers that one thread reads faster than another thread starts
_NARROWEST = 1 << 14  # coordinates of a block at least: threads wait between shorter ones
_ADDED = 1 << 17  # coordinates of a block of added vectors, at most
_READ, _GATHERED = 1 << 18, 1 << 21  # numbers of a block of stored and of copied rows, about


@dataclass(frozen=True)
class Columns:
    """Coordinates `start` … `stop` − 1 of a vector."""

    start: int
    stop: int
    parts: tuple[tuple[int, slice], ...]  # the pieces that hold them, with their slice of each

    def of(self, vector: Vector) -> NDArray[Any]:
        """Return these coordinates of a vector, as a view if one piece holds them all."""
        if len(self.parts) == 1:
            piece, part = self.parts[0]
            return vector[piece][part]
        return np.concatenate([vector[piece][part] for piece, part in self.parts])

    def write(self, vector: Vector, values: NDArray[Any]) -> None:
        """Write these coordinates of a vector, cast to the dtypes of its pieces."""
        start = 0
        for piece, part in self.parts:
            stop = start + part.stop - part.start
            vector[piece][part] = values[start:stop]
            start = stop


def cut(sizes: Sequence[int], width: int) -> list[Columns]:
    """Cut the coordinates of vectors with pieces of these sizes into runs of at most `width`."""
    ends = list(accumulate(sizes, initial=0))
    starts = range(0, ends[-1], width)
    parts: list[list[tuple[int, slice]]] = [[] for _ in starts]
    for start, stop in pairwise(sorted({*ends, *starts})):
        piece = bisect_right(ends, start) - 1
        parts[start // width].append((piece, slice(start - ends[piece], stop - ends[piece])))
    return [
        Columns(start, min(start + width, ends[-1]), tuple(block))
        for start, block in zip(starts, parts, strict=True)
    ]


def narrow(
    block: NDArray[np.floating], least: int = 256, most: int = 1 << 17
) -> Iterator[NDArray[np.floating]]:
    """Cut a block of coordinates into parts, so that intermediate results take little memory.

    The width of a part is the largest multiple of `least` with at most `most` numbers in the part,
    but never below `least`.
    """
    width = max(most // (max(len(block), 1) * least), 1) * least
    return (block[:, i : i + width] for i in range(0, block.shape[1], width))


class Rows(Protocol):
    """k points in d dimensions, read block by block."""

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """Precision of the points, float32 or float64."""

    @property
    def dim(self) -> int:
        """Number of coordinates d."""

    def __len__(self) -> int:
        """Return the number of points k."""

    def map(self, kernel: Kernel[Part]) -> Iterator[Part]:
        """Yield the result of a kernel for every block of coordinates (k, width), in order.

        Threads work on the blocks, which are the same for any number of threads. A writable block
        is a copy that the kernel may change.
        """


@dataclass(frozen=True, eq=False)
class StoredRows:
    """Rows of a matrix (k, d)."""

    matrix: NDArray[np.floating]

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """Precision of the points."""
        return self.matrix.dtype

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return int(self.matrix.shape[1])

    def __len__(self) -> int:
        return len(self.matrix)

    def map(self, kernel: Kernel[Part]) -> Iterator[Part]:
        """Apply a kernel to every block of coordinates."""
        return _map(kernel, self._read, self._blocks())

    def _blocks(self) -> list[Columns]:
        return _cut([self.dim], len(self), max(_READ // len(self), 1 << 16))

    def _read(self, columns: Columns) -> NDArray[np.floating]:
        block = self.matrix[:, columns.start : columns.stop]
        block.flags.writeable = False
        return block


@dataclass(frozen=True, eq=False)
class BatchMeans(StoredRows):
    """Means of batches of vectors, as offsets from a centre: formed and stored as they are read."""

    batches: Sequence[Sequence[Vector]]
    centre: Vector | None = None

    def _blocks(self) -> list[Columns]:
        height = sum(map(len, self.batches)) // 4  # adding takes less time than multiplying
        sizes = [len(piece) for piece in self.batches[0][0]]
        return _cut(sizes, max(height, len(self)), _ADDED)

    def _read(self, columns: Columns) -> NDArray[np.floating]:
        block = self.matrix[:, columns.start : columns.stop]
        centre = _part(self.centre, columns)
        for row, batch in zip(block, self.batches, strict=True):
            _set(row, columns.of(batch[0]), centre)
            for vector in batch[1:]:
                _add(row, columns.of(vector), centre)
            if len(batch) > 1:
                row /= len(batch)
        return super()._read(columns)


@dataclass(frozen=True, eq=False)
class ReplyRows:
    """Rows that are one reply each, as offsets from a centre in `dtype`; replies are not copied."""

    vectors: Sequence[Vector]
    dtype: np.dtype[np.floating]
    centre: Vector | None = None

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return sum(len(piece) for piece in self.vectors[0])

    def __len__(self) -> int:
        return len(self.vectors)

    def map(self, kernel: Kernel[Part]) -> Iterator[Part]:
        """Apply a kernel to every block of coordinates."""
        sizes = [len(piece) for piece in self.vectors[0]]
        return _map(kernel, self._read, _cut(sizes, len(self), max(_GATHERED // len(self), 1024)))

    def _read(self, columns: Columns) -> NDArray[np.floating]:
        values = np.empty((len(self), columns.stop - columns.start), self.dtype)
        replies = [columns.of(vector) for vector in self.vectors]
        np.concatenate(replies, out=values.ravel(), casting="same_kind")
        if self.centre is not None:
            np.subtract(values, columns.of(self.centre), out=values, casting="same_kind")
        return values


class BatchSums:
    """Running sums of k batches of vectors with pieces of these sizes.

    They are held in `memory` (k, d), in its precision. The rows that are `kept` in it, with the
    batch of each and where it lies, count until a vector is added to their batch; its other
    contents do not matter.
    """

    def __init__(
        self, memory: NDArray[np.floating], sizes: Sequence[int], kept: Mapping[int, int] = {}
    ) -> None:
        self._sums = memory
        self._blocks = cut(sizes, _ADDED)
        self._counts = np.zeros(len(memory), dtype=np.intp)
        self._kept = sorted(kept)
        for batch in reversed(self._kept):
            if batch != kept[batch]:
                memory[batch] = memory[kept[batch]]

    def add(
        self, batch: int, vector: Vector, centre: Vector | None = None, scale: float = 1.0
    ) -> None:
        """Add ``scale * (vector - centre)`` to a batch, a block of coordinates in each thread.

        Sums of offsets from a near point lose fewer digits.
        """
        put = _add if self._counts[batch] else _set
        self._counts[batch] += 1

        def add(columns: Columns) -> None:
            total = self._sums[batch, columns.start : columns.stop]
            with np.errstate(all="ignore"):
                put(total, columns.of(vector), _part(centre, columns), scale)

        deque(map_in_threads(add, self._blocks), maxlen=0)

    def rows(self) -> tuple[StoredRows, list[int]]:
        """Return the means of the batches that hold a vector or are kept, and their indices.

        The means overwrite the sums, so that no vector can be added afterwards. A mean whose sum
        overflowed is not finite.
        """
        filled = sorted({*np.flatnonzero(self._counts).tolist(), *self._kept})
        counts = np.maximum(self._counts, 1)

        def divide(columns: Columns) -> None:
            part = self._sums[:, columns.start : columns.stop]
            with np.errstate(all="ignore"):
                for row, batch in enumerate(filled):
                    np.divide(part[batch], counts[batch], out=part[row], casting="same_kind")

        deque(map_in_threads(divide, self._blocks), maxlen=0)
        return StoredRows(self._sums[: len(filled)]), filled


def form_rows(
    batches: Sequence[Sequence[Vector]],
    dtype: np.dtype[np.floating],
    centre: Vector | None = None,
    memory: NDArray[np.floating] | None = None,
) -> BatchMeans | ReplyRows:
    """Average k batches of real vectors, none of them empty, in float32 or float64.

    Where every batch is one vector, nothing is copied; otherwise the means are stored in `memory`
    (k, d), by default in a new matrix. `centre` is subtracted from every vector.
    """
    if all(len(batch) == 1 for batch in batches):
        return ReplyRows([batch[0] for batch in batches], dtype, centre)
    if memory is None:
        memory = np.empty((len(batches), sum(len(piece) for piece in batches[0][0])), dtype)
    return BatchMeans(memory, batches, centre)


def _set(
    row: NDArray[np.floating],
    values: NDArray[Any],
    centre: NDArray[Any] | None,
    scale: float = 1.0,
) -> None:
    if centre is None:
        np.copyto(row, values, casting="same_kind")
    else:
        np.subtract(values, centre, out=row, dtype=row.dtype, casting="same_kind")
    if scale != 1.0:
        np.multiply(row, row.dtype.type(scale), out=row)


def _add(
    row: NDArray[np.floating],
    values: NDArray[Any],
    centre: NDArray[Any] | None,
    scale: float = 1.0,
) -> None:
    if centre is not None:
        values = np.subtract(values, centre, dtype=row.dtype, casting="same_kind")
    if scale != 1.0:
        values = np.multiply(values, row.dtype.type(scale), dtype=row.dtype, casting="same_kind")
    np.add(row, values, out=row, dtype=row.dtype, casting="same_kind")


def _part(vector: Vector | None, columns: Columns) -> NDArray[Any] | None:
    return None if vector is None else columns.of(vector)


def _cut(sizes: Sequence[int], height: int, most: int) -> list[Columns]:
    """Cut `height` vectors into eight blocks or more, for any number of threads."""
    dim = sum(sizes)
    width = min(max(dim // 8, _NARROWEST), most) // 1024 * 1024
    return cut(sizes, width if height * dim > _SMALL else max(dim, 1))


def _map(
    kernel: Kernel[Part],
    read: Callable[[Columns], NDArray[np.floating]],
    blocks: Sequence[Columns],
) -> Iterator[Part]:
    def work(columns: Columns) -> Part:
        with np.errstate(all="ignore"):
            return kernel(read(columns))

    return map_in_threads(work, blocks)
