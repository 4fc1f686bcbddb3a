"""Batch means of vectors that arrive one after the other and are let go."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._batch_means import Vector

_CHUNK = 1 << 16


class BatchSums:
    """Running sums of k batches of vectors, taken as offsets from a centre.

    Parameters
    ----------
    memory : ndarray (k, d), float32 or float64
        Where the sums are held, in its precision; what is in it does not matter.
    centre : vector, optional
        Subtracted from every vector: sums of offsets from a place near all vectors lose fewer
        digits. A vector is a sequence of one-dimensional arrays of d numbers together.
    """

    def __init__(self, memory: NDArray[np.floating], centre: Vector | None = None) -> None:
        self._sums = memory
        self._centre = centre
        self._sizes = np.zeros(len(memory), dtype=np.intp)

    def add(self, batch: int, vector: Vector) -> None:
        """Add a vector of finite numbers to a batch."""
        is_first = self._sizes[batch] == 0
        self._sizes[batch] += 1
        start = 0
        with np.errstate(over="ignore", invalid="ignore"):
            for number, piece in enumerate(vector):
                centre = None if self._centre is None else self._centre[number]
                for first in range(0, len(piece), _CHUNK):
                    part = slice(first, min(first + _CHUNK, len(piece)))
                    offset = _offset(piece, centre, part, self._sums.dtype)
                    total = self._sums[batch, start + part.start : start + part.stop]
                    if is_first:
                        total[...] = offset
                    else:
                        total += offset
                start += len(piece)

    def means(self) -> tuple[NDArray[np.floating], list[int]]:
        """Return the means of the batches that hold a vector, and which these are.

        The means, (k, d) or fewer rows, are offsets from the centre. They take the place of the
        sums: nothing can be added any more. A mean whose sum overflowed is not finite.
        """
        filled = [int(batch) for batch in np.flatnonzero(self._sizes)]
        for row, batch in enumerate(filled):
            if row != batch:
                self._sums[row] = self._sums[batch]
            self._sums[row] /= self._sizes[batch]
        return self._sums[: len(filled)], filled


def _offset(
    piece: NDArray[Any], centre: NDArray[Any] | None, part: slice, dtype: np.dtype[np.floating]
) -> NDArray[np.floating]:
    if centre is None:
        return piece[part].astype(dtype, copy=False)
    offset: NDArray[np.floating] = np.subtract(
        piece[part], centre[part], dtype=dtype, casting="same_kind"
    )
    return offset
