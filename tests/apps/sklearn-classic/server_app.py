"""The app's server, in the classic API."""

from flwr.common import Context, ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg

from .task import initial_model, load_data, save, test


def weighted_average(metrics):
    total = sum(num_examples for num_examples, _ in metrics)
    return {"accuracy": sum(n * m["accuracy"] for n, m in metrics) / total}


def evaluate(server_round, parameters, config):
    metrics = save(*test(parameters[0], load_data(0, 1)[1]))
    return metrics["loss"], {"centralized_accuracy": metrics["accuracy"]}


def server_fn(context: Context):
    epochs = context.run_config["local-epochs"]
    strategy = FedAvg(
        evaluate_fn=evaluate,
        on_fit_config_fn=lambda server_round: {"epochs": epochs},
        evaluate_metrics_aggregation_fn=weighted_average,
        initial_parameters=ndarrays_to_parameters([initial_model()]),
    )
    num_rounds = context.run_config["num-server-rounds"]
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=num_rounds))


app = ServerApp(server_fn=server_fn)
