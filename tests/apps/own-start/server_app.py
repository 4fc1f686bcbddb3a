"""A strategy with a start of its own, which keeps the best model."""

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.serverapp.strategy.result import Result

from .model import initial_model, test
from .task import load_data, save

app = ServerApp()


class KeepsTheBest(FedAvg):
    def start(self, grid, initial_arrays, num_rounds, timeout, train_config, evaluate_fn):
        result, best = Result(arrays=initial_arrays), float("inf")
        for server_round in range(1, num_rounds + 1):
            messages = self.configure_train(server_round, result.arrays, train_config, grid)
            replies = grid.send_and_receive(messages, timeout=timeout)
            arrays, metrics = self.aggregate_train(server_round, replies)
            if arrays is not None:
                result.arrays = arrays
            if metrics is not None:
                result.train_metrics_clientapp[server_round] = metrics
            evaluated = evaluate_fn(server_round, result.arrays)
            result.evaluate_metrics_serverapp[server_round] = evaluated
            if evaluated["loss"] < best:
                best = evaluated["loss"]
                np.savez("best_model.npz", *result.arrays.to_numpy_ndarrays())
        return result


@app.main()
def main(grid: Grid, context: Context) -> None:
    strategy = KeepsTheBest(fraction_evaluate=0.0)
    num_rounds, lr = context.run_config["num-server-rounds"], context.run_config["lr"]
    strategy.start(grid, initial_model(), num_rounds, 120, ConfigRecord({"lr": lr}), evaluate)


def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    return MetricRecord(save(*test(arrays, load_data(0, 1)[1])))
