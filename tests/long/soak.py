"""Hundreds of rounds with a fifth of the replies faulty: ``python -m tests.long.soak``.

``process`` runs the strategy alone, ``simulation`` runs it in Flower's engine, ``deployment``
between real processes, which takes an hour. Each prints what the server's process holds, as JSON.
"""

import json
import statistics
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

from clients.app import message_client_app
from clients.byzantine import Adversary
from clients.experiments import ATTACKS, EXPERIMENTS
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans
from simulations.play import BACKEND
from tests.support.answering_grid import AnsweringGrid
from trial.deployment import Deployment, round_of

ROOT = Path(__file__).parents[2]
app = typer.Typer(help=__doc__)


def verdict(memory, descriptors):
    """Compare the last 100 rounds with the second 100."""
    before, after = memory[100:200], memory[-100:]
    growth = statistics.mean(after) / statistics.mean(before) - 1
    return {
        "rounds": len(memory),
        "megabytes": round(statistics.mean(before) / 1e6, 1),
        "growth": round(growth, 4),
        "descriptors": [max(descriptors[100:200]), max(descriptors[-100:])],
    }


def faulty(node, server_round, arrays):
    """Answer near the model; every fifth reply is of another shape, NaN, an error, or silence."""
    rng = np.random.default_rng([node, server_round])
    if (node + server_round) % 5 == 0:
        kinds = (
            lambda: [np.zeros(3)],
            lambda: [a * np.nan for a in arrays],
            lambda: Error(2, "x" * 100_000),
            lambda: None,
        )
        return kinds[server_round % len(kinds)]()
    return [(a + rng.normal(size=a.shape)).astype(a.dtype) for a in arrays]


@app.command("process")
def soak_process(
    rounds: Annotated[int, typer.Option(min=300, help="Rounds of training.")] = 500,
    size: Annotated[int, typer.Option(min=1, help="Numbers in the model.")] = 10_000,
) -> None:
    """Run the strategy alone."""
    this, memory, descriptors = psutil.Process(), [], []

    def note(_, arrays):
        memory.append(this.memory_info().rss)
        descriptors.append(this.num_fds())

    with tempfile.TemporaryDirectory() as folder:
        strategy = GeometricMedianOfMeans(
            num_byzantine=4,
            checkpoints=Path(folder) / "checkpoints",
            audit=Path(folder) / "audit.jsonl",
            fraction_evaluate=0.0,
        )
        model = ArrayRecord({"a0": Array(np.zeros(size, np.float32))})
        strategy.start(AnsweringGrid(20, faulty), model, rounds, evaluate_fn=note)
    print(json.dumps(verdict(memory, descriptors)))


@app.command("simulation")
def soak_simulation(
    rounds: Annotated[int, typer.Option(min=300, help="Rounds of training.")] = 500,
) -> None:
    """Run twenty nodes in Flower's engine, of which four send malformed replies."""
    problem = EXPERIMENTS["linear-regression"].problem(20, 0)
    adversary = Adversary.spread(ATTACKS["malformed"](), 20, 4)
    server_app = ServerApp()
    this, memory, descriptors = psutil.Process(), [], []

    @server_app.main()
    def main(grid, context):
        def note(_, arrays):
            memory.append(this.memory_info().rss)
            descriptors.append(this.num_fds())

        with tempfile.TemporaryDirectory() as folder:
            strategy = GeometricMedianOfMeans(
                num_byzantine=4,
                reply="gradients",
                server_learning_rate=0.5,
                checkpoints=Path(folder) / "checkpoints",
                audit=Path(folder) / "audit.jsonl",
                fraction_evaluate=0.0,
                min_train_nodes=20,
                min_available_nodes=20,
            )
            initial = ArrayRecord(problem.initial_arrays())
            strategy.start(grid, initial, rounds, timeout=120, evaluate_fn=note)

    run_simulation(
        server_app=server_app,
        client_app=message_client_app(problem, adversary),
        num_supernodes=20,
        backend_config=BACKEND,
    )
    print(json.dumps(verdict(memory, descriptors)))


@app.command("deployment")
def soak_deployment(
    results: Annotated[Path, typer.Option(help="Folder for logs and figures.")],
    rounds: Annotated[int, typer.Option(min=300, help="Rounds of training.")] = 500,
) -> None:
    """Run five nodes, of which one sends malformed replies."""
    config = {
        "attack": "malformed",
        "num-byzantine": 1,
        "num-rounds": rounds,
        "num-clients": 5,
    }
    memory, descriptors, server = [], [], None
    with Deployment(results, 5, ROOT) as deployment:
        ended = filter(None, map(round_of, deployment.run(config)))
        for _ in track(ended, total=rounds + 1, console=Console(stderr=True)):
            if server is None:
                *_, server = deployment.processes("flwr-serverapp")
            memory.append(server.memory_info().rss)
            descriptors.append(server.num_fds())
            figures = {"memory": memory, "descriptors": descriptors}
            (results / "soak.json").write_text(json.dumps(figures))
    print(json.dumps(verdict(memory, descriptors)))


if __name__ == "__main__":
    app()
