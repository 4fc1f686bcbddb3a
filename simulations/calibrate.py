"""Measure the planner's constants again: ``python -m simulations.calibrate``."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

import flwr_byz.theory
from flwr_byz.theory.calibration import DIMS, SHARES, TABLE, measure_factor, num_runs


def main(
    table: Annotated[Path, typer.Option(help="The table to write.")] = (
        Path(flwr_byz.theory.__file__).parent / TABLE
    ),
    fresh: Annotated[bool, typer.Option(help="Forget the cells that are already there.")] = False,
) -> None:
    """Measure c for each q/k and d of the table, and a; goes on after the last cell of the file."""
    if fresh:
        table.unlink(missing_ok=True)
    cells = [(share, dim) for share in (0.0, *SHARES) for dim in DIMS]
    with table.open("a+", encoding="utf-8") as file:
        file.seek(0)
        done = sum(1 for _ in file)
        console = Console()
        for share, dim in track(cells[done:], description="cells", console=console):
            runs = num_runs(dim, share)
            factor, standard_error = measure_factor(dim, share, range(runs))
            cell = {
                "byzantine_share": share,
                "dim": dim,
                "runs": runs,
                "factor": round(factor, 4),
                "standard_error": round(standard_error, 4),
            }
            file.write(json.dumps(cell) + "\n")
            file.flush()
    console.print(f"table: {table}", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
