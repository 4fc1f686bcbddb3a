"""A loop of rounds written by hand around a strategy."""

from flwr.app import ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from .model import initial_model, test
from .task import load_data, save

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    strategy = FedAvg()
    arrays, config = initial_model(), ConfigRecord({"lr": context.run_config["lr"]})
    for server_round in range(1, context.run_config["num-server-rounds"] + 1):
        messages = strategy.configure_train(server_round, arrays, config, grid)
        arrays, _ = strategy.aggregate_train(server_round, grid.send_and_receive(messages))
        save(*test(arrays, load_data(0, 1)[1]))
