"""What results mean: which number is judged, what counts as broken, and that in plain words."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from .runs import NO_ATTACK, ROBUST, RunResult

Rows = Mapping[str, tuple[RunResult, RunResult]]
"""The results by attack: of the app's own strategy, and of the robust one; without attack first."""

NO_NUMBER = ("crashed", "hung", "not finite")

_HIGHER = ("acc", "auc", "f1", "precision", "recall", "r2", "iou", "dice", "bleu", "score")
_LOWER = ("loss", "err", "mse", "mae", "perplexity", "nll", "distance", "cost")
_SOURCES = {
    "server": "evaluated at the server",
    "evaluate": "evaluated by the clients",
    "train": "from the clients' training",
    "moved": "1 is what training covers there",
}


@dataclass(frozen=True)
class Measure:
    """The number that is judged: a metric of the app's, or how far the final model moved away."""

    source: str  # a key of the above
    name: str
    higher_is_better: bool

    @property
    def is_share(self) -> bool:
        """Whether it is shown in per cent, as accuracies are."""
        return "acc" in self.name.lower()

    def __str__(self) -> str:
        better = "higher" if self.higher_is_better else "lower"
        return f"{self.name}, {_SOURCES[self.source]}, {better} is better"

    def gain(self, before: float, after: float) -> float:
        """Return by how much a value is better than another; negative where it is worse."""
        return after - before if self.higher_is_better else before - after

    def values(self, result: RunResult) -> Mapping[int, float]:
        """Return its values by round."""
        if self == MOVED:
            return {} if result.moved is None else {1: result.moved}
        return result.metrics.get(self.source, {}).get(self.name, {})

    def final(self, result: RunResult) -> float | None:
        """Return the value of the last round that has one, after round 0; None without one."""
        values = self.values(result)
        last = max(values, default=0)
        return values[last] if last > 0 else None

    def text(self, value: float) -> str:
        """Write a value down."""
        return f"{100 * value:.1f} %" if self.is_share else f"{value:.4g}"


MOVED = Measure("moved", "distance from the clean run's final model", higher_is_better=False)


def choose_measure(
    clean: RunResult, name: str | None = None, higher_is_better: bool | None = None
) -> Measure | None:
    """Choose among what an app reports: at the server before by clients before in training.

    A name that suggests an accuracy goes before one that suggests a loss.
    """
    for source in _SOURCES:
        for each in sorted(clean.metrics.get(source, {}), key=lambda n: not _direction(n)):
            direction = _direction(each)
            if each == name or (name is None and direction is not None):
                better = direction if higher_is_better is None else higher_is_better
                if better is None:
                    options = "--higher-is-better or --lower-is-better"
                    raise ValueError(f"which values of {name} are better? give {options}")
                return Measure(source, each, better)
    if name is not None:
        found = ", ".join(sorted({each for names in clean.metrics.values() for each in names}))
        raise ValueError(f"the app reports no {name}; it reports {found or 'no numbers'}")
    return None


def _direction(name: str) -> bool | None:
    """Return whether higher is better, as far as a name suggests."""
    if any(word in name.lower() for word in _LOWER):
        return False
    return True if any(word in name.lower() for word in _HIGHER) else None


@dataclass(frozen=True)
class Standard:
    """What counts as broken: the measure's initial and final value in the app's own clean run."""

    measure: Measure
    start: float
    clean: float

    @classmethod
    def of(cls, clean: RunResult, measure: Measure | None) -> "Standard":
        """Take it from the clean run; without a measure that training improves, it is MOVED."""
        if measure is not None:
            values = measure.values(clean)
            start, final = values[min(values)], measure.final(clean)
            if final is not None and measure.gain(start, final) > 0:
                return cls(measure, start, final)
        return cls(MOVED, 1.0, 0.0)

    @property
    def threshold(self) -> float:
        """The value at which half of what training gained is lost."""
        return (self.start + self.clean) / 2

    @property
    def definition(self) -> str:
        """What counts as broken, as a sentence."""
        start, clean, limit = map(self.measure.text, (self.start, self.clean, self.threshold))
        return (
            "Broken: the training crashes, hangs, ends at no finite number, or it loses more than "
            "half of what training gains in your own strategy's clean run: "
            f"{self.measure.name} from {start} to {clean}, so beyond {limit}."
        )

    def failure(self, result: RunResult) -> str:
        """Return in a word or two how a run is broken; empty where it is not."""
        if result.end in ("crashed", "hung"):
            return result.end
        if result.end == "not attacked":
            return ""
        value = self.measure.final(result)
        if not result.finite or not math.isfinite(value or 0):
            return "not finite"
        is_lost = value is not None and self.measure.gain(self.threshold, value) < 0
        return "lost" if is_lost else ""

    def value(self, result: RunResult) -> float | None:
        """Return the final value of a run; None where it ended without a finite one."""
        return None if self.failure(result) in NO_NUMBER else self.measure.final(result)

    def describe(self, result: RunResult) -> str:
        """Return the result of a run in a few words."""
        if result.end == "not attacked":
            return "attack not carried out"
        failure, value = self.failure(result), self.value(result)
        text = failure or "no value" if value is None else self.measure.text(value)
        return f"broken: {text}" if failure else text


def verdict(rows: Rows, standard: Standard) -> str:
    """State in plain words what the results show; the first row is the one without attack."""
    (own, robust), *_ = rows.values()
    names, numbers = (own.strategy, ROBUST), [standard.describe(each) for each in (own, robust)]
    attacked = [attack for attack in rows if attack != NO_ATTACK]
    tried = [a for a in attacked if all(each.end != "not attacked" for each in rows[a])]
    sentences = []
    for index, name in enumerate(names if tried else ()):
        broken = [attack for attack in tried if standard.failure(rows[attack][index])]
        which = f": {', '.join(broken)}" if broken else ""
        sentences.append(f"{name} is broken by {len(broken)} of {len(tried)} attacks{which}.")
    if untried := [attack for attack in attacked if attack not in tried]:
        sentences.append(f"Not carried out on this app: {', '.join(untried)}.")
    clean = " and ".join(f"{n} with {name}" for n, name in zip(numbers, names, strict=True))
    return " ".join([*sentences, f"Without attack, {standard.measure.name}: {clean}."])
