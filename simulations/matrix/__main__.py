"""Every rule under every attack, resumably: ``python -m simulations.matrix``."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .declaration import load as load_declaration
from .sweep import carry_out

_FULL = Path(__file__).parent / "full.toml"


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
    carry_out(cells, path, workers, console)
    console.print(f"raw runs: {path.resolve()}", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
