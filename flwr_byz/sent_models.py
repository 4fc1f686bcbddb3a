"""The models that clients still train on: in files, so that memory holds only the newest."""

import tempfile
import weakref
from collections.abc import Container, Mapping, Sequence
from contextlib import ExitStack
from itertools import accumulate, pairwise
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .payload import Model


class SentModels:
    """Keeps the float arrays of earlier models, by the step in which they were sent.

    Each is in a temporary file without a name, which is gone with this object, or with the process,
    however it ends.
    """

    def __init__(self) -> None:
        self._files: dict[int, IO[bytes]] = {}
        self._dtypes: dict[int, list[tuple[np.dtype[Any], int]]] = {}  # with the number of bytes
        weakref.finalize(self, _close, self._files)

    def keep(self, step: int, model: Model) -> None:
        """Write a model down; raise OSError where the disk does not take it."""
        arrays = model.floats()
        with ExitStack() as on_error:
            file = on_error.enter_context(tempfile.TemporaryFile())
            for array in arrays:
                array.tofile(file)
            on_error.pop_all()
        self._files[step] = file
        self._dtypes[step] = [(array.dtype, array.nbytes) for array in arrays]

    def floats(self, step: int) -> Sequence[NDArray[Any]]:
        """Return the flat arrays of a model that is kept, which are read as they are used.

        Raises KeyError where it is not kept, OSError where its file cannot be read any more.
        """
        dtypes = self._dtypes[step]
        ends = list(accumulate((size for _, size in dtypes), initial=0))
        data = np.memmap(self._files[step], mode="r") if ends[-1] else np.empty(0, np.uint8)
        return [
            data[start:stop].view(dtype)
            for (start, stop), (dtype, _) in zip(pairwise(ends), dtypes, strict=True)
        ]

    def keep_only(self, steps: Container[int]) -> None:
        """Remove all models but those of some steps."""
        for step in [step for step in self._files if step not in steps]:
            self._files.pop(step).close()
            del self._dtypes[step]


def _close(files: Mapping[int, IO[bytes]]) -> None:
    for file in files.values():
        file.close()
