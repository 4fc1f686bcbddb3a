"""The points of a round: k batch means, stored once, and from then on read and never formed anew.

Everything that looks at the points reads them through `Rows.map`: the Gram matrix, the
certificate, the combination. What was judged is therefore what is applied, to the bit. What cancels
within a batch is that batch's own affair; its row is one more corrupted row.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .threads import map_in_threads, num_threads

# A client's vector: one-dimensional arrays of real numbers, one after the other, left where they
# are. All vectors of a round have pieces of the same sizes.
Vector = Sequence[NDArray[Any]]

Part = TypeVar("Part")

WIDTH = 1 << 14  # coordinates that are looked at together; to gather rows, longer runs are faster
_CACHED = 1 << 17  # numbers that stay in a core's cache while they are worked on
_MOST_FORMED = 1 << 18  # coordinates of a reply that are added to its row together
_MOST_RUNS = 32  # of blocks; enough for the threads to end at about the same time


@dataclass(frozen=True)
class Columns:
    """Coordinates `start` … `stop` − 1 of a vector.

    Attributes
    ----------
    start, stop : int
    parts : tuple of (int, slice)
        The pieces that they lie in, and where therein.
    """

    start: int
    stop: int
    parts: tuple[tuple[int, slice], ...]

    def of(self, vector: Vector) -> NDArray[Any]:
        """Return these coordinates of a vector: a view where they lie in one piece."""
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
    blocks: list[Columns] = []
    parts: list[tuple[int, slice]] = []
    start = filled = 0
    for piece, size in enumerate(sizes):
        at = 0
        while at < size:
            taken = min(size - at, width - filled)
            parts.append((piece, slice(at, at + taken)))
            at, filled = at + taken, filled + taken
            if filled == width:
                blocks.append(Columns(start, start + filled, tuple(parts)))
                start, filled, parts = start + filled, 0, []
    if filled:
        blocks.append(Columns(start, start + filled, tuple(parts)))
    return blocks


def narrow(block: NDArray[np.floating], least: int = 256) -> Iterator[NDArray[np.floating]]:
    """Cut a block of coordinates, so that what is made of a part of it takes little memory.

    A part is `least` coordinates wide, or the largest multiple of it that stays in a cache.
    """
    width = max(_CACHED // (max(len(block), 1) * least), 1) * least
    return (block[:, i : i + width] for i in range(0, block.shape[1], width))


class Rows(Protocol):
    """k points in d dimensions that can be passed over."""

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """Precision of the points, float32 or float64."""

    @property
    def dim(self) -> int:
        """Number of coordinates d."""

    def __len__(self) -> int:
        """Return the number of points k."""

    def map(self, kernel: Callable[[NDArray[np.floating]], Part]) -> Iterator[list[Part]]:
        """Apply a kernel to every block of coordinates (k, width), in order and in threads.

        Yields the results of a run of blocks at a time; runs and blocks are the same for any number
        of threads.
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

    def map(self, kernel: Callable[[NDArray[np.floating]], Part]) -> Iterator[list[Part]]:
        """Apply a kernel to every block of coordinates."""
        return _map(kernel, self._read, [self.dim], WIDTH)

    def _read(self, columns: Columns) -> NDArray[np.floating]:
        return self.matrix[:, columns.start : columns.stop]


@dataclass(frozen=True, eq=False)
class ReplyRows:
    """Rows that are one reply each, read where it lies: its offset from a centre in `dtype`."""

    vectors: Sequence[Vector]
    dtype: np.dtype[np.floating]
    centre: Vector | None = None

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return sum(len(piece) for piece in self.vectors[0])

    def __len__(self) -> int:
        return len(self.vectors)

    def map(self, kernel: Callable[[NDArray[np.floating]], Part]) -> Iterator[list[Part]]:
        """Apply a kernel to every block of coordinates."""
        sizes = [len(piece) for piece in self.vectors[0]]
        return _map(kernel, self._read, sizes, 2 * WIDTH)

    def _read(self, columns: Columns) -> NDArray[np.floating]:
        values = np.empty((len(self), columns.stop - columns.start), self.dtype)
        replies = [columns.of(vector) for vector in self.vectors]
        np.concatenate(replies, out=values.ravel(), casting="same_kind")
        if self.centre is not None:
            np.subtract(values, columns.of(self.centre), out=values, casting="same_kind")
        return values


