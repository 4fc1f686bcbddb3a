"""A strategy with a start of its own: a loop written by hand, which evaluates every model."""

from flwr.app import ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from .model import initial_model, test
from .task import load_data, save

app = ServerApp()


class Evaluating(FedAvg):
    def start(self, grid, initial_arrays, num_rounds, train_config):
        arrays = initial_arrays
        for server_round in range(1, num_rounds + 1):
            messages = self.configure_train(server_round, arrays, train_config, grid)
            arrays, _ = self.aggregate_train(server_round, grid.send_and_receive(messages))
            save(*test(arrays, load_data(0, 1)[1]))


@app.main()
def main(grid: Grid, context: Context) -> None:
    strategy = Evaluating(fraction_evaluate=0.0)
    num_rounds, lr = context.run_config["num-server-rounds"], context.run_config["lr"]
    strategy.start(grid, initial_model(), num_rounds, ConfigRecord({"lr": lr}))
