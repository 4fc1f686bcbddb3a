"""The app's server, in the classic API."""

import numpy as np
from flwr.common import Context, ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg

from .client_app import FlowerClient
from .task import load_data, save


def weighted_average(metrics):
    total = sum(num_examples for num_examples, _ in metrics)
    return {"accuracy": sum(n * m["accuracy"] for n, m in metrics) / total}


def evaluate(server_round, parameters, config):
    loss, _, metrics = FlowerClient(*load_data(0, 1), 1).evaluate(parameters, config)
    save(loss, **metrics)
    return loss, {"centralized_accuracy": metrics["accuracy"]}


def server_fn(context: Context):
    strategy = FedAvg(
        evaluate_fn=evaluate,
        on_fit_config_fn=lambda server_round: {"round": server_round},
        evaluate_metrics_aggregation_fn=weighted_average,
        initial_parameters=ndarrays_to_parameters([np.zeros((10, 64)), np.zeros(10)]),
    )
    config = ServerConfig(num_rounds=context.run_config["num-server-rounds"])
    return ServerAppComponents(strategy=strategy, config=config)


app = ServerApp(server_fn=server_fn)
