"""Every rule under every attack, resumably: ``python -m simulations.matrix``."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from .declaration import load as load_declaration
from .findings import Study
from .records import load
from .report import PAGE, write
from .sweep import carry_out
from .words import kinds, share, split_title, worst_in_words

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
    with console.status("drawing the report"):
        studies = write(cells, *load(path), results)
    for study in studies:
        if study.attacks:
            console.print(_table(study))
    console.print(f"raw runs: {path.resolve()}", soft_wrap=True)
    console.print(f"report: {(results / PAGE).resolve()}", soft_wrap=True)


def _table(study: Study) -> Table:
    """Return the worst case of each rule."""
    table = Table(title=f"{study.problem}, {share(study)}: worst cases, mean (least–most)")
    for column in ("data", "rule", *(f"over {kind}" for kind, _ in kinds(study))):
        table.add_column(column)
    for split in study.splits:
        for option in study.options:
            cases = [study.worst(option, split, study.q, attacks) for _, attacks in kinds(study)]
            told = [worst_in_words(study, case) if case else "–" for case in cases]
            table.add_row(split_title(split), option.title, *told)
        table.add_section()
    return table


if __name__ == "__main__":
    typer.run(main)
