"""The contract of every attack."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What a Byzantine client knows when it makes its reply.

    Attributes
    ----------
    own : ndarray (d,), float64
        What it would have sent were it honest.
    num_clients, num_byzantine : int
        m and q.
    rng : numpy.random.Generator
        Its source of randomness.
    honest : ndarray (m − q, d), float64, optional
        What the honest clients send, for those that know everything (the paper, section 1.2).
    """

    own: NDArray[np.float64]
    num_clients: int
    num_byzantine: int
    rng: np.random.Generator
    honest: NDArray[np.float64] | None = None


class Attack(ABC):
    """A frozen dataclass of parameters that turns knowledge into what the client sends."""

    omniscient: ClassVar[bool] = False
    """Whether it needs to know what every honest client sends."""

    @abstractmethod
    def __call__(self, knowledge: Knowledge) -> NDArray[np.float64] | None:
        """Return the vector (d,) that is sent, or None where the client stays silent.

        Raises
        ------
        ValueError
            Where the attack needs the honest vectors and they are not known.
        """


def check_finite(name: str, value: float, *, least: float = float("-inf")) -> None:
    """Raise ValueError where a parameter is not a finite number of at least `least`."""
    if not (np.isfinite(value) and value >= least):
        bound = "finite" if least == float("-inf") else f"finite and at least {least}"
        raise ValueError(f"{name} must be {bound}, got {value}")
