"""The app's server."""

import json

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from client_mods.task import load_data, test

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    arrays = {"weights": Array(np.zeros(30)), "bias": Array(np.zeros(()))}
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(arrays),
        train_config=ConfigRecord({"lr": context.run_config["lr"], "clipping_norm": 2.0}),
        num_rounds=context.run_config["num-server-rounds"],
        evaluate_fn=evaluate,
    )


def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    loss, accuracy = test(*arrays.to_numpy_ndarrays(), load_data(0, 1))
    with open("metrics.jsonl", "a") as file:
        print(json.dumps({"round": server_round, "loss": loss, "accuracy": accuracy}), file=file)
    return MetricRecord({"loss": loss, "accuracy": accuracy})
