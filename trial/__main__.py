"""Bring up a deployment, run the app in it, tear it down: ``python -m trial``."""

import json
import re
import shutil
import signal
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from clients.experiments import EXPERIMENTS, AttackName, ExperimentName
from clients.run_config import RunConfig
from flwr_byz import audit
from simulations.results import load

from .deployment import Deployment, round_of
from .picture import draw

ROOT = Path(__file__).parents[1]
DEFAULTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
_LINES_SHOWN = re.compile(r"WARNING|ERROR|Traceback|Error:")


def main(
    nodes: Annotated[int, typer.Option(min=1, help="Number of SuperNodes.")] = 5,
    byzantine: Annotated[int, typer.Option(min=0, help="How many of them attack.")] = 1,
    attack: Annotated[AttackName, typer.Option(help="What they send.")] = "sign-flip",
    experiment: Annotated[ExperimentName, typer.Option(help="What to train.")] = (
        "linear-regression"
    ),
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of training.")] = 5,
    deadline: Annotated[float, typer.Option(min=1, help="Seconds that a round may take.")] = 60.0,
    results: Annotated[Path, typer.Option(help="Folder for results, logs and keys.")] = Path(
        "results/trial"
    ),
) -> None:
    """Try the app on Flower's deployment runtime: TLS, registered nodes, real processes.

    A trial that was interrupted goes on after its last finished round.
    """
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    results = results.resolve()
    options = {
        "experiment": experiment,
        "attack": attack if byzantine else "none",
        "num-byzantine": byzantine,
        "num-rounds": rounds,
        "num-clients": nodes,
        "round-timeout": deadline,
        "results": str(results),
        "audit": str(results / "audit.jsonl"),
        "checkpoints": str(results / "checkpoints"),
    }
    try:
        prepare(results, options)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        with Deployment(results, nodes, ROOT) as deployment:
            status = follow(deployment, options, console)
    except KeyboardInterrupt:
        console.print("interrupted: the same command goes on after the last finished round")
        raise typer.Exit(130) from None
    if status != "finished:completed":
        console.print(f"the run ended as {status}; see {results / 'logs'}", soft_wrap=True)
        raise typer.Exit(1)
    shutil.rmtree(results / "checkpoints")  # the next trial begins anew
    report(results, deployment.node_ids, options, console)


def prepare(results: Path, options: dict[str, Any]) -> None:
    """Make the folder ready to begin a trial, or to go on with one that was interrupted.

    Raises
    ------
    ValueError
        Where an option is wrong, or the folder holds an unfinished trial with others.
    """
    config = RunConfig.parse(DEFAULTS | options)
    config.byzantine_among(config.num_clients)
    note = results / "trial.json"
    if (results / "checkpoints").exists():
        if json.loads(note.read_text()) != options:
            raise ValueError(
                f"{results} holds an unfinished trial with other options; remove it, or give "
                "another folder with --results"
            )
    else:
        for name in ("audit.jsonl", "audit.jsonl.1", "runs.jsonl"):
            (results / name).unlink(missing_ok=True)
        shutil.rmtree(results / "logs", ignore_errors=True)
    shutil.rmtree(results / "flower", ignore_errors=True)  # a SuperLink's state ends with it
    results.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(options, indent=1))


def follow(deployment: Deployment, options: dict[str, Any], console: Console) -> str:
    """Run the app, and show how far it is and what it warns of; return how it ended."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("waiting for nodes", total=options["num-rounds"])
        run = deployment.run(options)
        assert run.stdout is not None
        with (deployment.folder / "logs" / "run.log").open("ab") as log:
            for line in run.stdout:
                log.write(line)
                if found := round_of(line):
                    number, measure, value = found
                    progress.update(task, completed=number, description=f"{measure} {value:.4g}")
                elif _LINES_SHOWN.search(text := line.decode(errors="replace").rstrip()):
                    progress.console.print(text, markup=False, highlight=False)
    status: str = deployment.runs()[0]["status"]
    return status


def byzantine_nodes(options: dict[str, Any]) -> frozenset[int]:
    """Return the numbers of the nodes that attack."""
    adversary = RunConfig.parse(DEFAULTS | options).adversary(options["num-clients"])
    return frozenset() if adversary is None else frozenset(adversary.when(1))


def report(results: Path, node_ids: list[int], options: dict[str, Any], console: Console) -> None:
    """Print what the audit trail says of each node, and draw the trial."""
    rounds = {line["round"]: line for line in audit.read(results / "audit.jsonl")}
    *_, last = rounds.values()
    attacking = byzantine_nodes(options)
    table = Table(title=f"after round {last['round']}")
    for column in ("node", "id", "in truth", "last reply", "suspicion"):
        table.add_column(column)
    for number, node in enumerate(node_ids):
        entry = last["clients"].get(str(node), {"reply": "not asked", "suspicion": None})
        truth = "attacks" if number in attacking else "honest"
        table.add_row(str(number), str(node), truth, entry["reply"], f"{entry['suspicion']}")
    console.print(table)
    (result,) = load(results / "runs.jsonl").values()
    measure = EXPERIMENTS[options["experiment"]].measure
    picture = results / "trial.png"
    draw(list(rounds.values()), node_ids, attacking, result.values, measure, picture)
    console.print(f"picture: {picture}", soft_wrap=True)
    console.print(f"audit trail, data, logs: {results}", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
