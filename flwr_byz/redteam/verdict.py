"""What plays mean: which number is judged, what counts as broken, and that in plain words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .outcome import OURS, PEACE, SOURCES, Outcome

_HIGHER = ("acc", "auc", "f1", "precision", "recall", "r2", "iou", "dice", "bleu", "score")
_LOWER = ("loss", "err", "mse", "mae", "perplexity", "nll", "distance", "cost")
_NO_MEASURE = ("num-examples", "num_examples")

_WHERE = {
    "server": "evaluated at the server",
    "evaluate": "evaluated by the clients",
    "train": "from the clients' training",
}


@dataclass(frozen=True)
class Measure:
    """A metric of the app's: the number that is judged.

    Attributes
    ----------
    source : {"server", "evaluate", "train"}
    name : str
    higher_is_better : bool
    """

    source: str
    name: str
    higher_is_better: bool

    @property
    def is_share(self) -> bool:
        """Whether it is shown in per cent, as accuracies are."""
        return "acc" in self.name.lower()

    def __str__(self) -> str:
        better = "higher" if self.higher_is_better else "lower"
        return f"{self.name}, {_WHERE[self.source]}, {better} is better"

    def values(self, outcome: Outcome) -> Mapping[int, float]:
        """Return its values by round."""
        return outcome.metrics.get(self.source, {}).get(self.name, {})

    def final(self, outcome: Outcome) -> float | None:
        """Return its value after the last round that has one; None where none has."""
        values = {number: value for number, value in self.values(outcome).items() if number > 0}
        return values[max(values)] if values else None

    def text(self, value: float) -> str:
        """Write a value down."""
        return f"{100 * value:.1f} %" if self.is_share else f"{value:.4g}"


def choose_measure(
    peace: Outcome, name: str | None = None, higher_is_better: bool | None = None
) -> Measure | None:
    """Choose among what an app reports: at the server before by clients before in training.

    What sounds like an accuracy goes before what sounds like a loss.

    Raises
    ------
    ValueError
        Where the app reports no metric of the name given, or the name does not tell which
        direction is better, nor does the caller.
    """
    for source in SOURCES:
        reported = [
            each
            for each in peace.metrics.get(source, {})
            if (each == name if name is not None else each not in _NO_MEASURE)
        ]
        for direction in (True, False):
            for each in reported:
                if _direction(each) is direction:
                    better = direction if higher_is_better is None else higher_is_better
                    return Measure(source, each, better)
        if name is not None and reported:
            if higher_is_better is None:
                raise ValueError(
                    f"which values of {name} are better? say --higher-is-better or "
                    "--lower-is-better"
                )
            return Measure(source, name, higher_is_better)
    if name is not None:
        found = sorted({each for names in peace.metrics.values() for each in names})
        raise ValueError(
            f"the app reports no {name}; it reports {', '.join(found) or 'no numbers'}"
        )
    return None


def _direction(name: str) -> bool | None:
    """Tell whether higher is better, as far as a name says."""
    lowered = name.lower()
    if any(word in lowered for word in _LOWER):
        return False
    return True if any(word in lowered for word in _HIGHER) else None


def distance(moved: float) -> str:
    """Write down how far a model has moved away, with two digits."""
    return f"{moved:,.0f}" if 10 <= moved < 1e6 else f"{moved:.2g}"


@dataclass(frozen=True)
class Standard:
    """What counts as broken, set by the app's own strategy where nobody attacks.

    Attributes
    ----------
    measure : Measure or None
        None where the app reports none, or training gains nothing by it: then it counts how far
        the final model has moved away.
    start, peace : float
        Its value of the initial model, and of the final one.
    """

    measure: Measure | None
    start: float = 0.0
    peace: float = 0.0

    @classmethod
    def of(cls, peace: Outcome, measure: Measure | None) -> "Standard":
        """Take it from the play of the app's own strategy where nobody attacks."""
        if measure is not None:
            values = measure.values(peace)
            start, final = values[min(values)], measure.final(peace)
            sign = 1 if measure.higher_is_better else -1
            if final is not None and sign * (final - start) > 0:
                return cls(measure, start, final)
        return cls(None)

    @property
    def threshold(self) -> float:
        """The value at which half of what training gained is lost."""
        return (self.start + self.peace) / 2

    @property
    def definition(self) -> str:
        """Say what counts as broken."""
        if self.measure is None:
            lost = (
                "its final model lies further from the one of your own strategy where nobody "
                "attacks than half of the way that training took it there"
            )
        else:
            lost = (
                f"it loses more than half of what training gains where nobody attacks: "
                f"{self.measure.name} from {self.measure.text(self.start)} to "
                f"{self.measure.text(self.peace)}, so beyond {self.measure.text(self.threshold)}"
            )
        return f"Broken: the training crashes, hangs, ends at no finite number, or {lost}."

    def final(self, outcome: Outcome) -> float | None:
        """Return the number that is judged."""
        return outcome.moved if self.measure is None else self.measure.final(outcome)

    def text(self, value: float) -> str:
        """Write such a number down."""
        return f"moved {distance(value)}" if self.measure is None else self.measure.text(value)

    def failure(self, outcome: Outcome) -> str:
        """Say in a word or two how a play is broken; empty where it is not."""
        if outcome.end in ("crashed", "hung"):
            return outcome.end
        if outcome.end == "not attacked":
            return ""
        value = self.final(outcome)
        if not outcome.finite or (value is not None and not math.isfinite(value)):
            return "not finite"
        if value is None:
            return ""
        if self.measure is None:
            return "moved away" if value > 0.5 else ""
        worse = value < self.threshold if self.measure.higher_is_better else value > self.threshold
        return "lost" if worse else ""


