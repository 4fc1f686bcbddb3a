"""Both experiments under attack, FedAvg beside GeometricMedianOfMeans: tables, files, pictures."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import numpy as np
import typer
from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from clients.app import ChoosingClientApp, classic_client_app, message_client_app
from clients.byzantine import Adversary
from clients.experiments import ATTACKS, EXPERIMENTS, AttackName
from clients.problem import Arrays

from .picture import ATTACKS as ATTACK_TITLES
from .picture import STYLES, draw
from .results import Run, RunResult, append, load
from .serve import Plan, serve

ATTACKS_SHOWN: tuple[AttackName, ...] = (
    "none",
    "sign-flip",
    "gaussian-noise",
    "a-little-is-enough",
)
RULES = ("fedavg", "geometric-median-of-means")
BACKEND = {
    "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
    "init_args": {"num_cpus": os.cpu_count() or 2, "log_to_driver": False, "logging_level": 40},
}


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


def simulate(
    runs: Sequence[Run], finished: Callable[[RunResult], None], advance: Callable[[], None]
) -> None:
    """Carry out runs of one experiment, one after the other, in one Flower simulation.

    Parameters
    ----------
    runs : sequence of Run
        Alike in experiment, API, number of clients and seed. The clients hear in each message which
        attack is played.
    finished : callable
        Called with each result.
    advance : callable
        Called after each round.
    """
    first = runs[0]
    experiment = EXPERIMENTS[first.experiment]
    problem = experiment.problem(first.num_clients, first.seed)
    make_app = message_client_app if first.api == "message" else classic_client_app
    apps = {run.attack: make_app(problem, _adversary(run)) for run in runs}

    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        for run in runs:
            values: list[float] = []

            def evaluate(server_round: int, arrays: Arrays, values: list[float] = values) -> dict:
                measures = problem.evaluate(arrays)
                value = measures[experiment.measure]
                values.append(value if np.isfinite(value) else np.inf)
                if server_round > 0:
                    advance()
                return measures

            plan = Plan(
                rule=run.rule,
                api=run.api,
                num_byzantine=run.num_byzantine,
                num_rounds=run.num_rounds,
                server_learning_rate=experiment.server_learning_rate,
                config={"attack": run.attack},
            )
            with np.errstate(all="ignore"):  # a diverging mean is a result, not a warning
                serve(plan, problem, grid, context, evaluate)
            finished(RunResult(run, values))

    with _interruptible():
        run_simulation(
            server_app=server_app,
            client_app=ChoosingClientApp(lambda message, _: apps[_attack_played(message)]),
            num_supernodes=first.num_clients,
            backend_config=BACKEND,
        )


@contextmanager
def _interruptible() -> Iterator[None]:
    """End the process on Ctrl-C: Flower's simulation would wait for its ServerApp without end.

    Results are in the file as soon as a run is over, and Ray's reaper ends its processes.
    """

    def end(signum: int, frame: FrameType | None) -> None:
        print("\ninterrupted: the same command goes on after the last run", file=sys.stderr)
        sys.stderr.flush()
        os._exit(128 + signum)

    previous = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _adversary(run: Run) -> Adversary | None:
    if run.attack == "none":
        return None
    return Adversary.spread(ATTACKS[run.attack](), run.num_clients, run.num_byzantine)


def _attack_played(message: Message) -> str:
    """Return the attack that a message of either API names; any will do where it names none."""
    for record in message.content.config_records.values():
        if "attack" in record:
            return str(record["attack"])
    return "none"


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
