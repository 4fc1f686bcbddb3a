"""The models that clients still train on: in files, so that memory holds only the newest."""

import tempfile
from collections.abc import Container, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .payload import Model


class SentModels:
    """Keeps the float arrays of earlier models, by the step in which they were sent.

    The files are in the system's folder for temporary files, and go with this object.
    """

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._dtypes: dict[int, list[tuple[np.dtype[Any], int]]] = {}  # with the number of bytes

    def keep(self, step: int, model: Model) -> None:
        """Write a model down; raise OSError where the disk does not take it."""
        arrays, path = model.floats(), self._path(step)
        try:
            with path.open("wb") as file:
                for array in arrays:
                    array.tofile(file)
        except OSError:
            path.unlink(missing_ok=True)  # a part of it would fill the disk
            raise
        self._dtypes[step] = [(array.dtype, array.nbytes) for array in arrays]

    def floats(self, step: int) -> Sequence[NDArray[Any]]:
        """Return the flat arrays of a model that is kept, which are read as they are used.

        Raises OSError where its file cannot be read any more.
        """
        dtypes = self._dtypes[step]
        ends = list(accumulate((size for _, size in dtypes), initial=0))
        data = np.memmap(self._path(step), mode="r") if ends[-1] else np.empty(0, np.uint8)
        return [
            data[start:stop].view(dtype)
            for (start, stop), (dtype, _) in zip(pairwise(ends), dtypes, strict=True)
        ]

    def keep_only(self, steps: Container[int]) -> None:
        """Remove all models but those of some steps."""
        for step in [step for step in self._dtypes if step not in steps]:
            del self._dtypes[step]
            self._path(step).unlink(missing_ok=True)

    def __contains__(self, step: object) -> bool:
        return step in self._dtypes

    def _path(self, step: int) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(
                prefix="flwr-byz-", ignore_cleanup_errors=True
            )
        return Path(self._folder.name) / f"{step}.model"
