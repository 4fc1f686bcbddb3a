"""A model's arrays as one vector, the form that attacks work on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def flatten(
    arrays: Sequence[NDArray[Any]], like: Sequence[NDArray[Any]] | None = None
) -> NDArray[np.float64]:
    """Join the arrays that are float in `like`, by default themselves, into a vector (d,), float64.

    A model that was averaged holds integer counters as floats, where clients reply integers.
    """
    pairs = zip(arrays, arrays if like is None else like, strict=True)
    parts = [np.ravel(a).astype(np.float64) for a, other in pairs if other.dtype.kind == "f"]
    return np.concatenate(parts) if parts else np.zeros(0)


def unflatten(vector: NDArray[np.float64], like: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Split a vector (d,) into the float arrays of `like`; other arrays stay as they are.

    Shapes and dtypes are kept; a number that overflows its dtype becomes infinity.
    """
    parts = iter(np.split(vector, np.cumsum([a.size for a in like if a.dtype.kind == "f"])))
    with np.errstate(over="ignore"):
        return [
            next(parts).reshape(a.shape).astype(a.dtype) if a.dtype.kind == "f" else a for a in like
        ]
