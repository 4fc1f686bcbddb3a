"""Carry out the runs that are missing, and keep each as soon as it is done."""

import traceback
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..workers import in_workers, progress_of_runs
from .engine import Cell, Outcome, play
from .records import Failure, append, load


def carry_out(cells: Sequence[Cell], path: Path, num_workers: int, console: Console) -> None:
    """Carry out the runs that are not done yet, and append each to the file as soon as it is."""
    done, _ = load(path)
    missing = [cell for cell in cells if cell not in done]
    with progress_of_runs(console) as progress:
        task = progress.add_task("training", total=len(cells), completed=len(cells) - len(missing))

        def save(played: tuple[Cell, Outcome | Failure]) -> None:
            append(path, *played)
            progress.advance(task)

        if missing:
            in_workers(play_or_fail, missing, save, num_workers)


def play_or_fail(cell: Cell) -> tuple[Cell, Outcome | Failure]:
    """Carry out a run; what keeps it from ending is a failure, which is told and not lost."""
    try:
        return cell, play(cell)
    except Exception:
        return cell, Failure(traceback.format_exc())
