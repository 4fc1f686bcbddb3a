"""The app's server."""

import json

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from own_start.strategy import KeepsTheBest
from own_start.task import DIM, load_data, test

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    strategy = KeepsTheBest(fraction_evaluate=0.0)
    strategy.start(
        grid,
        ArrayRecord([np.zeros(DIM)]),
        num_rounds=context.run_config["num-server-rounds"],
        timeout=120,
        train_config=ConfigRecord({"lr": context.run_config["lr"]}),
        evaluate_fn=evaluate,
    )


def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    (weights,) = arrays.to_numpy_ndarrays()
    loss = test(weights, load_data(1000))
    with open("metrics.jsonl", "a") as file:
        print(json.dumps({"round": server_round, "loss": loss}), file=file)
    return MetricRecord({"loss": loss})
