"""Log each round's metrics to TensorBoard, W&B or MLflow: ``python -m examples.log_metrics``.

Install the one that you use: this package depends on none of them, and its tests run these
functions with stand-ins for the three, which record their calls.
"""

from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from flwr_byz.serverapp.strategy import GeometricMedianOfMeans

from .app import NUM_CLIENTS, initial_arrays, simulate

Metrics = Mapping[str, Mapping[str, Any]]
RoundEnd = Callable[[int, ArrayRecord, Metrics], None]

server_app = ServerApp()


def numbers(metrics: Metrics) -> dict[str, float]:
    """Return the metrics that are numbers by one name, such as "evaluate/loss"."""
    named = {f"{kind}/{name}": value for kind in metrics for name, value in metrics[kind].items()}
    return {name: value for name, value in named.items() if isinstance(value, int | float)}


def to_tensorboard() -> RoundEnd:
    """Return a function for `on_round_end` that writes to TensorBoard, in the folder ``runs``."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter()

    def log(server_round: int, arrays: ArrayRecord, metrics: Metrics) -> None:
        for name, value in numbers(metrics).items():
            writer.add_scalar(name, value, server_round)
        writer.flush()

    return log


def to_wandb() -> RoundEnd:
    """Return a function for `on_round_end` that logs to a run of W&B."""
    import wandb

    run = wandb.init(project="flwr-byz")
    return lambda server_round, arrays, metrics: run.log(numbers(metrics), step=server_round)


def to_mlflow() -> RoundEnd:
    """Return a function for `on_round_end` that logs to a run of MLflow."""
    import mlflow

    mlflow.set_experiment("flwr-byz")
    return lambda server_round, arrays, metrics: mlflow.log_metrics(
        numbers(metrics), step=server_round
    )


TRACKERS = {"tensorboard": to_tensorboard, "wandb": to_wandb, "mlflow": to_mlflow}


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Train for three rounds; "tracker" of the run config is one of `TRACKERS`."""
    tracker = TRACKERS[str(context.run_config.get("tracker", "tensorboard"))]
    strategy = GeometricMedianOfMeans(
        num_byzantine=2, min_available_nodes=NUM_CLIENTS, on_round_end=tracker()
    )
    strategy.start(grid, initial_arrays(), num_rounds=3)


if __name__ == "__main__":
    simulate(server_app)
