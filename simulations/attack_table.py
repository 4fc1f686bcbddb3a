"""Every attack against every rule, resumably: ``python -m simulations.attack_table``."""

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, get_args

import matplotlib as mpl
import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from clients.experiments import EXPERIMENTS, AttackName, ExperimentName
from clients.problem import Problem
from clients.server_rule import OURS, RuleName
from flwr_byz.aggregation import num_batches

from .play import simulate
from .results import Run, RunResult, append, load

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.colors import LogNorm

RULES: Mapping[RuleName, str] = {
    "fedavg": "FedAvg",
    "krum": "Krum",
    "multi-krum": "Multi-Krum",
    "bulyan": "Bulyan",
    "fedmedian": "FedMedian",
    "fedtrimmedavg": "FedTrimmedAvg",
    OURS: "ours",
}
MOVING = "ours, q fresh clients a round"
BROKEN = {"error": 10.0, "accuracy": 0.5}  # times what FedAvg comes to where nobody attacks


def planned_runs(experiment: ExperimentName, seed: int) -> list[Run]:
    """List the runs of one experiment's table."""
    setup = EXPERIMENTS[experiment]
    columns = [(rule, "spread") for rule in RULES] + [(OURS, "fresh")]
    return [
        Run(
            experiment=experiment,
            rule=rule,
            attack=attack,
            api="message",
            num_clients=setup.num_clients,
            num_byzantine=setup.num_byzantine,
            num_rounds=setup.num_rounds,
            seed=seed,
            byzantine=byzantine,
        )
        for attack in get_args(AttackName)
        for rule, byzantine in columns
    ]


def main(
    results: Annotated[Path, typer.Option(help="Folder for data, tables and pictures.")] = Path(
        "results"
    ),
    experiment: Annotated[
        list[str] | None, typer.Option(help="Only this experiment (can be given again).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of data and attacks.")] = 0,
) -> None:
    """Run every attack against every rule in both experiments, and write a table of each."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    names = [name for name in EXPERIMENTS if experiment is None or name in experiment]
    if not names:
        raise typer.BadParameter(f"experiment must be one of {', '.join(EXPERIMENTS)}")
    console = Console()
    path = results / "attacks.jsonl"
    done = load(path)
    planned = {name: planned_runs(name, seed) for name in names}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TextColumn("rounds"), TimeRemainingColumn(True), console=console
    ) as progress:
        runs = [run for name in names for run in planned[name]]
        task = progress.add_task("", total=sum(run.num_rounds for run in runs))
        progress.advance(task, sum(run.num_rounds for run in runs if run in done))

        def finished(result: RunResult) -> None:
            append(path, result)
            done[result.run] = result

        for name in names:
            progress.update(task, description=name)
            missing = [run for run in planned[name] if run not in done]
            if missing:
                simulate(missing, finished, lambda: progress.advance(task))
    for name in names:
        report(console, [done[run] for run in planned[name]], results)


def report(console: Console, finished: Sequence[RunResult], folder: Path) -> None:
    """Print one experiment's table, and write it as CSV and as a picture."""
    run = finished[0].run
    setup = EXPERIMENTS[run.experiment]
    finals = {(result.run.attack, _column(result.run)): result.final for result in finished}
    attacks = list(dict.fromkeys(result.run.attack for result in finished))
    columns = [*RULES.values(), MOVING]
    reference = finals["none", "FedAvg"]

    table = Table(
        title=f"{run.experiment}: final {setup.measure}, "
        f"q = {run.num_byzantine} of m = {run.num_clients} clients Byzantine"
    )
    table.add_column("attack", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for attack in attacks:
        row = [finals[attack, column] for column in columns]
        table.add_row(attack, *(_cell(value, setup.measure, reference) for value in row))
    console.print(table)
    for line in findings(
        finals, attacks, setup.measure, setup.problem(run.num_clients, run.seed), run
    ):
        console.print(line)

    path = folder / f"attacks-{run.experiment}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["attack", *columns])
        writer.writerows([attack, *(finals[attack, c] for c in columns)] for attack in attacks)
    picture = path.with_suffix(".png")
    _draw(
        np.array([[finals[a, c] for c in columns] for a in attacks]), attacks, columns, run, picture
    )
    console.print(f"table: {path.resolve()}", soft_wrap=True)
    console.print(f"picture: {picture.resolve()}", soft_wrap=True)


def findings(
    finals: Mapping[tuple[str, str], float],
    attacks: Sequence[str],
    measure: str,
    problem: Problem,
    run: Run,
) -> list[str]:
    """Say which attacks break which rule, and where ours stands beside the paper's rate."""
    reference = finals["none", "FedAvg"]
    lines = []
    for column in [*RULES.values(), MOVING]:
        broken = [a for a in attacks if is_broken(finals[a, column], measure, reference)]
        lines.append(f"{column} is broken by {len(broken)}: {', '.join(broken) or 'nothing'}")
    if measure == "error":
        k = num_batches(run.num_clients, run.num_byzantine)
        dim = sum(array.size for array in problem.initial_arrays())
        num_samples = sum(
            problem.reply(c, problem.initial_arrays(), 1)[1] for c in range(run.num_clients)
        )
        rate = float(np.sqrt(dim * k / num_samples))
        for column in (RULES[OURS], MOVING):
            worst = max(attacks, key=lambda attack: finals[attack, column])
            lines.append(
                f"{column}: at most {finals[worst, column] / rate:.2f} times √(dk/N) = {rate:.3f}, "
                f"under {worst}"
            )
    return lines


def is_broken(value: float, measure: str, reference: float) -> bool:
    """Whether a final measure is 10 times the error, or half the accuracy, of an honest FedAvg."""
    if measure == "error":
        return not value < BROKEN[measure] * reference
    return value <= BROKEN[measure] * reference


def _column(run: Run) -> str:
    return MOVING if run.byzantine == "fresh" else RULES[run.rule]


def _shown(value: float, measure: str) -> str:
    if not np.isfinite(value):
        return "diverged"
    if measure == "accuracy":
        return f"{value:.1%}"
    return f"{value:.1e}" if value >= 1000 else f"{value:.3g}"


def _cell(value: float, measure: str, reference: float) -> str:
    shown = _shown(value, measure)
    return f"[bold red]{shown}[/]" if is_broken(value, measure, reference) else shown


def _draw(
    values: np.ndarray, attacks: Sequence[str], columns: Sequence[str], run: Run, path: Path
) -> None:
    measure = EXPERIMENTS[run.experiment].measure
    figure, axes = plt.subplots(figsize=(10.5, 0.36 * len(attacks) + 2.2), layout="constrained")
    if measure == "error":
        norm = LogNorm(np.nanmin(values), 100 * np.nanmin(values))
        axes.imshow(np.minimum(values, norm.vmax), norm=norm, cmap="RdYlGn_r", aspect="auto")
    else:
        axes.imshow(values, vmin=0.0, vmax=1.0, cmap="RdYlGn", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        axes.text(column, row, _shown(value, measure), ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(columns)), [c.replace(", ", ",\n") for c in columns], fontsize=8)
    axes.set_yticks(range(len(attacks)), attacks, fontsize=8)
    axes.set_title(
        f"{run.experiment}: final {measure}, {run.num_byzantine} of {run.num_clients} clients "
        "Byzantine",
        fontsize=11,
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    typer.run(main)
