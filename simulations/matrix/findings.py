"""What the runs of a matrix come to: pure numbers.

Accuracy is in percent and the higher the better, an error is as it is and the lower the better; by
how much one is better than another is positive in both.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clients.experiments import AttackName

from .engine import NOBODY, Cell, Outcome
from .rules import OWN, STOCK, TITLES, RuleName

ILL_FORMED: tuple[AttackName, ...] = ("non-finite", "malformed", "silent")
"""Attacks whose replies are none that a server could read."""

_SHARE = 0.2  # of Byzantine clients, where a matrix is looked at more closely
_ROUNDED_AWAY = {"accuracy": 0.05, "error": 0.005}  # points; a share of the larger

Finals = Mapping[int, float]
"""The measure after the last round, by seed."""


class Option(NamedTuple):
    """A rule at the server, and β of its clients' momentum."""

    rule: RuleName
    momentum: float = 0.0

    @property
    def title(self) -> str:
        """What it is called."""
        return TITLES[self.rule] + (f" + momentum {self.momentum:g}" if self.momentum else "")


class Place(NamedTuple):
    """A cell of the matrix, whatever the seed."""

    option: Option
    split: str
    q: int
    attack: AttackName


@dataclass(frozen=True)
class Value:
    """A mean with its spread.

    Attributes
    ----------
    mean, least, most : float
        May be infinite; the mean of infinities of both signs is NaN.
    number : int
        Of the runs behind it.
    """

    mean: float
    least: float
    most: float
    number: int


@dataclass(frozen=True)
class Worst:
    """The attack under which a rule does worst on average.

    Attributes
    ----------
    attack : str
    value : Value
    """

    attack: AttackName
    value: Value


@dataclass(frozen=True)
class Comparison:
    """How one place of the matrix compares to another, over the seeds of both.

    Attributes
    ----------
    new, base : Value
    gain : Value
        By how much the new one is better, seed by seed.
    """

    new: Value
    base: Value
    gain: Value

    @property
    def loss(self) -> Value:
        """By how much the new one is worse, seed by seed."""
        gain = self.gain
        return Value(-gain.mean, -gain.most, -gain.least, gain.number)


@dataclass(frozen=True)
class Effect:
    """What a remedy for data that are not alike changes.

    Attributes
    ----------
    remedy : str
    option, base : Option
        With it and without.
    peace, worst : Comparison or None
        With nobody attacking, and each under its own worst well-formed attack. None where runs are
        missing.
    """

    remedy: str
    option: Option
    base: Option
    peace: Comparison | None
    worst: Comparison | None


def value_of(numbers: Iterable[float]) -> Value | None:
    """Return mean and spread; None of no numbers."""
    told = list(numbers)
    if not told:
        return None
    mean = math.nan if {math.inf, -math.inf} <= set(told) else math.fsum(told) / len(told)
    return Value(mean, min(told), max(told), len(told))


