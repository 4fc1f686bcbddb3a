"""Carry out a study and report on it: ``python -m simulations STUDY``."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from . import declaration
from .frame import as_frame
from .outcome import load
from .report import report
from .sweep import sweep


def main(
    study: Annotated[
        str, typer.Argument(help=f"One of {', '.join(declaration.names())}, or a TOML file.")
    ],
    results: Annotated[
        Path | None, typer.Option(help="Folder to write to; results/STUDY by default.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="At most so many seeds: to look, not to judge.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes; by default one for each core.")
    ] = (os.cpu_count() or 1),
) -> None:
    """Carry out the runs of a study that are missing, and report on all of them.

    The same command goes on where it was interrupted.
    """
    path = Path(study)
    if study in declaration.names():
        path = declaration.STUDIES / f"{study}.toml"
    try:
        declared = declaration.load(path)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    folder = results or Path("results") / path.stem
    file, console = folder / "runs.jsonl", Console()
    by_name = declared.runs(seeds)
    runs = [run for named in by_name.values() for run in named]
    try:
        sweep(runs, file, workers, console)
    except KeyboardInterrupt:
        console.print("interrupted: the same command goes on where it stopped")
        raise typer.Exit(130) from None
    frame = as_frame(by_name, load(file))
    for table in report(declared.title, declared.views, frame, folder):
        console.print(table)
    console.print(f"report and data: {folder.resolve()}", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
