"""Attacks that know no other client."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .attack import Attack, Knowledge, Vector, check_finite


@dataclass(frozen=True)
class SignFlip(Attack):
    """Send the own vector against its direction: −s·g (folklore).

    Parameters
    ----------
    scale : float, default 1.0
        s ≥ 0.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        check_finite("scale", self.scale, least=0.0)

    def __call__(self, knowledge: Knowledge) -> Vector:
        """Return −s·g."""
        return -self.scale * knowledge.own


@dataclass(frozen=True)
class Scale(Attack):
    """Send the own vector out of proportion: s·g (Blanchard et al. 2017).

    Parameters
    ----------
    scale : float, default 100.0
        s.
    """

    scale: float = 100.0

    def __post_init__(self) -> None:
        check_finite("scale", self.scale)

    def __call__(self, knowledge: Knowledge) -> Vector:
        """Return s·g."""
        return self.scale * knowledge.own


@dataclass(frozen=True)
class GaussianNoise(Attack):
    """Send noise N(0, s²I), alone or around the own vector (Blanchard et al. 2017).

    Parameters
    ----------
    scale : float, default 200.0
        s ≥ 0, the standard deviation of each coordinate.
    around_own : bool, default False
        Whether the noise is added to the own vector rather than sent alone.
    """

    scale: float = 200.0
    around_own: bool = False

    def __post_init__(self) -> None:
        check_finite("scale", self.scale, least=0.0)

    def __call__(self, knowledge: Knowledge) -> Vector:
        """Return the noise, or the own vector and the noise."""
        noise = self.scale * knowledge.rng.normal(size=knowledge.own.shape)
        return knowledge.own + noise if self.around_own else noise


@dataclass(frozen=True)
class Constant(Attack):
    """Send one number in every coordinate (a free rider sends zeros).

    Parameters
    ----------
    value : float, default 0.0
    """

    value: float = 0.0

    def __post_init__(self) -> None:
        check_finite("value", self.value)

    def __call__(self, knowledge: Knowledge) -> Vector:
        """Return the value in every coordinate."""
        return np.full_like(knowledge.own, self.value)


@dataclass(frozen=True)
class NonFinite(Constant):
    """Send NaN or an infinity in every coordinate (a crash fault).

    Parameters
    ----------
    value : float, default NaN
        NaN, inf or -inf.
    """

    value: float = float("nan")

    def __post_init__(self) -> None:
        if np.isfinite(self.value):
            raise ValueError(f"value must be NaN, inf or -inf, got {self.value}")


@dataclass(frozen=True)
class Silent(Attack):
    """Send nothing (the paper, section 2.1: no message is received)."""

    def __call__(self, knowledge: Knowledge) -> None:
        """Return None."""


@dataclass(frozen=True)
class LabelFlip(Attack):
    """Send honestly what follows from corrupted labels (data corruption; the paper, section 1.2).

    Which labels these are depends on the client's problem: digits c become 9 − c, numbers change
    their sign.
    """

    knows: ClassVar[frozenset[str]] = frozenset({"relabelled"})

    def __call__(self, knowledge: Knowledge) -> Vector:
        """Return the vector on corrupted labels."""
        self.check_known(knowledge)
        assert knowledge.relabelled is not None
        return knowledge.relabelled()


@dataclass(frozen=True, eq=False)
class ModelReplacement(Attack):
    """Send m/η times the step to another model, which a mean then takes (Bagdasaryan et al. 2020).

    Parameters
    ----------
    target : float or array-like (d,), default 0.0
        θ_target; one number stands for every coordinate.
    server_learning_rate : float, default 1.0
        η > 0 of the server.
    """

    knows: ClassVar[frozenset[str]] = frozenset({"model"})
    common: ClassVar[bool] = True
    target: ArrayLike = 0.0
    server_learning_rate: float = 1.0

    def __post_init__(self) -> None:
        if not np.isfinite(np.asarray(self.target, np.float64)).all():
            raise ValueError("target must be finite")
        rate = self.server_learning_rate
        check_finite("server_learning_rate", rate)
        if rate <= 0:
            raise ValueError(f"server_learning_rate must be positive, got {rate}")

    def __call__(self, knowledge: Knowledge) -> Vector:
        """Return (m/η)(θ_target − θ), or its opposite where the server descends."""
        self.check_known(knowledge)
        assert knowledge.model is not None
        step = np.asarray(self.target, np.float64) - knowledge.model
        factor = knowledge.num_clients / self.server_learning_rate
        replacement: Vector = (-factor if knowledge.descends else factor) * step
        return replacement
