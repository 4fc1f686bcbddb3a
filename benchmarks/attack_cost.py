"""What an attack costs a simulation: ``python -m benchmarks.attack_cost``."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from rich.progress import track

from clients.run import Run
from simulations.declaration import STUDIES, load
from simulations.flower import train_through_flower

from . import report
from .contestants import GMOM


def main(
    results: Annotated[Path, typer.Option(help="Folder for the table.")] = (
        Path(__file__).parent / "results"
    ),
    rounds: Annotated[int, typer.Option(min=2, help="Rounds of each attack.")] = 6,
    repeats: Annotated[int, typer.Option(min=1, help="Times that all attacks take turns.")] = 5,
) -> None:
    """Time the rounds of a simulation under each attack beside those without attack."""
    study = load(STUDIES / "attacks.toml")
    runs = [run for some in study.runs().values() for run in some if run.rule == GMOM]
    tables = []
    for problem, alike in itertools.groupby(runs, key=lambda run: run.problem):
        clean, *attacked = (run for run in alike if run.placement == "spread")
        # The clean run twice: the second one shows how far a ratio is noise.
        seconds = seconds_per_round([clean, clean, *attacked], rounds, repeats)
        table = pd.DataFrame({"attack": [run.attack for run in (clean, *attacked)]})
        table.insert(0, "experiment", problem)
        table["seconds per round"] = np.median(seconds[:, 1:], axis=0).round(4)
        ratios = np.quantile(seconds[:, 1:] / seconds[:, :1], [0.5, 0, 1], axis=0).round(2)
        table[["/ no attack", "least", "most"]] = ratios.T
        tables.append(table)
    table = pd.concat(tables)
    report.write_csv(table, results / "attack-cost.csv")


def seconds_per_round(runs: Sequence[Run], rounds: int, repeats: int) -> np.ndarray:
    """Return the seconds of a round, shape (repeats, runs): the runs take turns in one simulation.

    The first round of each is left out, in which processes load data: a run of that round alone is
    taken off. A run of another seed comes first, while the simulation starts.
    """
    timed = [replace(run, through="flower", num_rounds=n) for run in runs for n in (1, rounds)]
    todo = [replace(timed[0], seed=timed[0].seed + 1), *timed * repeats]
    progress = track(train_through_flower(todo), runs[0].problem, total=len(todo))
    marks = [time.perf_counter() for _ in progress]
    one, whole = np.moveaxis(np.diff(marks).reshape(repeats, len(runs), 2), 2, 0)
    return (whole - one) / (rounds - 1)


if __name__ == "__main__":
    typer.run(main)
