"""The app's clients, in the classic API: logistic regression of scikit-learn."""

import numpy as np
from flwr.client import ClientApp, NumPyClient
from flwr.common import Context
from sklearn.linear_model import LogisticRegression

from .task import load_data, test


class FlowerClient(NumPyClient):
    def __init__(self, train_data, test_data):
        self.train_data, self.test_data = train_data, test_data

    def fit(self, parameters, config):
        model = LogisticRegression(max_iter=config["epochs"], warm_start=True, fit_intercept=False)
        model.classes_, model.coef_ = np.arange(10), parameters[0].T
        model.fit(*self.train_data)
        return [model.coef_.T], len(self.train_data[1]), {}

    def evaluate(self, parameters, config):
        loss, accuracy = test(parameters[0], self.test_data)
        return loss, len(self.test_data[1]), {"accuracy": accuracy}


def client_fn(context: Context):
    data = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    return FlowerClient(*data).to_client()


app = ClientApp(client_fn=client_fn)
