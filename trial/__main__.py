"""Bring up a deployment, run the app in it, tear it down: ``python -m trial``."""

import re
import shutil
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from flwr_byz import audit

from .deployment import Deployment

ROOT = Path(__file__).parents[1]
_ROUND = re.compile(r"round (\d+): (\w+) (\S+)")
_LINES_SHOWN = re.compile(r"WARNING|ERROR|Traceback|Error:")


def main(
    nodes: Annotated[int, typer.Option(min=1, help="Number of SuperNodes.")] = 5,
    byzantine: Annotated[int, typer.Option(min=0, help="How many of them attack.")] = 1,
    attack: Annotated[str, typer.Option(help="As in clients/experiments.py.")] = "sign-flip",
    experiment: Annotated[str, typer.Option(help="linear-regression or digits.")] = (
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
    shutil.rmtree(results / "flower", ignore_errors=True)  # a SuperLink's state ends with it
    config = {
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
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    try:
        with (
            Progress(*columns, TimeElapsedColumn(), console=console) as progress,
            Deployment(results, nodes, ROOT) as deployment,
        ):
            task = progress.add_task("waiting for nodes", total=rounds)
            run = deployment.run(config)
            assert run.stdout is not None
            with (results / "logs" / "run.log").open("ab") as log:
                for line in run.stdout:
                    log.write(line)
                    text = line.decode(errors="replace").rstrip()
                    if found := _ROUND.search(text):
                        number, measure, value = found.groups()
                        progress.update(
                            task, completed=int(number), description=f"{measure} {value}"
                        )
                    elif _LINES_SHOWN.search(text):
                        progress.console.print(text, markup=False, highlight=False)
            status = deployment.runs()[0]["status"]
            ids = deployment.node_ids
    except KeyboardInterrupt:
        console.print("interrupted: the same command goes on after the last finished round")
        raise typer.Exit(130) from None
    if status != "finished:completed":
        console.print(f"the run ended as {status}; see {results / 'logs'}")
        raise typer.Exit(1)
    console.print(suspicion_table(results / "audit.jsonl", ids))
    console.print(f"results, audit trail, logs: {results}", soft_wrap=True)


def suspicion_table(path: Path, node_ids: list[int]) -> Table:
    """Show what the audit trail's last line says of each node."""
    clients = audit.read(path)[-1]["clients"]
    table = Table(title="after the last round")
    for column in ("node", "id", "reply", "suspicion"):
        table.add_column(column)
    for number, node in enumerate(node_ids):
        entry = clients.get(str(node), {"reply": "not asked", "suspicion": None})
        table.add_row(str(number), str(node), entry["reply"], f"{entry['suspicion']}")
    return table


if __name__ == "__main__":
    typer.run(main)