@dataclass(frozen=True, eq=False)
class Study:
    """The runs of one problem.

    Attributes
    ----------
    cells : sequence of Cell
        All that were asked for: of one problem, m and number of rounds.
    done : mapping of Cell to Outcome
    """

    cells: Sequence[Cell]
    done: Mapping[Cell, Outcome]

    @property
    def problem(self) -> str:
        """What was trained."""
        return self.cells[0].problem

    @property
    def name(self) -> str:
        """What tells it from others, in names of files."""
        return f"{self.problem}-{self.rounds}"

    @property
    def measure(self) -> str:
        """Either "accuracy" or "error"."""
        return self.cells[0].measure

    @property
    def m(self) -> int:
        """Number of clients."""
        return self.cells[0].m

    @property
    def rounds(self) -> int:
        """How long each run is."""
        return self.cells[0].rounds

    @cached_property
    def options(self) -> list[Option]:
        """The rules as they were asked for."""
        return list(dict.fromkeys(Option(cell.rule, cell.momentum) for cell in self.cells))

    @cached_property
    def splits(self) -> list[str]:
        """How data were spread."""
        return list(dict.fromkeys(cell.split for cell in self.cells))

    @cached_property
    def qs(self) -> list[int]:
        """The numbers of Byzantine clients."""
        return sorted({cell.q for cell in self.cells})

    @cached_property
    def seeds(self) -> list[int]:
        """All seeds."""
        return sorted({cell.seed for cell in self.cells})

    @cached_property
    def attacks(self) -> list[AttackName]:
        """Who attacked, in the order asked for."""
        return list(dict.fromkeys(c.attack for c in self.cells if c.attack != NOBODY))

    @cached_property
    def well_formed(self) -> list[AttackName]:
        """The attacks whose replies a server can read."""
        return [attack for attack in self.attacks if attack not in ILL_FORMED]

    @cached_property
    def q(self) -> int:
        """The number of Byzantine clients to look at more closely: the nearest to 20 %."""
        attacked = [q for q in self.qs if q] or self.qs
        return min(attacked, key=lambda q: abs(q - _SHARE * self.m))

    @cached_property
    def least_alike(self) -> str | None:
        """The Dirichlet split of the smallest α."""
        return min(
            (split for split in self.splits if split.startswith("dirichlet-")),
            key=lambda split: float(split.removeprefix("dirichlet-")),
            default=None,
        )

    @cached_property
    def close_splits(self) -> list[str]:
        """The splits to look at more closely: IID and the least alike Dirichlet split."""
        return [split for split in ("iid", self.least_alike) if split in self.splits]

    @cached_property
    def places(self) -> list[Place]:
        """Every place of the matrix."""
        return list(dict.fromkeys(place_of(cell) for cell in self.cells))

    @cached_property
    def outcomes(self) -> dict[Place, dict[int, Outcome]]:
        """What was played, by seed."""
        found: dict[Place, dict[int, Outcome]] = {}
        for cell in self.cells:
            if cell in self.done:
                found.setdefault(place_of(cell), {})[cell.seed] = self.done[cell]
        return found

    def finals(self, place: Place) -> Finals:
        """Return the final measure of each seed that was played."""
        return {
            seed: self._scale * outcome.final
            for seed, outcome in self.outcomes.get(place, {}).items()
        }

    def value(self, place: Place) -> Value | None:
        """Return the final measure over seeds."""
        return value_of(self.finals(place).values())

    def curves(self, place: Place) -> NDArray[np.float64]:
        """Return the measure over rounds, (seeds, rounds + 1)."""
        values = [outcome.values for outcome in self.outcomes.get(place, {}).values()]
        return self._scale * np.array(values).reshape(len(values), self.rounds + 1)

    def is_stopped(self, place: Place) -> bool:
        """Say whether an error at the server ended any of the runs."""
        return any(outcome.stopped for outcome in self.outcomes.get(place, {}).values())

    def stops(self, option: Option, split: str, q: int) -> list[AttackName]:
        """Return the attacks that ended runs by an error at the server."""
        return [a for a in self.attacks if self.is_stopped(Place(option, split, q, a))]

    def stopped(self) -> list[tuple[Option, AttackName, list[str], int]]:
        """Return the errors at the server, by rule and attack, and of how many runs."""
        errors: dict[tuple[Option, AttackName], list[str]] = {}
        for place in self.places:
            texts = [outcome.stopped for outcome in self.outcomes.get(place, {}).values()]
            errors.setdefault((place.option, place.attack), []).extend(texts)
        return [
            (option, attack, list(filter(None, texts)), len(texts))
            for (option, attack), texts in errors.items()
            if any(texts)
        ]

    def compare(self, place: Place, base: Place) -> Comparison | None:
        """Compare the final measures at two places; None where they share no seed."""
        sign = 1 if self.measure == "accuracy" else -1
        ends, others = self.finals(place), self.finals(base)
        seeds = [seed for seed in ends if seed in others]
        new = value_of(ends[seed] for seed in seeds)
        old = value_of(others[seed] for seed in seeds)
        gain = value_of(
            0.0 if ends[seed] == others[seed] else sign * (ends[seed] - others[seed])
            for seed in seeds
        )
        return Comparison(new, old, gain) if new and old and gain else None

    def is_as_good(self, value: Value, other: Value) -> bool:
        """Say whether two means are the same, as they are rounded where they are told."""
        a, b = value.mean, other.mean
        near = _ROUNDED_AWAY[self.measure] * (1 if self.measure == "accuracy" else max(a, b))
        return a == b or abs(a - b) < near < math.inf

    def is_better(self, value: Value, other: Value) -> bool:
        """Say whether a mean is better than another by more than is rounded away."""
        return not self.is_as_good(value, other) and self._badness(value) < self._badness(other)

    def is_whole(self, option: Option, split: str, q: int, attacks: Iterable[AttackName]) -> bool:
        """Say whether no run under these attacks is missing."""
        places = (Place(option, split, q, attack) for attack in attacks)
        return all(len(self.finals(place)) == len(self.seeds) for place in places)

    def worst(
        self, option: Option, split: str, q: int, attacks: Iterable[AttackName]
    ) -> Worst | None:
        """Return the worst of what was played of these attacks, the first of equals."""
        played = [(a, self.value(Place(option, split, q, a))) for a in attacks]
        cases = [Worst(attack, value) for attack, value in played if value]
        return max(cases, key=lambda case: self._badness(case.value), default=None)

    def ranking(
        self,
        split: str,
        q: int,
        attacks: Sequence[AttackName],
        among: Callable[[Option], bool] = lambda option: True,
    ) -> list[tuple[Option, Worst]]:
        """Return the rules of which no run is missing, the best worst case first."""
        cases = [
            (option, worst)
            for option in self.options
            if among(option) and self.is_whole(option, split, q, attacks)
            if (worst := self.worst(option, split, q, attacks))
        ]
        return sorted(cases, key=lambda case: self._badness(case[1].value))

    def under_attack(
        self, option: Option, split: str, q: int, attacks: Iterable[AttackName]
    ) -> Comparison | None:
        """Compare a rule under the worst of these attacks to itself with nobody attacking."""
        worst, peace = self.worst(option, split, q, attacks), Place(option, split, q, NOBODY)
        return self.compare(peace._replace(attack=worst.attack), peace) if worst else None

    def mean_in_peace(self, split: str, q: int) -> Place:
        """Return where FedAvg is with nobody attacking: set for no attacker, if it was played."""
        place = Place(Option("fedavg"), split, 0, NOBODY)
        return place if self.finals(place) else place._replace(q=q)

    def in_peace(self, option: Option, split: str, q: int) -> Comparison | None:
        """Compare a rule set for q to FedAvg, both with nobody attacking."""
        return self.compare(Place(option, split, q, NOBODY), self.mean_in_peace(split, q))

    def effects(self, split: str, q: int) -> list[Effect]:
        """Return what client momentum and re-bucketing change, of each rule played without, too."""
        pairs = [
            (f"momentum {option.momentum:g}", option, option._replace(momentum=0.0))
            for option in self.options
            if option.momentum
        ] + [
            ("re-bucketing", option, option._replace(rule="ours"))
            for option in self.options
            if option.rule == "ours-rebucketed"
        ]
        return [
            Effect(remedy, option, base, *self._changes(option, base, split, q))
            for remedy, option, base in pairs
            if base in self.options
        ]

    def _changes(
        self, option: Option, base: Option, split: str, q: int
    ) -> tuple[Comparison | None, Comparison | None]:
        here, there = Place(option, split, q, NOBODY), Place(base, split, q, NOBODY)
        cases = dict(self.ranking(split, q, self.well_formed))
        worst = None
        if option in cases and base in cases:
            worst = self.compare(
                here._replace(attack=cases[option].attack),
                there._replace(attack=cases[base].attack),
            )
        return self.compare(here, there), worst

    def server_ms(self, option: Option) -> Value | None:
        """Return the server's milliseconds for a round with nobody attacking, over all splits."""
        return value_of(
            1e3 * outcome.seconds
            for split in self.splits
            for outcome in self.outcomes.get(Place(option, split, self.q, NOBODY), {}).values()
        )

    def _badness(self, value: Value) -> float:
        return -value.mean if self.measure == "accuracy" else value.mean

    @property
    def _scale(self) -> float:
        return 100.0 if self.measure == "accuracy" else 1.0


def place_of(cell: Cell) -> Place:
    """Return where in the matrix a run is."""
    return Place(Option(cell.rule, cell.momentum), cell.split, cell.q, cell.attack)


def is_stock(option: Option) -> bool:
    """Say whether the rule is one of Flower's."""
    return option.rule in STOCK


def is_own(option: Option) -> bool:
    """Say whether the rule is one of this package's."""
    return option.rule in OWN


def studies(cells: Iterable[Cell], done: Mapping[Cell, Outcome]) -> list[Study]:
    """Part what was asked for by problem, m and number of rounds."""
    parts: dict[tuple[str, int, int], dict[Cell, None]] = {}
    for cell in cells:
        parts.setdefault((cell.problem, cell.m, cell.rounds), {})[cell] = None
    return [Study(list(part), done) for part in parts.values()]