@dataclass(frozen=True)
class Row:
    """One attack: what came of it with the app's own strategy, and with ours."""

    attack: str
    own: Outcome
    ours: Outcome


def verdict(rows: Sequence[Row], standard: Standard) -> str:
    """Say in plain words what the plays show; the first row is the one where nobody attacks."""
    peace = next(row for row in rows if row.attack == PEACE)
    attacked = [row for row in rows if row.attack != PEACE]
    tried = [row for row in attacked if "not attacked" not in (row.own.end, row.ours.end)]
    own_name = peace.own.strategy
    sentences = []
    if tried:
        own = [row.attack for row in tried if standard.failure(row.own)]
        ours = [row.attack for row in tried if standard.failure(row.ours)]
        of = f" of {len(tried)} attack{'s' if len(tried) > 1 else ''}"
        sentences.append(f"{own_name} is broken by {_listed(own, of)}; {OURS} by {_listed(ours)}.")
    if untried := [row.attack for row in attacked if row not in tried]:
        sentences.append(f"Not carried out on this app: {', '.join(untried)}.")
    sentences.append(_cost(peace, standard))
    return " ".join(sentences)


def _listed(attacks: Sequence[str], of: str = "") -> str:
    return f"{len(attacks)}{of}: {', '.join(attacks)}" if attacks else f"none{of}"


def _cost(peace: Row, standard: Standard) -> str:
    if failure := standard.failure(peace.ours):
        return f"Where nobody attacks, {OURS} is no use here: {failure}."
    if standard.measure is None:
        moved = peace.ours.moved
        if moved is None:
            return "What the swap costs where nobody attacks cannot be said."
        return (
            f"Where nobody attacks, the swap ends at a model that lies {distance(moved)} of the "
            "way that training takes from the other one's."
        )
    measure = standard.measure
    own, ours = standard.peace, measure.final(peace.ours)
    if ours is None:
        return f"What the swap costs where nobody attacks cannot be said: no {measure.name}."
    cost = own - ours if measure.higher_is_better else ours - own
    amount = f"{abs(100 * cost):.1f} points" if measure.is_share else f"{abs(cost):.2g}"
    verb = "gains" if cost < 0 and not amount.startswith("0.0 ") else "costs"
    return (
        f"Where nobody attacks, the swap {verb} {amount} of {measure.name}: "
        f"{measure.text(ours)} instead of {measure.text(own)}."
    )
