"""The app's clients."""

from flwr.client import ClientApp, NumPyClient
from flwr.common import Context

from sklearn_classic.task import get_parameters, load_data, make_model, set_parameters, test, train


class FlowerClient(NumPyClient):
    def __init__(self, model, train_data, test_data):
        self.model, self.train_data, self.test_data = model, train_data, test_data

    def fit(self, parameters, config):
        set_parameters(self.model, parameters)
        train(self.model, self.train_data)
        return get_parameters(self.model), len(self.train_data[1]), {}

    def evaluate(self, parameters, config):
        set_parameters(self.model, parameters)
        loss, accuracy = test(self.model, self.test_data)
        return loss, len(self.test_data[1]), {"accuracy": accuracy}


def client_fn(context: Context):
    data = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    return FlowerClient(make_model(context.run_config["local-epochs"]), *data).to_client()


app = ClientApp(client_fn=client_fn)
