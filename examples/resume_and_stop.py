"""Go on after a stop, end in time, keep the best model: ``python -m examples.resume_and_stop``.

Interrupt it and run it again: it goes on after its last finished round. The folder
``results/training`` then holds the checkpoints, ``best.npz`` and the audit trail.
"""

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from flwr_byz.serverapp.strategy import GeometricMedianOfMeans

from .app import NUM_CLIENTS, initial_arrays, simulate

Metrics = Mapping[str, Mapping[str, Any]]

server_app = ServerApp()


def loss(metrics: Metrics) -> float:
    """Return the clients' loss; infinity in a round in which too few clients reported it."""
    return float(metrics["evaluate"].get("loss", inf))


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Train until the loss is small, or for "num-server-rounds" of the run config."""
    folder = Path(str(context.run_config.get("folder", "results/training")))
    folder.mkdir(parents=True, exist_ok=True)
    strategy = GeometricMedianOfMeans(
        num_byzantine=2,
        min_available_nodes=NUM_CLIENTS - 2,  # two may be excluded
        checkpoints=folder / "checkpoints",
        audit=folder / "audit.jsonl",
        best_by=lambda metrics: -loss(metrics),
        stop_when=lambda server_round, metrics: loss(metrics) < 0.0105,
        exclude_above=0.5,
    )
    num_rounds = int(context.run_config.get("num-server-rounds", 30))
    strategy.start(grid, initial_arrays(), num_rounds=num_rounds)


if __name__ == "__main__":
    simulate(server_app)
