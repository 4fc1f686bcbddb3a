"""The app's server."""

import json

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from own_loop.task import load_data, test

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    strategy = FedAvg()
    arrays = ArrayRecord({"weights": Array(np.zeros((5, 3)))})
    config = ConfigRecord({"lr": context.run_config["lr"]})
    for server_round in range(1, context.run_config["num-server-rounds"] + 1):
        replies = grid.send_and_receive(
            strategy.configure_train(server_round, arrays, config, grid)
        )
        arrays, _ = strategy.aggregate_train(server_round, replies)
        loss, accuracy = test(arrays["weights"].numpy(), load_data(0, 1))
        with open("metrics.jsonl", "a") as file:
            metrics = {"round": server_round, "loss": loss, "accuracy": accuracy}
            print(json.dumps(metrics), file=file)
