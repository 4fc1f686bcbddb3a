"""Replies that are not of the model's form."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .attack import Attack, Knowledge, Vector, check_choice

Kind = Literal["shape", "count", "dtype", "overflow", "empty", "bytes"]


@dataclass(frozen=True)
class Malformed(Attack):
    """Send arrays that are not the model's (a crash fault).

    Parameters
    ----------
    kind : str, default "shape"
        "shape": one row more; "count": one array more; "dtype": complex numbers; "overflow":
        float64 numbers of 1e300; "empty": no numbers; "bytes": one array of random bytes.
    """

    kind: Kind = "shape"

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, get_args(Kind))

    def __call__(self, knowledge: Knowledge) -> Vector:
        """Return the own vector: only its form is at fault."""
        return knowledge.own

    def spoil(self, arrays: Sequence[NDArray[Any]], rng: np.random.Generator) -> list[NDArray[Any]]:
        """Return arrays of another form."""
        if self.kind == "shape":
            return [np.concatenate([np.atleast_1d(a), np.atleast_1d(a)[:1]]) for a in arrays]
        if self.kind == "count":
            return [*arrays, arrays[0]]
        if self.kind == "dtype":
            return [array.astype(np.complex128) for array in arrays]
        if self.kind == "overflow":
            return [np.full(array.shape, 1e300) for array in arrays]
        if self.kind == "empty":
            return [array.ravel()[:0] for array in arrays]
        return [np.frombuffer(rng.bytes(sum(array.nbytes for array in arrays)), np.uint8)]
