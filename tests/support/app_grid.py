"""Trainings of both APIs in this process: a grid whose nodes run a ClientApp at once."""

from copy import deepcopy

import numpy as np
from flwr.app import ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import parameters_to_ndarrays
from flwr.server import Server, ServerAppComponents, ServerConfig
from flwr.server.client_manager import SimpleClientManager
from flwr.serverapp import ServerApp
from flwr.supercore.run import Run

from flwr_byz import attacks
from flwr_byz.clientapp.mod import ByzantineMod
from tests.support.answering_grid import AnsweringGrid
from tests.support.apis import CLASSIC, MESSAGE
from tests.support.malformed import named

NUM_NODES, NUM_ROUNDS = 11, 2
MODEL = [np.zeros((3, 4), "f4"), np.zeros(5, "f4")]


class AppGrid(AnsweringGrid):
    """Nodes 0, 1, … that run a ClientApp; what it raises is an error reply, as in Flower."""

    run = Run.create_empty(1)

    def __init__(self, app, num_nodes=NUM_NODES):
        super().__init__(num_nodes, None)
        self.app = app
        self.contexts = {node: context(node, num_nodes) for node in range(num_nodes)}

    def answer(self, message):
        try:
            return self.app(deepcopy(message), self.contexts[message.metadata.dst_node_id])
        except Exception as error:
            return Message(Error(2, repr(error)), reply_to=message)


def context(node, num_nodes=NUM_NODES):
    config = {"partition-id": node, "num-partitions": num_nodes}
    return Context(run_id=1, node_id=node, node_config=config, state=RecordDict(), run_config={})


def attack(*nodes):
    """Return a mod that lets nodes attack."""
    return ByzantineMod(attacks.SignFlip(scale=10), when=set(nodes))


def moved(arrays, node):
    """Return a model moved by one, and a little of the node's own."""
    return [array + np.asarray(1 + 0.01 * np.sin(node), array.dtype) for array in arrays]


class Client(NumPyClient):
    def __init__(self, node):
        self.node = node

    def fit(self, parameters, config):
        return moved(parameters, self.node), 10, {"loss": float(np.mean(parameters[0]))}

    def evaluate(self, parameters, config):
        return float(np.mean(parameters[0])), 10, {}


def client_app(api, mods=(), arrays_key="arrays", weight_key="num-examples", app_mods=()):
    """Return an app that moves the model by one; `app_mods` act in evaluation, too."""
    if api is CLASSIC:
        return ClientApp(lambda c: Client(c.node_id).to_client(), mods=[*mods, *app_mods])
    app = ClientApp(mods=list(app_mods))

    @app.train(mods=list(mods))
    def train(message, context):
        record = message.content[arrays_key]
        arrays = named(moved(record.to_numpy_ndarrays(), context.node_id), record)
        content = {arrays_key: arrays, "metrics": MetricRecord({weight_key: 10})}
        return Message(RecordDict(content), reply_to=message)

    @app.evaluate()
    def evaluate(message, context):
        metrics = MetricRecord({weight_key: 10, "loss": float(context.node_id)})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def trained(api, strategy, mods=(), num_rounds=NUM_ROUNDS, app=None, model=MODEL):
    """Return the arrays of the model that a strategy ends with on `NUM_NODES` nodes."""
    grid = AppGrid(app or client_app(api, mods))
    if api is MESSAGE:
        return strategy.start(grid, ArrayRecord(list(model)), num_rounds).arrays.to_numpy_ndarrays()
    server = Server(client_manager=SimpleClientManager(), strategy=strategy)
    server.set_max_workers(1)  # one client after the other, in one order
    components = ServerAppComponents(server=server, config=ServerConfig(num_rounds=num_rounds))
    ServerApp(server_fn=lambda _: components)(grid, context(0))
    return parameters_to_ndarrays(server.parameters)
