"""Hundreds of rounds with a fifth of the replies faulty: ``python -m tests.long.soak``.

``process`` runs the strategy alone, ``simulation`` runs it in Flower's engine, ``deployment``
between real processes, which takes an hour. Each prints what the server's process holds, as JSON;
the exit code is 1 where it holds more at the end than at the beginning.
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from flwr.app import Array, ArrayRecord, Error
from flwr.server import ServerApp
from flwr.simulation import run_simulation
from rich.console import Console
from rich.progress import track

from flwr_byz import attacks
from flwr_byz.clientapp.mod import ByzantineMod
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans
from tests.support import app_grid
from tests.support.answering_grid import AnsweringGrid
from trial.deployment import Deployment, round_of

ROOT = Path(__file__).parents[2]
Rounds = Annotated[int, typer.Option(min=300, help="Rounds of training.")]
app = typer.Typer(help=__doc__)


def holdings(process):
    return process.memory_info().rss, process.num_fds()


def report(notes):
    """Compare what a process held in the last 100 rounds with the second 100."""
    second, last = np.array(notes[100:200]), np.array(notes[-100:])
    growth = last[:, 0].mean() / second[:, 0].mean() - 1
    descriptors = int(second[:, 1].max()), int(last[:, 1].max())
    figures = {"rounds": len(notes), "megabytes": last[:, 0].mean() / 1e6}
    print(json.dumps(figures | {"growth": round(growth, 4), "descriptors": descriptors}))
    raise typer.Exit(int(growth > 0.05 or descriptors[1] > descriptors[0]))


def train(grid, model, rounds):
    """Train with checkpoints and an audit trail; return what this process held in each round."""
    notes, process = [], psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        files = {"checkpoints": Path(folder) / "checkpoints", "audit": Path(folder) / "audit.jsonl"}
        least = {"min_train_nodes": 20, "min_available_nodes": 20, "fraction_evaluate": 0.0}
        strategy = GeometricMedianOfMeans(num_byzantine=4, **files, **least)
        options = {"evaluate_fn": lambda *_: notes.append(holdings(process)), "timeout": 120}
        strategy.start(grid, model, rounds, **options)
    return notes


def faulty(node, server_round, arrays):
    """Answer near the model; every fifth reply is of another shape, NaN, an error, or silence."""
    rng = np.random.default_rng([node, server_round])
    if (node + server_round) % 5 == 0:
        bad = [np.zeros(3)], [a * np.nan for a in arrays], Error(2, "x" * 100_000), None
        return bad[server_round % len(bad)]
    return [(a + rng.normal(size=a.shape)).astype(a.dtype) for a in arrays]


@app.command("process")
def soak_process(rounds: Rounds = 500) -> None:
    """Run the strategy alone."""
    model = ArrayRecord({"a0": Array(np.zeros(10_000, np.float32))})
    report(train(AnsweringGrid(20, faulty), model, rounds))


@app.command("simulation")
def soak_simulation(rounds: Rounds = 500) -> None:
    """Run twenty nodes in Flower's engine, of which four send malformed replies."""
    notes, server_app = [], ServerApp()

    @server_app.main()
    def main(grid, context):
        notes.extend(train(grid, ArrayRecord(app_grid.MODEL), rounds))

    mods = [ByzantineMod(attacks.Malformed(), when={0, 5, 10, 15})]
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server_app, app_grid.client_app("message", mods), 20, backend_config=resources)
    report(notes)


@app.command("deployment")
def soak_deployment(
    results: Annotated[Path, typer.Option(help="Folder for logs.")], rounds: Rounds = 500
) -> None:
    """Run five nodes, of which one sends malformed replies."""
    config = {"attack": "Malformed", "num-byzantine": 1, "num-rounds": rounds, "num-clients": 5}
    kept = {"audit": "audit.jsonl", "checkpoints": "checkpoints"}
    config |= {option: str(results.resolve() / name) for option, name in kept.items()}
    notes, process = [], None
    with Deployment(results, 5, ROOT) as deployment:
        ended = filter(None, map(round_of, deployment.run(config)))
        for _ in track(ended, total=rounds + 1, console=Console(stderr=True)):
            process = process or [*deployment.processes("flwr-serverapp")][-1]
            notes.append(holdings(process))
    report(notes)


if __name__ == "__main__":
    app()
