"""The app's clients."""

from flwr.client import ClientApp, NumPyClient
from flwr.common import Context

from quickstart_classic.task import load_data, test, train


class FlowerClient(NumPyClient):
    def __init__(self, train_data, test_data, epochs):
        self.train_data, self.test_data, self.epochs = train_data, test_data, epochs

    def fit(self, parameters, config):
        weights, loss = train(parameters[0], self.train_data, self.epochs, config["lr"])
        return [weights], len(self.train_data[1]), {"train_loss": loss}

    def evaluate(self, parameters, config):
        loss, accuracy = test(parameters[0], self.test_data)
        return loss, len(self.test_data[1]), {"accuracy": accuracy}


def client_fn(context: Context):
    data = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    return FlowerClient(*data, context.run_config["local-epochs"]).to_client()


app = ClientApp(client_fn=client_fn)
