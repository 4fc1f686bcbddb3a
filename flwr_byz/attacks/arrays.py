"""A model's arrays as one vector, the form that attacks work on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def flatten(arrays: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """Join the float arrays, and no others, into one vector (d,), float64."""
    parts = [np.ravel(a).astype(np.float64) for a in arrays if a.dtype.kind == "f"]
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
