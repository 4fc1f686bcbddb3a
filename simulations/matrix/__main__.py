"""Every rule under every attack, resumably: ``python -m simulations.matrix``."""

import os
import traceback
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..workers import in_workers, progress_of_runs
from .declaration import load as load_declaration
from .engine import Cell, Outcome, play
from .records import Failure, append, load

_FULL = Path(__file__).parent / "full.toml"


def carry_out(cell: Cell) -> tuple[Cell, Outcome | Failure]:
    """Carry out a run; what keeps it from ending is a failure, which is told and not lost."""
    try:
        return cell, play(cell)
    except Exception:
        return cell, Failure(traceback.format_exc())


def main(
    declaration: Annotated[
        Path, typer.Argument(help="TOML file that says what to play.", show_default=False)
    ] = _FULL,
    results: Annotated[Path, typer.Option(help="Folder for raw runs, pictures, report.")] = Path(
        "results/matrix"
    ),
    workers: Annotated[
        int, typer.Option(min=1, help="Processes; by default one for each core.")
    ] = (os.cpu_count() or 1),
) -> None:
    """Play what is missing of a matrix, and write the report on all of it from the raw runs."""
    try:
        cells = load_declaration(declaration).cells()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    console = Console()
    path = results / "runs.jsonl"
    done, failed = load(path)
    missing = [cell for cell in cells if cell not in done]
    with progress_of_runs(console) as progress:
        task = progress.add_task("training", total=len(cells), completed=len(cells) - len(missing))

        def save(played: tuple[Cell, Outcome | Failure]) -> None:
            append(path, *played)
            progress.advance(task)

        in_workers(carry_out, missing, save, workers)
    done, failed = load(path)
    console.print(f"raw runs: {path.resolve()}", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
