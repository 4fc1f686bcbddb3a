"""Raw results: one JSON line for each run, or for what kept it from being one."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from flwr_byz import json_lines

from .engine import Cell, Outcome


@dataclass(frozen=True)
class Failure:
    """A run that could not be carried out, through no doing of the server's.

    Attributes
    ----------
    error : str
    """

    error: str


def append(path: Path, cell: Cell, result: Outcome | Failure) -> None:
    """Append a run; a measure that is not finite is written as null."""
    line = asdict(cell) | asdict(result)
    if isinstance(result, Outcome):
        line["values"] = [v if math.isfinite(v) else None for v in result.values]
    json_lines.append(path, [line])


def load(path: Path) -> tuple[dict[Cell, Outcome], dict[Cell, Failure]]:
    """Read the runs that are done, and those that failed and were not done since.

    Lines cut short are skipped. Of what is there twice one counts, whatever the order of lines: of
    runs the one with the quicker server, of failures the first by the alphabet.
    """
    done: dict[Cell, Outcome] = {}
    failed: dict[Cell, Failure] = {}
    read_cell = TypeAdapter(Cell).validate_python
    for line in json_lines.read(path):
        try:
            cell = read_cell({name: line[name] for name in Cell.__dataclass_fields__})
            if "error" in line:
                failure = Failure(str(line["error"]))
                failed[cell] = min(failure, failed.get(cell, failure), key=lambda f: f.error)
                continue
            values = [math.inf if v is None else float(v) for v in line["values"]]
            if len(values) == cell.rounds + 1:
                outcome = Outcome(values, float(line["seconds"]), str(line["stopped"]))
                done[cell] = min(outcome, done.get(cell, outcome), key=_order)
        except (ValueError, KeyError, TypeError, ValidationError):
            continue
    return done, {cell: failure for cell, failure in failed.items() if cell not in done}


def _order(outcome: Outcome) -> tuple[float, list[float], str]:
    return outcome.seconds, outcome.values, outcome.stopped
