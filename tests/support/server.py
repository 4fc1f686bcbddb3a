"""A server's side without a network: fakes only of Flower's grid and client manager."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import ConfigRecord, RecordDict
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server.client_manager import SimpleClientManager
from flwr.server.client_proxy import ClientProxy

from flwr_byz.server.strategy import GeometricMedianOfMeans as ClassicStrategy
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans as MessageStrategy
from tests.support import malformed


class Proxy(ClientProxy):
    def get_properties(self, *args, **kwargs): ...
    def get_parameters(self, *args, **kwargs): ...
    def fit(self, *args, **kwargs): ...
    def evaluate(self, *args, **kwargs): ...
    def reconnect(self, *args, **kwargs): ...


@dataclass
class Grid:
    node_ids: Sequence[int]

    def get_node_ids(self):
        return list(self.node_ids)


def classic_round(model, results, failures=(), shuffle=None, **options):
    """One round of the classic strategy; `results` maps cids to FitRes. Arrays and metrics."""
    sent = ndarrays_to_parameters(model)
    options = {
        "initial_parameters": sent,
        "min_available_clients": 1,
        "min_fit_clients": 1,
    } | options
    strategy = ClassicStrategy(**options)
    manager = SimpleClientManager()
    for cid in range(len(results) + len(failures)):
        manager.register(Proxy(str(cid)))
    strategy.configure_fit(1, sent, manager)
    pairs = [(Proxy(str(cid)), result) for cid, result in results.items()]
    if shuffle is not None:
        np.random.default_rng(shuffle).shuffle(pairs)
    parameters, metrics = strategy.aggregate_fit(1, pairs, list(failures))
    return parameters and parameters_to_ndarrays(parameters), metrics


def message_round(model, contents, shuffle=None, **options):
    """One round of the Message API's strategy; `contents` maps node ids to RecordDict or Error."""
    malformed.in_a_run()
    options = {"min_available_nodes": 1, "min_train_nodes": 1} | options
    strategy = MessageStrategy(**options)
    sent = strategy.configure_train(1, model, ConfigRecord(), Grid(list(contents)))
    for number, message in enumerate(sent):
        message.metadata.__dict__["_message_id"] = f"message {number}"
    replies = [malformed.reply_to(m, contents[m.metadata.dst_node_id]) for m in sent]
    replies.sort(key=lambda m: m.metadata.src_node_id)
    if shuffle is not None:
        np.random.default_rng(shuffle).shuffle(replies)
    arrays, metrics = strategy.aggregate_train(1, replies)
    return arrays and arrays.to_numpy_ndarrays(), dict(metrics)


def honest_content(client):
    return malformed.content(malformed.named(malformed.honest_arrays(client)))


def as_content(arrays, num_examples):
    metrics = {"num-examples": num_examples, "loss": 0.5}
    return RecordDict(malformed.content(malformed.named(arrays), metrics))
