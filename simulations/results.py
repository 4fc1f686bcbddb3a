"""Results as JSON lines: one line for each round of each run."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from flwr_byz import json_lines


@dataclass(frozen=True)
class Run:
    """One training run: what identifies it in a results file.

    Attributes
    ----------
    experiment, rule, attack, api : str
    num_clients, num_byzantine, num_rounds, seed : int
    byzantine : {"spread", "fresh"}
        Who is: the same evenly spaced clients in every round, or any q, drawn anew in each.
    """

    experiment: str
    rule: str
    attack: str
    api: str
    num_clients: int
    num_byzantine: int
    num_rounds: int
    seed: int
    byzantine: Literal["spread", "fresh"] = "spread"


@dataclass(frozen=True)
class RunResult:
    """A run and its measure after each round, from round 0 on; infinity where it diverged."""

    run: Run
    values: list[float] = field(default_factory=list)

    @property
    def final(self) -> float:
        """The measure after the last round."""
        return self.values[-1]


def append(path: Path, result: RunResult) -> None:
    """Append a finished run to a results file.

    JSON has no infinity and no NaN: a value that is not finite is written as null.
    """
    lines = [
        asdict(result.run) | {"round": number, "value": value if math.isfinite(value) else None}
        for number, value in enumerate(result.values)
    ]
    json_lines.append(path, lines)


def load(path: Path) -> dict[Run, RunResult]:
    """Read the runs that a results file holds completely; lines cut short are skipped."""
    results: dict[Run, dict[int, float]] = {}
    for run, number, value in _lines(path):
        results.setdefault(run, {})[number] = math.inf if value is None else value
    return {
        run: RunResult(run, [values[number] for number in range(run.num_rounds + 1)])
        for run, values in results.items()
        if len(values) == run.num_rounds + 1
    }


def _lines(path: Path) -> Iterator[tuple[Run, int, float | None]]:
    check = TypeAdapter(Run)
    for entry in json_lines.read(path):
        try:
            number, value = int(entry.pop("round")), entry.pop("value")
            yield check.validate_python(entry), number, value
        except (ValueError, KeyError, TypeError, ValidationError):
            continue
