"""Both experiments under attack, FedAvg beside GeometricMedianOfMeans: tables, files, pictures."""

import logging
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from clients.experiments import EXPERIMENTS, AttackName

from .picture import ATTACKS as ATTACK_TITLES
from .picture import STYLES, draw
from .play import simulate
from .results import Run, RunResult, append, load

ATTACKS_SHOWN: tuple[AttackName, ...] = (
    "none",
    "sign-flip",
    "gaussian-noise",
    "a-little-is-enough",
)
RULES = ("fedavg", "geometric-median-of-means")


def planned_runs(api: Literal["message", "classic"], seed: int) -> list[Run]:
    """List the runs of the demo."""
    return [
        Run(
            experiment=name,
            rule=rule,
            attack=attack,
            api=api,
            num_clients=experiment.num_clients,
            num_byzantine=experiment.num_byzantine,
            num_rounds=experiment.num_rounds,
            seed=seed,
        )
        for name, experiment in EXPERIMENTS.items()
        for attack in ATTACKS_SHOWN
        for rule in RULES
    ]


def main(
    results: Annotated[Path, typer.Option(help="Folder for results and pictures.")] = Path(
        "results"
    ),
    api: Annotated[Literal["message", "classic"], typer.Option(help="Flower's API.")] = "message",
    seed: Annotated[int, typer.Option(min=0, help="Seed of data and attacks.")] = 0,
    fresh: Annotated[bool, typer.Option(help="Forget the runs that are already there.")] = False,
) -> None:
    """Run both experiments and show what FedAvg and GeometricMedianOfMeans come to."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    console = Console()
    path = results / "demo.jsonl"
    if fresh:
        path.unlink(missing_ok=True)
    done = load(path)
    runs = planned_runs(api, seed)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rounds"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    ) as progress:
        task = progress.add_task("", total=sum(run.num_rounds for run in runs))
        progress.advance(task, sum(run.num_rounds for run in runs if run in done))

        def finished(result: RunResult) -> None:
            append(path, result)
            done[result.run] = result

        for name in EXPERIMENTS:
            progress.update(task, description=name)
            missing = [run for run in runs if run.experiment == name and run not in done]
            if missing:
                simulate(missing, finished, lambda: progress.advance(task))
    report(console, [done[run] for run in runs], results)


def report(console: Console, finished: list[RunResult], folder: Path) -> None:
    """Print a table and draw a picture for each experiment."""
    for name, experiment in EXPERIMENTS.items():
        of_experiment = [result for result in finished if result.run.experiment == name]
        run = of_experiment[0].run
        table = Table(
            title=f"{name}: final {experiment.measure}, "
            f"q = {run.num_byzantine} of m = {run.num_clients} clients Byzantine"
        )
        table.add_column("attack")
        for rule in RULES:
            table.add_column(STYLES[rule][0], justify="right")
        for attack in ATTACKS_SHOWN:
            finals = {r.run.rule: r.final for r in of_experiment if r.run.attack == attack}
            table.add_row(
                ATTACK_TITLES[attack], *(_shown(finals[r], experiment.measure) for r in RULES)
            )
        console.print(table)
        for picture in draw(of_experiment, experiment.measure, folder / name):
            console.print(f"picture: {picture.resolve()}", soft_wrap=True)
    console.print(f"data: {(folder / 'demo.jsonl').resolve()}", soft_wrap=True)


def _shown(value: float, measure: str) -> str:
    if not np.isfinite(value):
        return "diverged"
    return f"{value:.1%}" if measure == "accuracy" else f"{value:.3g}"


if __name__ == "__main__":
    typer.run(main)
