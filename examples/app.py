"""The app that the other examples train: ten clients fit a linear model, and two of them attack."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation
from numpy.typing import NDArray

from flwr_byz import attacks
from flwr_byz.clientapp.mod import ByzantineMod

NUM_CLIENTS, DIM = 10, 5

client_app = ClientApp(mods=[ByzantineMod(attacks.SignFlip(scale=10), when={2, 7})])


def load_data(partition: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return one client's points, and their values: the sum of the coordinates, with noise."""
    rng = np.random.default_rng(partition)
    points = rng.normal(size=(50, DIM))
    return points, points.sum(axis=1) + 0.1 * rng.normal(size=50)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Take five steps of gradient descent on the client's own data."""
    points, values = load_data(int(context.node_config["partition-id"]))
    weights = message.content["arrays"]["weights"].numpy()
    for _ in range(5):
        weights = weights - 0.1 * points.T @ (points @ weights - values) / len(values)
    arrays = ArrayRecord({"weights": Array(weights)})
    metrics = MetricRecord({"num-examples": len(values)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@client_app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the loss on the client's own data."""
    points, values = load_data(int(context.node_config["partition-id"]))
    residuals = points @ message.content["arrays"]["weights"].numpy() - values
    loss = float(np.mean(residuals**2))
    metrics = MetricRecord({"num-examples": len(values), "loss": loss})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def initial_arrays() -> ArrayRecord:
    """Return the model to begin with."""
    return ArrayRecord({"weights": Array(np.zeros(DIM))})


def simulate(server_app: ServerApp) -> None:
    """Run the app with another server in Flower's simulation."""
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server_app, client_app, NUM_CLIENTS, backend_config=resources)
