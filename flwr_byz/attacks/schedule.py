"""Who is Byzantine when: the set can change from round to round (the paper, section 1.2).

A schedule maps the number of a round to the Byzantine clients, as numbers from 0 to m − 1, the same
in every process.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Integral

import numpy as np

from ..aggregation import split_into_batches
from ..checks import check_number, shown

Schedule = Callable[[int], frozenset[int]]


@dataclass(frozen=True, init=False)
class Fixed:
    """The same clients in every round: ``Fixed({2, 7})``, or any other collection of integers."""

    clients: frozenset[int]

    def __init__(self, clients: Iterable[int], *others: object) -> None:
        numbers = tuple(clients) if isinstance(clients, Iterable) else (None,)
        whole = (isinstance(n, Integral) and not isinstance(n, bool) for n in numbers)
        if others or not all(whole):
            given = ", ".join(map(shown, (clients, *others)))
            needed = "clients must be a set of whole numbers, as in Fixed({2, 7})"
            raise TypeError(f"{needed}, got {given}")
        object.__setattr__(self, "clients", frozenset(map(int, numbers)))

    def __call__(self, server_round: int) -> frozenset[int]:
        return self.clients


@dataclass(frozen=True)
class _Changing:
    """Another q of m clients in each round."""

    num_clients: int
    num_byzantine: int

    def __post_init__(self) -> None:
        _check(self.num_byzantine, num_clients=self.num_clients)


@dataclass(frozen=True)
class FreshEachRound(_Changing):
    """Any q of m clients, drawn anew for each round."""

    seed: int = 0

    def __call__(self, server_round: int) -> frozenset[int]:
        rng = np.random.default_rng([self.seed, server_round])
        return frozenset(rng.choice(self.num_clients, self.num_byzantine, replace=False).tolist())


@dataclass(frozen=True)
class Rotating(_Changing):
    """In round r clients (r − 1)q … rq − 1, counted in a circle: in ⌈m/q⌉ rounds all of them."""

    def __call__(self, server_round: int) -> frozenset[int]:
        last = server_round * self.num_byzantine
        return frozenset(i % self.num_clients for i in range(last - self.num_byzantine, last))


def one_per_batch(num_clients: int, num_byzantine: int, num_batches: int) -> Fixed:
    """Reach as many of k ≥ q batches as possible: the first clients of q evenly spaced batches."""
    _check(num_byzantine, num_clients=num_clients, num_batches=num_batches)
    batches = split_into_batches(range(num_clients), num_batches)
    return Fixed([batches[i * num_batches // num_byzantine][0] for i in range(num_byzantine)])


def packed(num_clients: int, num_byzantine: int) -> Fixed:
    """Reach as few batches as possible: the first q clients fill the first ⌈q/b⌉ batches."""
    _check(num_byzantine, num_clients=num_clients)
    return Fixed(range(num_byzantine))


def _check(num_byzantine: int, **limits: int) -> None:
    for name, limit in limits.items():
        check_number(name, limit, whole=True, least=0)
        note = f", which is {name}"
        check_number("num_byzantine", num_byzantine, whole=True, least=0, most=limit, note=note)
