"""Attacks that need no knowledge of other clients."""

from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ..checks import check_kind, wrong_value
from .attack import Arrays, Attack, Knowledge, Vector, number


@dataclass(frozen=True)
class SignFlip(Attack):
    """Send −s·g, the client's own vector g turned around (folklore); s = `scale` ≥ 0."""

    scale: float = number(1.0, least=0.0)

    def __call__(self, knowledge: Knowledge) -> Vector:
        return -self.scale * knowledge.own


@dataclass(frozen=True)
class Scale(Attack):
    """Send s·g, the client's own vector g times s = `scale` (Blanchard et al. 2017)."""

    scale: float = number(100.0)

    def __call__(self, knowledge: Knowledge) -> Vector:
        return self.scale * knowledge.own


@dataclass(frozen=True)
class GaussianNoise(Attack):
    """Send N(0, s²I), s = `scale` ≥ 0, `around_own` vector or around 0 (Blanchard et al. 2017)."""

    scale: float = number(200.0, least=0.0)
    around_own: bool = False

    def __call__(self, knowledge: Knowledge) -> Vector:
        noise = self.scale * knowledge.rng.normal(size=knowledge.own.shape)
        return knowledge.own + noise if self.around_own else noise


@dataclass(frozen=True)
class Constant(Attack):
    """Send the same `value` in every coordinate (a free rider sends zeros)."""

    value: float = number(0.0)

    def __call__(self, knowledge: Knowledge) -> Vector:
        return np.full_like(knowledge.own, self.value)


@dataclass(frozen=True)
class NonFinite(Constant):
    """Send a `value` of NaN, inf or -inf in every coordinate (a crash fault)."""

    value: float = float("nan")

    def __post_init__(self) -> None:
        check_kind("value", self.value, Real, "NaN, inf or -inf")
        if np.isfinite(self.value):
            raise wrong_value("value", "NaN, inf or -inf", self.value)


@dataclass(frozen=True)
class Silent(Attack):
    """Send nothing (the paper, section 2.1: no message is received)."""

    def __call__(self, knowledge: Knowledge) -> None:
        return None


@dataclass(frozen=True)
class LabelFlip(Attack):
    """Send the honest vector on corrupted labels (data corruption; the paper, section 1.2)."""

    requires: ClassVar[frozenset[str]] = frozenset({"relabelled"})

    def __call__(self, knowledge: Knowledge) -> Vector:
        self.check_known(knowledge)
        assert knowledge.relabelled is not None
        return knowledge.relabelled()


@dataclass(frozen=True)
class Malformed(Attack):
    """Send arrays that differ from the model's in shape, number or dtype (a crash fault).

    The `kind` "shape" is an extra row in each; "count" an extra array; "dtype" complex numbers;
    "overflow" float64 numbers of 1e300; "empty" no numbers; "bytes" one array of random bytes.
    """

    kind: Literal["shape", "count", "dtype", "overflow", "empty", "bytes"] = "shape"

    def __call__(self, knowledge: Knowledge) -> Vector:
        return knowledge.own

    def corrupt(self, arrays: Arrays, rng: np.random.Generator) -> list[NDArray[Any]]:
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
