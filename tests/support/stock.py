"""Flower's own strategies of both APIs, and one round of any strategy, alone or hardened."""

from copy import deepcopy
from functools import partial

import numpy as np
from flwr.app import ConfigRecord, RecordDict
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import strategy as classic
from flwr.server.client_manager import SimpleClientManager
from flwr.serverapp import strategy as message

from tests.support import malformed
from tests.support.server import Grid, Proxy

SENT = malformed.model_arrays(0.9)
LEAST = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
CLASSIC_LEAST = {"min_fit_clients": 1, "min_evaluate_clients": 1, "min_available_clients": 1}

MESSAGE = {
    "FedAvg": message.FedAvg,
    "FedMedian": message.FedMedian,
    "FedTrimmedAvg": message.FedTrimmedAvg,
    "Krum": partial(message.Krum, num_malicious_nodes=2),
    "MultiKrum": partial(message.MultiKrum, num_malicious_nodes=2, num_nodes_to_select=5),
    "Bulyan": partial(message.Bulyan, num_malicious_nodes=2),
    "FedAdam": message.FedAdam,
    "FedYogi": message.FedYogi,
    "FedAdagrad": message.FedAdagrad,
    "FedAvgM": partial(message.FedAvgM, server_momentum=0.9, server_learning_rate=0.5),
    "FedProx": partial(message.FedProx, proximal_mu=0.1),
    "QFedAvg": partial(message.QFedAvg, client_learning_rate=0.1, train_loss_key="loss"),
}
CLASSIC = {
    "FedAvg": classic.FedAvg,
    "FedAvg out of place": partial(classic.FedAvg, inplace=False),
    "FedMedian": classic.FedMedian,
    "FedTrimmedAvg": classic.FedTrimmedAvg,
    "Krum": partial(classic.Krum, num_malicious_clients=2),
    "MultiKrum": partial(classic.Krum, num_malicious_clients=2, num_clients_to_keep=5),
    "Bulyan": partial(classic.Bulyan, num_malicious_clients=2, to_keep=0),
    "FedAdam": classic.FedAdam,
    "FedYogi": classic.FedYogi,
    "FedAdagrad": classic.FedAdagrad,
    "FedAvgM": partial(classic.FedAvgM, server_momentum=0.9, server_learning_rate=0.5),
    "FedProx": partial(classic.FedProx, proximal_mu=0.1),
    "QFedAvg": partial(classic.QFedAvg, evaluate_fn=lambda *_: (0.7, {})),
}


def mean_loss(pairs):
    """A user's aggregation function of metrics in the classic API."""
    total = sum(number for number, _ in pairs)
    return {"loss": sum(number * metrics["loss"] for number, metrics in pairs) / total}


def message_stock(name, **options):
    return MESSAGE[name](**LEAST, **options)


def classic_stock(name, custom=mean_loss, **options):
    return CLASSIC[name](
        initial_parameters=ndarrays_to_parameters(SENT),
        fit_metrics_aggregation_fn=custom,
        **CLASSIC_LEAST,
        **options,
    )


def asked(strategy, node_ids, sent=None, server_round=1):
    """Let a strategy of the Message API begin a round; return its messages by node."""
    malformed.in_a_run()
    arrays = malformed.named(SENT) if sent is None else sent
    messages = list(strategy.configure_train(server_round, arrays, ConfigRecord(), Grid(node_ids)))
    for number, msg in enumerate(messages):
        msg.metadata.__dict__["_message_id"] = f"message {number} of round {server_round}"
    return {msg.metadata.dst_node_id: msg for msg in messages}


def replies_of(messages, contents):
    """Replies in node order; an Error is one, None is silence."""
    return [
        malformed.reply_to(messages[node], deepcopy(made))
        for node, made in sorted(contents.items())
        if made is not None
    ]


def message_round(strategy, contents, sent=None, server_round=1):
    """One round; `contents` maps node ids to what each replies. The record, and the metrics."""
    messages = asked(strategy, sorted(contents), sent, server_round)
    arrays, metrics = strategy.aggregate_train(server_round, replies_of(messages, contents))
    return arrays, own(metrics)


def begin(strategy, cids, sent=None, server_round=1):
    """Let a strategy of the classic API begin a round."""
    manager = SimpleClientManager()
    for cid in cids:
        manager.register(Proxy(str(cid)))
    strategy.configure_fit(server_round, ndarrays_to_parameters(sent or SENT), manager)


def classic_round(strategy, results, sent=None, server_round=1, failures=()):
    """One round; `results` maps cids to FitRes. The parameters, and the metrics."""
    begin(strategy, results, sent, server_round)
    pairs = [(Proxy(str(cid)), deepcopy(result)) for cid, result in sorted(results.items())]
    parameters, metrics = strategy.aggregate_fit(server_round, pairs, list(failures))
    return parameters, own(metrics)


def own(metrics):
    """The strategy's metrics without the counts of the checks."""
    return {n: v for n, v in dict(metrics or {}).items() if not n.startswith("byz-")}


def model_of(aggregate):
    """Names and arrays of an aggregate of either API; None for None."""
    if aggregate is None:
        return None
    if hasattr(aggregate, "tensors"):
        return dict(enumerate(parameters_to_ndarrays(aggregate)))
    return {name: array.numpy() for name, array in aggregate.items()}


def same(one, other):
    """Whether two outcomes of a round are the same to the bit."""
    (a, metrics), (b, others) = one, other
    a, b = model_of(a), model_of(b)
    if metrics != others or a is None or b is None or list(a) != list(b):
        return metrics == others and a is b
    return all(a[n].dtype == b[n].dtype and a[n].shape == b[n].shape for n in a) and all(
        a[n].tobytes() == b[n].tobytes() for n in a
    )


def has_fallen(its_round, bad, reference, distance=0.6):
    """Whether a round raises, or ends far from a reference, in numbers or in form."""
    try:
        with np.errstate(all="ignore"):
            aggregate, metrics = its_round(bad)
    except Exception:
        return True
    a, b = model_of(aggregate), model_of(reference[0])
    if a is None or list(a) != list(b) or metrics.keys() != reference[1].keys():
        return True
    if not all(np.all(np.isfinite(value)) for value in metrics.values()):
        return True
    return not all(
        a[n].dtype.kind == b[n].dtype.kind
        and a[n].shape == b[n].shape
        and np.all(np.abs(a[n] - b[n]) < distance)
        for n in a
    )


def message_content(client, **metrics):
    """An honest content, with more metrics."""
    record = malformed.named(malformed.honest_arrays(client))
    return malformed.content(record, {"num-examples": 10, "loss": 0.1 * client} | metrics)


def classic_result(client, **metrics):
    return malformed.fit_res(
        malformed.honest_arrays(client), metrics={"loss": 0.1 * client} | metrics
    )


def with_records(content, **records):
    return RecordDict({**content, **records})


HONEST = range(10, 120, 10)  # 11 clients; attackers have ids before, between and after theirs


def honest_contents(**more):
    return {node: message_content(node, **more) for node in HONEST}


def honest_results(**more):
    return {cid: classic_result(cid, **more) for cid in HONEST}
