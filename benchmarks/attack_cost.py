"""What an attack costs a simulation: ``python -m benchmarks.attack_cost``."""

import csv
import itertools
import logging
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from clients.experiments import EXPERIMENTS, AttackName, ExperimentName
from simulations.play import simulate
from simulations.results import Run

NUM_CLIENTS, NUM_BYZANTINE = 40, 5


def main(
    results: Annotated[Path, typer.Option(help="Folder for the table.")] = (
        Path(__file__).parent / "results"
    ),
    rounds: Annotated[int, typer.Option(min=2, help="Rounds of each attack.")] = 11,
) -> None:
    """Time the rounds of a simulation under each attack beside those in which nobody attacks."""
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    console = Console()
    rows = []
    for experiment in EXPERIMENTS:
        # Twice: simulating the same run again says how far a ratio is noise.
        attacks = ["none", *get_args(AttackName)]
        seconds = seconds_per_round(experiment, attacks, rounds, console)
        peace = seconds[0]
        rows += [
            (experiment, attack, round(cost, 5), round(cost / peace, 2))
            for attack, cost in zip(attacks[1:], seconds[1:], strict=True)
        ]
    header = ("experiment", "attack", "seconds per round", "/ nobody attacks")
    table = Table(title=f"m = {NUM_CLIENTS}, q = {NUM_BYZANTINE}")
    for name in header:
        table.add_column(name)
    for row in rows:
        table.add_row(*map(str, row))
    console.print(table)
    results.mkdir(parents=True, exist_ok=True)
    path = results / "attack-cost.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    console.print(f"table: {path}", soft_wrap=True)


def seconds_per_round(
    experiment: ExperimentName, attacks: Sequence[str], rounds: int, console: Console
) -> list[float]:
    """Return the median seconds of a round for each attack, all played in one simulation.

    The first round of each is left out: processes load data in it.
    """
    runs = [
        Run(
            experiment=experiment,
            rule="geometric-median-of-means",
            attack=attack,
            api="message",
            num_clients=NUM_CLIENTS,
            num_byzantine=NUM_BYZANTINE,
            num_rounds=rounds,
            seed=0,
        )
        for attack in attacks
    ]
    marks: list[float] = []
    with Progress(console=console) as progress:
        task = progress.add_task(experiment, total=rounds * len(runs))

        def advance() -> None:
            marks.append(time.perf_counter())
            progress.advance(task)

        simulate(runs, lambda result: None, advance)
    by_run = [marks[i : i + rounds] for i in range(0, len(marks), rounds)]
    return [statistics.median(b - a for a, b in itertools.pairwise(times)) for times in by_run]


if __name__ == "__main__":
    typer.run(main)
