"""The app's clients, in the classic API: logistic regression of scikit-learn."""

import numpy as np
from flwr.client import ClientApp, NumPyClient
from flwr.common import Context
from sklearn.linear_model import LogisticRegression

from .task import load_data


class FlowerClient(NumPyClient):
    def __init__(self, train_data, test_data, epochs):
        self.train_data, self.test_data = train_data, test_data
        self.model = LogisticRegression(max_iter=epochs, warm_start=True)
        self.model.classes_ = np.arange(10)

    def fit(self, parameters, config):
        self.model.coef_, self.model.intercept_ = parameters
        self.model.fit(*self.train_data)
        return [self.model.coef_, self.model.intercept_], len(self.train_data[1]), {}

    def evaluate(self, parameters, config):
        self.model.coef_, self.model.intercept_ = parameters
        accuracy = self.model.score(*self.test_data)
        return 1 - accuracy, len(self.test_data[1]), {"accuracy": accuracy}


def client_fn(context: Context):
    data = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    return FlowerClient(*data, context.run_config["local-epochs"]).to_client()


app = ClientApp(client_fn=client_fn)
