"""Checked input vectors, read in blocks of coordinates."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# n equal-length real vectors: one (n, d) array, or n arrays (d,) left where they are.
Vectors = NDArray[np.floating] | Sequence[NDArray[np.floating]]


def as_vectors(values: ArrayLike | Sequence[ArrayLike], name: str) -> Vectors:
    """Check that `values` are n ≥ 1 real vectors of one length, without copying floats.

    Raises
    ------
    ValueError
        Naming the argument and, where one vector is at fault, its row.
    """
    if isinstance(values, np.ndarray) and values.dtype != object:
        if values.ndim != 2 or len(values) == 0:
            raise ValueError(f"{name} must be n ≥ 1 vectors, shape (n, d); got {values.shape}")
        vectors: Vectors = _as_real(values, name)
    else:
        rows = [_as_real(np.asarray(row), f"{name}[{i}]") for i, row in enumerate(_iterate(values))]
        if not rows:
            raise ValueError(f"{name} must hold at least one vector, got none")
        for i, row in enumerate(rows):
            if row.ndim != 1 or row.shape != rows[0].shape:
                raise ValueError(
                    f"{name} must be vectors of one length: {name}[0] has shape "
                    f"{rows[0].shape}, {name}[{i}] has {row.shape}"
                )
        vectors = rows
    return vectors


def check_finite(vectors: Vectors, name: str) -> None:
    """Raise ValueError, naming the row, where a vector holds NaN or infinity."""
    for i, row in enumerate(vectors):
        if not np.isfinite(row).all():
            raise ValueError(f"{name} must be finite: {name}[{i}] holds NaN or infinity")


def _iterate(values: ArrayLike | Sequence[ArrayLike]) -> Iterator[ArrayLike]:
    try:
        return iter(values)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"vectors must be a sequence, got {type(values).__name__}") from None


def _as_real(values: NDArray[Any], name: str) -> NDArray[np.floating]:
    if values.dtype.kind == "f" and values.dtype.itemsize <= 8:
        return values
    if values.dtype.kind in "iuf":
        return values.astype(np.float64)
    raise ValueError(f"{name} must hold real numbers, got dtype {values.dtype}")


def power_of_two_scale(vectors: Vectors) -> float:
    """Return the 2^-e that brings the largest absolute entry into [1/2, 1), exactly and safely.

    Squares of scaled entries do not overflow; what underflows is below 1e-150 of the largest.
    """
    largest = max(float(np.abs(row).max(initial=0.0)) for row in vectors)
    exponent = int(np.frexp(largest)[1])
    return float(np.ldexp(1.0, -max(exponent, -1000)))


def norms(vectors: Vectors) -> NDArray[np.float64]:
    """Euclidean norm of each vector, (n,); infinity only where the norm itself leaves float64."""
    result = np.empty(len(vectors))
    with np.errstate(all="ignore"):
        for i, row in enumerate(vectors):
            scale = power_of_two_scale([row])
            result[i] = np.linalg.norm(np.multiply(row, scale, dtype=np.float64)) / scale
    return result
