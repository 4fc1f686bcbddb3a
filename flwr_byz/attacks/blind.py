"""Attacks that know nothing but their own honest vector."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .attack import Attack, Knowledge, check_finite


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

    def __call__(self, knowledge: Knowledge) -> NDArray[np.float64]:
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

    def __call__(self, knowledge: Knowledge) -> NDArray[np.float64]:
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

    def __call__(self, knowledge: Knowledge) -> NDArray[np.float64]:
        """Return the noise, or the own vector and the noise."""
        noise = self.scale * knowledge.rng.normal(size=knowledge.own.shape)
        return knowledge.own + noise if self.around_own else noise


@dataclass(frozen=True)
class NonFinite(Attack):
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

    def __call__(self, knowledge: Knowledge) -> NDArray[np.float64]:
        """Return the value in every coordinate."""
        return np.full_like(knowledge.own, self.value)


@dataclass(frozen=True)
class Silent(Attack):
    """Send nothing (the paper, section 2.1: no message is received)."""

    def __call__(self, knowledge: Knowledge) -> None:
        """Return None."""
