"""The contract of every attack."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What a Byzantine client knows when it makes its reply; None for what it does not know.

    Attributes
    ----------
    own : ndarray (d,), float64
        What it would have sent were it honest.
    num_clients, num_byzantine : int
        m and q.
    rng : numpy.random.Generator
    honest : ndarray (m − q, d), float64, optional
        What the honest clients send, by ascending place (the paper, section 1.2).
    client : int
        Its place among the m clients.
    byzantine : sequence of int
        The places of all Byzantine clients, ascending.
    model : ndarray (d,), float64, optional
        θ, the model that it was sent.
    batches : sequence of sequences of int, optional
        The places of the clients in each of the server's k batches.
    rule : callable, optional
        The server's rule: what it makes of the vectors of all m clients, (m, d) to (d,).
    relabelled : callable, optional
        Returns what the client would have sent had its labels been corrupted.
    descends : bool
        Whether the server steps against the vectors, as it does for gradients, or along them.
    """

    own: Vector
    num_clients: int
    num_byzantine: int
    rng: np.random.Generator
    honest: Vector | None = None
    client: int = 0
    byzantine: Sequence[int] = ()
    model: Vector | None = None
    batches: Sequence[Sequence[int]] | None = None
    rule: Callable[[Vector], Vector] | None = None
    relabelled: Callable[[], Vector] | None = None
    descends: bool = False


class Attack(ABC):
    """A frozen dataclass of parameters that turns knowledge into what the client sends."""

    knows: ClassVar[frozenset[str]] = frozenset()
    """The optional fields of `Knowledge` that it needs."""

    common: ClassVar[bool] = False
    """Whether colluders send one vector, which depends on what they all know alone."""

    @abstractmethod
    def __call__(self, knowledge: Knowledge) -> Vector | None:
        """Return the vector (d,) that is sent, or None where the client stays silent.

        Raises ValueError where the attack needs what is not known.
        """

    def spoil(self, arrays: Sequence[NDArray[Any]], rng: np.random.Generator) -> list[NDArray[Any]]:
        """Return the arrays to send in place of these, which have the model's form."""
        return list(arrays)

    def check_known(self, knowledge: Knowledge) -> None:
        """Raise ValueError where something that the attack needs is not known."""
        for name in sorted(self.knows):
            value = getattr(knowledge, name)
            if value is None or (name == "honest" and len(value) == 0):
                state = "None" if value is None else "empty"
                raise ValueError(
                    f"{type(self).__name__} needs to know {_MEANING[name]}; "
                    f"knowledge.{name} is {state}"
                )


_MEANING = {
    "batches": "the server's batches",
    "honest": "what the honest clients send",
    "model": "the model that was sent",
    "relabelled": "what it would send on corrupted labels",
    "rule": "the server's rule",
}


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError where a parameter is not one of the texts that are allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def check_finite(name: str, value: float, *, least: float = float("-inf")) -> None:
    """Raise ValueError where a parameter is not finite, or below `least`."""
    if not (np.isfinite(value) and value >= least):
        bound = "finite" if least == float("-inf") else f"finite and at least {least}"
        raise ValueError(f"{name} must be {bound}, got {value}")
