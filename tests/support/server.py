"""A server's side without a network: fakes only of Flower's grid and client manager."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import ConfigRecord
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server.client_manager import SimpleClientManager
from flwr.server.client_proxy import ClientProxy

from flwr_byz.server.strategy import GeometricMedianOfMeans as ClassicStrategy
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans as MessageStrategy
from tests.support import malformed

APIS = ("classic", "message", "streamed")


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
    least = {"min_available_clients": 1, "min_fit_clients": 1}
    strategy = ClassicStrategy(**{"initial_parameters": sent} | least | options)
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
    strategy = MessageStrategy(**{"min_available_nodes": 1, "min_train_nodes": 1} | options)
    sent = pushed(strategy.configure_train(1, model, ConfigRecord(), Grid(list(contents))))
    replies = [malformed.reply_to(m, contents[m.metadata.dst_node_id]) for m in sent]
    replies.sort(key=lambda m: m.metadata.src_node_id)
    if shuffle is not None:
        np.random.default_rng(shuffle).shuffle(replies)
    arrays, metrics = strategy.aggregate_train(1, replies)
    return arrays and arrays.to_numpy_ndarrays(), dict(metrics)


def pushed(messages):
    """Return messages as they are once a grid has pushed them: with an id."""
    messages = list(messages)
    for number, message in enumerate(messages):
        message.metadata.__dict__["_message_id"] = f"message {number}"
    return messages


def as_content(arrays, num_examples=10, metrics=None):
    metrics = {"loss": 0.5} if metrics is None else metrics
    return malformed.content(malformed.named(arrays), {"num-examples": num_examples} | metrics)


def a_reply(api, arrays, num_examples=10, metrics=None):
    make = malformed.fit_res if api == "classic" else as_content
    return make(arrays, num_examples, metrics)


def a_round(api, model, replies, **options):
    """One round of an API; `replies` maps clients to their arrays, or to a reply that is made."""
    made = {c: a_reply(api, r) if isinstance(r, list) else r for c, r in replies.items()}
    if api == "classic":
        return classic_round(model, made, **options)
    streaming = {"streaming": True} if api == "streamed" else {}
    return message_round(malformed.named(model), made, **streaming, **options)
