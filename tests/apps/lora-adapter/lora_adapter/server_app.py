"""The app's server."""

import json

from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from lora_adapter.task import Adapted, load_data, test

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    strategy = FedAvg(fraction_evaluate=0.0)
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Adapted().adapter()),
        train_config=ConfigRecord({"lr": context.run_config["lr"]}),
        num_rounds=context.run_config["num-server-rounds"],
        evaluate_fn=evaluate,
    )


def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    model = Adapted()
    model.load_state_dict(arrays.to_torch_state_dict(), strict=False)
    loss, accuracy = test(model, load_data(0, 1)[1])
    with open("metrics.jsonl", "a") as file:
        print(json.dumps({"round": server_round, "loss": loss, "accuracy": accuracy}), file=file)
    return MetricRecord({"loss": loss, "accuracy": accuracy})
