"""Checked input vectors, read in blocks of coordinates."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..checks import wrong_kind

# n real vectors of equal length: one array (n, d), or n arrays (d,).
Vectors = NDArray[np.floating] | Sequence[NDArray[np.floating]]


def as_vectors(values: ArrayLike | Sequence[ArrayLike], name: str) -> Vectors:
    """Check that `values` are n ≥ 1 real vectors of one length, without copying floats.

    Raises ValueError, naming the argument and, where one vector is wrong, its row.
    """
    if not isinstance(values, Iterable):
        raise wrong_kind(name, "a sequence of vectors", values)
    if isinstance(values, np.ndarray) and values.dtype != object:
        if values.ndim != 2 or len(values) == 0:
            raise ValueError(f"{name} must be n ≥ 1 vectors, shape (n, d); got {values.shape}")
        return _as_real(values, name)
    rows = [_as_real(np.asarray(row), f"{name}[{i}]") for i, row in enumerate(values)]
    if not rows:
        raise ValueError(f"{name} must hold at least one vector, got none")
    for i, row in enumerate(rows):
        if row.ndim != 1 or row.shape != rows[0].shape:
            shapes = f"{name}[0] has shape {rows[0].shape}, {name}[{i}] has {row.shape}"
            raise ValueError(f"{name} must be vectors of one length: {shapes}")
    return rows


def check_finite(vectors: Vectors, name: str) -> None:
    """Raise ValueError, naming the row, where a vector holds NaN or infinity."""
    for i, row in enumerate(vectors):
        if not np.isfinite(row).all():
            raise ValueError(f"{name} must be finite: {name}[{i}] holds NaN or infinity")


def _as_real(values: NDArray[Any], name: str) -> NDArray[np.floating]:
    if values.dtype.kind == "f" and values.dtype.itemsize <= 8:
        return values
    if values.dtype.kind in "iuf":
        return values.astype(np.float64)
    raise ValueError(f"{name} must hold real numbers, got dtype {values.dtype}")
