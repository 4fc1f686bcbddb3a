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

from clients.run import NO_ATTACK, adversary_of, problem_of
from clients.run_config import RunConfig
from flwr_byz.pages import Picture, Section, Table, write_page

from .deployment import Deployment, round_of
from .picture import draw, rounds_of

ROOT = Path(__file__).parents[1]
DEFAULTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]


def main(
    nodes: Annotated[int, typer.Option(min=1, help="Number of SuperNodes.")] = 5,
    byzantine: Annotated[int, typer.Option(min=0, help="Number of SuperNodes that attack.")] = 1,
    attack: Annotated[str, typer.Option(help="Their attack.")] = "SignFlip(scale=10)",
    problem: Annotated[str, typer.Option(help="What to train.")] = "LinearRegression",
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
    options = {
        "problem": problem,
        "attack": attack if byzantine else NO_ATTACK,
        "num-byzantine": byzantine,
        "num-rounds": rounds,
        "num-clients": nodes,
        "round-timeout": deadline,
    }
    try:
        attacking = prepare(results, options)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    try:
        with Deployment(results, nodes, ROOT) as deployment:
            follow(deployment, options, console)
    except KeyboardInterrupt:
        console.print("interrupted: the same command goes on after the last finished round")
        raise typer.Exit(130) from None
    except RuntimeError as error:
        console.print(str(error), soft_wrap=True, markup=False)
        raise typer.Exit(1) from None
    shutil.rmtree(results / "checkpoints")  # the next trial begins anew
    table = summary(deployment, attacking)
    console.print(table.for_terminal())
    title = f"{nodes} nodes, {byzantine} of them Byzantine: {problem} under {options['attack']}"
    pictures = [Picture(draw(deployment, attacking), "Error, replies and suspicion by node")]
    sections = [Section("What each node did", "", pictures, [table])]
    write_page(results / "report.html", "A deployment", title, sections)
    console.print(f"report, audit trail, data, logs: {results}", soft_wrap=True)


def prepare(results: Path, options: dict[str, Any]) -> frozenset[int]:
    """Make the folder ready for a trial, new or interrupted; return the nodes that attack.

    A ValueError is raised where an option is wrong, or differs from that of an unfinished trial.
    """
    run = RunConfig.parse(DEFAULTS | options).run(options["num-clients"])
    problem = problem_of(run)
    adversary = adversary_of(run, problem)
    note = results / "trial.json"
    if (results / "checkpoints").exists():
        if json.loads(note.read_text()) != options:
            text = f"{results} holds an unfinished trial with other options: remove it, or give"
            raise ValueError(f"{text} another folder with --results")
    else:
        for name in ("audit.jsonl", "audit.jsonl.1", "runs.jsonl"):
            (results / name).unlink(missing_ok=True)
        shutil.rmtree(results / "logs", ignore_errors=True)
    results.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(options, indent=1))
    return adversary.choose(1, problem.initial_arrays()) if adversary else frozenset()


def follow(deployment: Deployment, options: dict[str, Any], console: Console) -> None:
    """Run the app, and show its progress and its warnings."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("waiting for nodes", total=options["num-rounds"])
        for line in deployment.run(options):
            if found := round_of(line):
                number, measure, value = found
                progress.update(task, completed=number, description=f"{measure} {value:.4g}")
            elif re.search(r"WARNING|ERROR|Traceback|Error:", line):
                progress.console.print(line.rstrip(), markup=False, highlight=False)


def summary(deployment: Deployment, attacking: frozenset[int]) -> Table:
    """Make a table of what the audit trail holds on each node after the last round."""
    last = rounds_of(deployment)[-1]
    rows = []
    for number, node in enumerate(deployment.node_ids):
        entry = last["clients"].get(str(node), {"reply": "not asked", "suspicion": None})
        truth = "attacks" if number in attacking else "honest"
        rows.append([str(number), str(node), truth, entry["reply"], f"{entry['suspicion']}"])
    names = "node", "id", "in truth", "last reply", "suspicion"
    return Table(names, rows, f"after round {last['round']}")


if __name__ == "__main__":
    typer.run(main)
