"""The app's server."""

import json

from flwr.common import Context, ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg

from sklearn_classic.task import get_parameters, load_data, make_model, set_parameters, test


def weighted_average(metrics):
    total = sum(num_examples for num_examples, _ in metrics)
    return {"accuracy": sum(n * m["accuracy"] for n, m in metrics) / total}


def evaluate(server_round, parameters, config):
    model = make_model()
    set_parameters(model, parameters)
    loss, accuracy = test(model, load_data(0, 1)[1])
    with open("metrics.jsonl", "a") as file:
        print(json.dumps({"round": server_round, "loss": loss, "accuracy": accuracy}), file=file)
    return loss, {"accuracy": accuracy}


def server_fn(context: Context):
    strategy = FedAvg(
        min_available_clients=2,
        evaluate_fn=evaluate,
        evaluate_metrics_aggregation_fn=weighted_average,
        initial_parameters=ndarrays_to_parameters(get_parameters(make_model())),
    )
    num_rounds = context.run_config["num-server-rounds"]
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=num_rounds))


app = ServerApp(server_fn=server_fn)
