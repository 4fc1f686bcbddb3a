"""The app's server."""

from flwr.common import Context, ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg

from quickstart_classic.task import initial_model, load_data, test


def evaluate(server_round, parameters, config):
    loss, accuracy = test(parameters[0], load_data(0, 1)[1])
    return loss, {"centralized_accuracy": accuracy}


def server_fn(context: Context):
    lr = context.run_config["lr"]
    strategy = FedAvg(
        fraction_evaluate=0.0,
        evaluate_fn=evaluate,
        on_fit_config_fn=lambda server_round: {"lr": lr},
        initial_parameters=ndarrays_to_parameters([initial_model()]),
    )
    num_rounds = context.run_config["num-server-rounds"]
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=num_rounds))


app = ServerApp(server_fn=server_fn)