class BatchSums:
    """Running sums of k batches of vectors, taken as offsets from a centre.

    Parameters
    ----------
    memory : ndarray (k, d), float32 or float64
        Where the sums are held, in its precision; what is in it does not matter.
    sizes : sequence of int
        Sizes of the pieces of a vector, d together.
    centre : vector, optional
        Subtracted from every vector: sums of offsets from a place near all vectors lose fewer
        digits.
    """

    def __init__(
        self, memory: NDArray[np.floating], sizes: Sequence[int], centre: Vector | None = None
    ) -> None:
        self._sums = memory
        self._blocks = _shares(sizes)
        self._centre = centre
        self._counts = np.zeros(len(memory), dtype=np.intp)

    def add(self, batch: int, vector: Vector) -> None:
        """Add a vector to a batch, a block of coordinates in each thread."""
        is_first = self._counts[batch] == 0
        self._counts[batch] += 1

        def add(columns: Columns) -> None:
            total = self._sums[batch, columns.start : columns.stop]
            offset = total if is_first else np.empty_like(total)
            with np.errstate(all="ignore"):
                _set(offset, columns.of(vector), _part(self._centre, columns))
                if not is_first:
                    total += offset

        _for_each(add, self._blocks)

    def rows(self) -> tuple[StoredRows, list[int]]:
        """Return the means of the batches that hold a vector, and which these are.

        They take the place of the sums: nothing can be added any more. A mean whose sum overflowed
        is not finite.
        """
        filled = [int(batch) for batch in np.flatnonzero(self._counts)]

        def divide(columns: Columns) -> None:
            part = self._sums[:, columns.start : columns.stop]
            with np.errstate(all="ignore"):
                for row, batch in enumerate(filled):
                    np.divide(part[batch], self._counts[batch], out=part[row], casting="same_kind")

        _for_each(divide, self._blocks)
        return StoredRows(self._sums[: len(filled)]), filled


def form_rows(
    batches: Sequence[Sequence[Vector]],
    dtype: np.dtype[np.floating],
    centre: Vector | None = None,
    memory: NDArray[np.floating] | None = None,
) -> StoredRows | ReplyRows:
    """Average batches of vectors; where every batch is one vector, they stay where they lie.

    Parameters
    ----------
    batches : sequence of k sequences of vectors
        Real; no batch is empty.
    dtype : float32 or float64
        Precision of the rows.
    centre : vector, optional
        What is subtracted from every vector.
    memory : ndarray (k, d), optional
        Of that dtype: where to store the rows; made anew by default.
    """
    if all(len(batch) == 1 for batch in batches):
        return ReplyRows([batch[0] for batch in batches], dtype, centre)
    sizes = [len(piece) for piece in batches[0][0]]
    if memory is None:
        memory = np.empty((len(batches), sum(sizes)), dtype)

    def form(columns: Columns) -> None:
        about, spare = _part(centre, columns), np.empty(columns.stop - columns.start, dtype)
        with np.errstate(all="ignore"):
            for row, batch in zip(memory, batches, strict=True):
                _average(row[columns.start : columns.stop], batch, columns, about, spare)

    _for_each(form, _shares(sizes))
    return StoredRows(memory)


def _average(
    row: NDArray[np.floating],
    batch: Sequence[Vector],
    columns: Columns,
    centre: NDArray[Any] | None,
    spare: NDArray[np.floating],
) -> None:
    _set(row, columns.of(batch[0]), centre)
    for vector in batch[1:]:
        if centre is None:
            np.add(row, columns.of(vector), out=row, dtype=row.dtype, casting="same_kind")
        else:
            _set(spare, columns.of(vector), centre)
            row += spare
    if len(batch) > 1:
        row /= len(batch)


def _set(row: NDArray[np.floating], values: NDArray[Any], centre: NDArray[Any] | None) -> None:
    if centre is None:
        np.copyto(row, values, casting="same_kind")
    else:
        np.subtract(values, centre, out=row, dtype=row.dtype, casting="same_kind")


def _part(vector: Vector | None, columns: Columns) -> NDArray[Any] | None:
    return None if vector is None else columns.of(vector)


def _shares(sizes: Sequence[int]) -> list[Columns]:
    """Cut coordinates into a few blocks for each thread; they are worked on one by one."""
    share = -(-sum(sizes) // (2 * num_threads()))
    return cut(sizes, min(max(share, WIDTH), _MOST_FORMED))


def _for_each(work: Callable[[Columns], None], blocks: Sequence[Columns]) -> None:
    for _ in map_in_threads(work, blocks):
        pass


def _map(
    kernel: Callable[[NDArray[np.floating]], Part],
    read: Callable[[Columns], NDArray[np.floating]],
    sizes: Sequence[int],
    width: int,
) -> Iterator[list[Part]]:
    blocks = cut(sizes, width)
    length = -(-len(blocks) // _MOST_RUNS)
    runs = [blocks[i : i + length] for i in range(0, len(blocks), max(length, 1))]

    def work(run: Sequence[Columns]) -> list[Part]:
        with np.errstate(all="ignore"):
            return [kernel(read(columns)) for columns in run]

    return map_in_threads(work, runs)
