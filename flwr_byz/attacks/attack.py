"""The contract of every attack."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from math import inf
from typing import Any, ClassVar, Literal, get_args, get_origin

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Direction = Literal["mean", "spread", "sign"]


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
    client, byzantine : int, sequence of int
        Its place among the m clients, and those of all Byzantine clients, ascending.
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


def number(default: float | None, *, least: float = -inf, above: float = -inf) -> Any:
    """Declare a parameter of an attack: finite, at least `least` and greater than `above`."""
    return field(default=default, metadata={"least": least, "above": above})


class Attack(ABC):
    """A frozen dataclass of parameters that turns knowledge into what the client sends.

    Raises ValueError where a `number` is out of range, or a Literal none of its texts.
    """

    knows: ClassVar[frozenset[str]] = frozenset()
    """The optional fields of `Knowledge` that it needs."""

    common: ClassVar[bool] = False
    """Whether colluders send one vector, which depends on what they all know alone."""

    def __post_init__(self) -> None:
        for parameter in fields(self):  # type: ignore[arg-type]
            name, value = parameter.name, getattr(self, parameter.name)
            choices = get_args(parameter.type) if get_origin(parameter.type) is Literal else ()
            if choices and value not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {value!r}")
            if "least" in parameter.metadata and value != parameter.default:
                _check_number(name, value, **parameter.metadata)

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
                needs = f"{type(self).__name__} needs to know {_MEANING[name]}"
                raise ValueError(f"{needs}; knowledge.{name} is {state}")


_MEANING = {
    "batches": "the server's batches",
    "honest": "what the honest clients send",
    "model": "the model that was sent",
    "relabelled": "what it would send on corrupted labels",
    "rule": "the server's rule",
}


def _check_number(name: str, value: float, least: float, above: float) -> None:
    if not (np.isfinite(value) and value >= least and value > above):
        bounds = {"at least": least, "greater than": above}
        said = "".join(f" and {words} {bound:g}" for words, bound in bounds.items() if bound > -inf)
        raise ValueError(f"{name} must be finite{said}, got {value}")
