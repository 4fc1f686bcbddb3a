"""The outcome of a run, and the file that keeps runs."""

import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from clients.run import Run
from flwr_byz import json_lines

LOST = {"error": math.inf, "accuracy": 0.0}
"""The measure of a model that is lost."""


@dataclass(frozen=True)
class Outcome:
    """The result of a run.

    Attributes
    ----------
    values : list of float
        The measure from round 0 on; from where the model was lost, that of a lost one.
    seconds : float
        Of processor time that the server took for a round, on average; NaN where not measured.
    stopped : str
        The error that ended the run at the server; empty where it went to its end.
    failed : str
        The error for which the run could not be carried out; `values` are then empty.
    numbers : dict of str to float
        Further figures of the run, such as "least-class"; see `process.train`.
    times : list of float
        The simulated time at which each of the values was reached; empty where a run has no
        latency.
    """

    values: list[float]
    seconds: float = math.nan
    stopped: str = ""
    failed: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)


def append(path: Path, run: Run, outcome: Outcome) -> None:
    """Append a run to a file of JSON lines; a number that is not finite is written as null."""
    json_lines.append(path, [json_lines.plain(asdict(run) | asdict(outcome))])


def load(path: Path) -> dict[Run, Outcome]:
    """Read the runs of a file, the last of those that are there twice.

    Lines that were cut short are skipped. A failure counts until the run is done.
    """
    found: dict[Run, Outcome] = {}
    read_run = TypeAdapter(Run).validate_python
    names = [each.name for each in fields(Run)]
    for line in json_lines.read(path):
        try:
            run = read_run({name: line[name] for name in names if name in line})
            values = [math.inf if value is None else float(value) for value in line["values"]]
            numbers = {name: _float(value) for name, value in line.get("numbers", {}).items()}
            texts = str(line["stopped"]), str(line["failed"])
            times = [math.inf if t is None else float(t) for t in line.get("times", [])]
            outcome = Outcome(values, _float(line["seconds"]), *texts, numbers, times)
        except (ValueError, KeyError, TypeError, AttributeError, ValidationError):
            continue
        if outcome.failed and run in found and not found[run].failed:
            continue
        if outcome.failed or len(values) == run.num_rounds + 1:
            found[run] = outcome
    return found


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)
