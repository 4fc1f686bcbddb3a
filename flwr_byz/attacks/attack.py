"""The interface of every attack."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from math import inf
from typing import Any, ClassVar, Literal, get_args, get_origin

import numpy as np
from numpy.typing import NDArray

from ..checks import check_choice, check_number
from ..renamed import renamed

Vector = NDArray[np.float64]
Arrays = Sequence[NDArray[Any]]
Direction = Literal["mean", "spread", "sign"]


@renamed(descends="uses_gradients")
@dataclass(frozen=True, eq=False)
class Knowledge:
    """What a Byzantine client knows when it makes its reply; None for what it does not know.

    Attributes
    ----------
    own, honest : ndarray (d,), ndarray (m − q, d), float64
        The client's honest vector, and those of the honest clients, by ascending number.
    num_clients, num_byzantine, client, byzantine : int, int, int, sequence of int
        m and q; this client, and all Byzantine ones in ascending order, numbered 0 … m − 1.
    model, batches : ndarray (d,), sequence of sequences of int
        θ, the model that the server sent, and the clients in each of its k batches.
    rule, relabelled : callable
        The server's rule, from the vectors of all m clients, (m, d), to the aggregate, (d,); and
        what returns the client's honest vector on corrupted labels.
    uses_gradients : bool
        Whether vectors are gradients, which the server subtracts, or updates, which it adds.
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
    uses_gradients: bool = False


def number(default: float | None, *, least: float = -inf, above: float = -inf) -> Any:
    """Declare a finite parameter of an attack within limits, whole where its default is."""
    return field(default=default, metadata={"least": least, "above": above})


@renamed(knows="requires", spoil="corrupt")
class Attack(ABC):
    """A frozen dataclass of parameters that turns knowledge into the vector to send.

    Raises TypeError where a parameter is of another type than its default, ValueError where a
    `number` is out of range or a parameter declared as Literal has another value.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    """The optional fields of `Knowledge` that it needs."""

    common: ClassVar[bool] = False
    """Whether all colluders send one vector, made from their common knowledge alone."""

    def __post_init__(self) -> None:
        for parameter in fields(self):  # type: ignore[arg-type]
            name, default, kind = parameter.name, parameter.default, parameter.type
            value, limits = getattr(self, name), parameter.metadata
            if get_origin(kind) is Literal or kind is bool:
                check_choice(name, value, get_args(kind) or (True, False))
            elif limits and not (value is None and default is None):
                note = "" if default is None else f", for example {default}"
                check_number(name, value, whole=isinstance(default, int), note=note, **limits)

    @abstractmethod
    def __call__(self, knowledge: Knowledge) -> Vector | None:
        """Return the vector (d,) to send, or None to stay silent; raise as `check_known` does."""

    def corrupt(self, arrays: Arrays, rng: np.random.Generator) -> list[NDArray[Any]]:
        """Return the arrays to send, given the vector in arrays like the model's."""
        return list(arrays)

    def check_known(self, knowledge: Knowledge) -> None:
        """Raise ValueError where `knowledge` lacks a field that the attack requires."""
        for name in sorted(self.requires):
            value = getattr(knowledge, name)
            if value is None or (name == "honest" and len(value) == 0):
                state = "None" if value is None else "empty"
                needs = f"{type(self).__name__} needs to know {_MEANING[name]}"
                raise ValueError(f"{needs}; knowledge.{name} is {state}")


_MEANING = {
    "batches": "the server's batches",
    "honest": "the vectors of the honest clients",
    "model": "the model that the server sent",
    "relabelled": "its own vector on corrupted labels",
    "rule": "the server's rule",
}
