"""Raw results: one JSON line for each run, and the runs that are still to be done."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from flwr_byz import json_lines

from .engine import Cell

Errors = NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """Runs of one cell, by their seeds: what a worker does at once."""

    cell: Cell
    seeds: tuple[int, ...]


def append(path: Path, cell: Cell, runs: Mapping[int, list[float]]) -> None:
    """Append runs, by their seed; an error that is not finite is written as null."""
    lines = [
        asdict(cell) | {"seed": seed, "errors": [e if math.isfinite(e) else None for e in errors]}
        for seed, errors in runs.items()
    ]
    json_lines.append(path, lines)


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
    """Yield the runs that are not done yet, at most so many at once."""
    for cell, number in planned.items():
        seeds = [seed for seed in range(number) if seed not in done.get(cell, {})]
        for first in range(0, len(seeds), at_once):
            yield Block(cell, tuple(seeds[first : first + at_once]))


def as_arrays(
    planned: Mapping[Cell, int], done: Mapping[Cell, Mapping[int, list[float]]]
) -> dict[Cell, Errors]:
    """Return the errors of each planned cell, (runs, rounds + 1), in the order of the seeds."""
    return {
        cell: np.array([done[cell][seed] for seed in range(number)])
        for cell, number in planned.items()
    }


def _lines(path: Path) -> Iterable[tuple[Cell, int, list[float | None]]]:
    check = TypeAdapter(Cell)
    cells: dict[str, Cell] = {}
    for entry in json_lines.read(path):
        try:
            seed, errors = int(entry.pop("seed")), list(entry.pop("errors"))
            key = json.dumps(entry)
            if key not in cells:
                cells[key] = check.validate_python(entry)
            yield cells[key], seed, errors
        except (ValueError, KeyError, TypeError, ValidationError):
            continue
