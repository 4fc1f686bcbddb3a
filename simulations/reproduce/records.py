"""Raw results: one JSON line for each run, and the runs that are still to be done."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from .engine import Cell

Errors = NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """Runs of one cell, of the seeds `first` … `first + number − 1`: what a worker does at once."""

    cell: Cell
    first: int
    number: int


def append(path: Path, cell: Cell, runs: Mapping[int, list[float]]) -> None:
    """Append runs, by their seed; an error that is not finite is written as null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(
            asdict(cell)
            | {"seed": seed, "errors": [e if math.isfinite(e) else None for e in errors]}
        )
        for seed, errors in runs.items()
    ]
    with path.open("a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def load(path: Path) -> dict[Cell, dict[int, list[float]]]:
    """Read the errors of each run, by cell and seed; lines cut short are skipped."""
    found: dict[Cell, dict[int, list[float]]] = {}
    for cell, seed, errors in _lines(path):
        if len(errors) == cell.rounds + 1:
            found.setdefault(cell, {})[seed] = [math.inf if e is None else e for e in errors]
    return found


def missing(
    planned: Mapping[Cell, int], done: Mapping[Cell, Mapping[int, object]], at_once: int
) -> Iterator[Block]:
    """Yield the blocks of seeds of which some run is not done yet."""
    for cell, number in planned.items():
        for first in range(0, number, at_once):
            block = Block(cell, first, min(at_once, number - first))
            if any(first + i not in done.get(cell, {}) for i in range(block.number)):
                yield block


def as_arrays(
    planned: Mapping[Cell, int], done: Mapping[Cell, Mapping[int, list[float]]]
) -> dict[Cell, Errors]:
    """Return the errors of each planned cell, (runs, rounds + 1), in the order of the seeds."""
    return {
        cell: np.array([done[cell][seed] for seed in range(number)])
        for cell, number in planned.items()
    }


def _lines(path: Path) -> Iterable[tuple[Cell, int, list[float | None]]]:
    if not path.exists():
        return
    check = TypeAdapter(Cell)
    cells: dict[str, Cell] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                entry = json.loads(line)
                seed, errors = int(entry.pop("seed")), list(entry.pop("errors"))
                key = json.dumps(entry)
                if key not in cells:
                    cells[key] = check.validate_python(entry)
                yield cells[key], seed, errors
            except (ValueError, KeyError, AttributeError, TypeError, ValidationError):
                continue
