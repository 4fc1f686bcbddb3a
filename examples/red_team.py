"""A red-team trial of an ordinary app: ``python -m examples.red_team``.

The app looks like Flower's quickstarts. Two lines make the trial: `mods=` in the ClientApp lets two
of ten clients attack, and a robust strategy takes the place of FedAvg.
"""

import logging

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg, Strategy
from flwr.simulation import run_simulation
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from flwr_byz import attacks
from flwr_byz.clientapp.mod import ByzantineMod
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans

NUM_CLIENTS, NUM_ROUNDS = 10, 5


# The app, as it was.


def load_data(partition: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return one client's digits; partition `NUM_CLIENTS` is held out."""
    images, labels = load_digits(return_X_y=True)
    own = np.random.default_rng(0).permutation(len(labels)) % (NUM_CLIENTS + 1) == partition
    return images[own] / 16, labels[own]


def probabilities(weights: NDArray[np.float32], images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the softmax of a linear model."""
    scores = np.clip(np.nan_to_num(images @ weights.astype(np.float64)), -1e6, 1e6)
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(scores / scores.sum(axis=1, keepdims=True))


def train(message: Message, context: Context) -> Message:
    """Train on the client's own digits."""
    images, labels = load_data(int(context.node_config["partition-id"]))
    weights = message.content["arrays"].to_numpy_ndarrays()[0].copy()
    for _ in range(20):
        error = probabilities(weights, images) - np.eye(10)[labels]
        weights -= (images.T @ error / len(labels)).astype(np.float32)
    arrays = ArrayRecord({"weights": Array(weights)})
    metrics = MetricRecord({"num-examples": len(labels)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


# The trial.


def accuracy_after(strategy: Strategy, client_app: ClientApp) -> float:
    """Run the app, and return the accuracy on the digits held out."""
    client_app.train()(train)
    server_app = ServerApp()
    accuracy = 0.0

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        nonlocal accuracy
        initial = ArrayRecord({"weights": Array(np.zeros((64, 10), np.float32))})
        result = strategy.start(grid, initial, NUM_ROUNDS, train_config=ConfigRecord())
        images, labels = load_data(NUM_CLIENTS)
        guesses = probabilities(result.arrays.to_numpy_ndarrays()[0], images).argmax(axis=1)
        accuracy = float((guesses == labels).mean())

    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server_app, client_app, NUM_CLIENTS, backend_config=resources)
    return accuracy


def main() -> dict[str, float]:
    """Run the app clean, under attack, and under attack with the robust strategy."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    everybody = dict.fromkeys(("min_train_nodes", "min_available_nodes"), NUM_CLIENTS)
    options = {"fraction_evaluate": 0.0, **everybody}
    attack = ByzantineMod(attacks.SignFlip(scale=10), when={2, 7})
    robust = GeometricMedianOfMeans(num_byzantine=2, **options)
    return {
        "no attack, FedAvg": accuracy_after(FedAvg(**options), ClientApp()),
        "2 of 10 attack, FedAvg": accuracy_after(FedAvg(**options), ClientApp(mods=[attack])),
        "2 of 10 attack, GeometricMedianOfMeans": accuracy_after(robust, ClientApp(mods=[attack])),
    }


if __name__ == "__main__":
    for setting, accuracy in main().items():
        print(f"{setting}: {accuracy:.1%} of held-out digits right")
