"""Both of Flower's APIs behind one interface: their strategies, and one round of any strategy."""

import gc
import itertools
from copy import deepcopy
from types import SimpleNamespace

import flwr.client.mod
import flwr.clientapp.mod
import flwr.server.strategy
import flwr.serverapp.strategy
import numpy as np
import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from flwr.common import Code, EvaluateRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server.client_manager import SimpleClientManager
from flwr.server.client_proxy import ClientProxy

import flwr_byz.server.strategy
import flwr_byz.serverapp.strategy
from tests.support import malformed
from tests.support.malformed import named as record

MODEL = [np.zeros(40, "f4"), np.zeros((2, 2))]
SENT = malformed.model_arrays(0.9)
HONEST = range(10, 120, 10)  # 11 clients; attackers have ids before, between and after theirs
FEDAVGM = {"server_momentum": 0.9, "server_learning_rate": 0.5}
OPTIONS = {"FedYogi": {"eta": 0.1}, "FedAvgM": FEDAVGM, "FedProx": {"proximal_mu": 0.1}}
NUMBERS = itertools.count()
NAMES = ["FedAvg", "FedMedian", "FedTrimmedAvg", "FedAdam", "FedAdagrad", *OPTIONS]
CLASSIC_OTHERS = {
    "FedAvg out of place": ("FedAvg", {"inplace": False}),
    "Krum": ("Krum", {"num_malicious_clients": 2}),
    "MultiKrum": ("Krum", {"num_malicious_clients": 2, "num_clients_to_keep": 5}),
    "Bulyan": ("Bulyan", {"num_malicious_clients": 2, "to_keep": 0}),
    "QFedAvg": ("QFedAvg", {"evaluate_fn": lambda *_: (0.7, {})}),
}
MESSAGE_OTHERS = {
    "Krum": ("Krum", {"num_malicious_nodes": 2}),
    "MultiKrum": ("MultiKrum", {"num_malicious_nodes": 2, "num_nodes_to_select": 5}),
    "Bulyan": ("Bulyan", {"num_malicious_nodes": 2}),
    "QFedAvg": ("QFedAvg", {"client_learning_rate": 0.1, "train_loss_key": "loss"}),
}


class Proxy(ClientProxy):
    get_properties = get_parameters = fit = evaluate = reconnect = None


def pushed(messages):
    """Return messages as they are once a grid has pushed them: with an id."""
    messages = list(messages)
    for message in messages:
        message.metadata.__dict__["_message_id"] = f"message {next(NUMBERS)}"
    return messages


class Api:
    def stock(self, name, **options):
        """Return a strategy of Flower's: one of `NAMES` or `others`."""
        kind, own = self.others.get(name, (name, OPTIONS.get(name, {})))
        return getattr(self.flower, kind)(**self.least | self.initial() | own | options)

    def hardened(self, name, **options):
        return self.own.Hardened(self.stock(name), **options)

    def gmom(self, **options):
        return self.own.GeometricMedianOfMeans(**self.least | options)

    def honest(self, **metrics):
        """Return the replies of the honest clients."""
        claims = {client: {"loss": 0.1 * client} | metrics for client in HONEST}
        return {c: self.reply(malformed.honest_arrays(c), claim) for c, claim in claims.items()}

    def round(self, strategy, contents, sent=SENT, server_round=1, shuffle=None, also=lambda _: []):
        """Return the arrays or None, and metrics; `also` makes more replies of what was sent."""
        asked = self.begin(strategy, sorted(contents), sent, server_round)
        replies = self.replies(asked, dict(sorted(contents.items()))) + also(asked)
        if shuffle is not None:
            np.random.default_rng(shuffle).shuffle(replies)
        return self.end(strategy, replies, server_round)

    def replies(self, asked, contents):
        """Return what clients reply; an Error, or an exception, is one, None is silence."""
        made = {c: deepcopy(content) for c, content in contents.items() if content is not None}
        return [self.reply_of(asked, client, content) for client, content in made.items()]

    def evaluation(self, strategy, claims, also=lambda _: []):
        """Return the metrics of an evaluation, with the loss, as `round` does."""
        asked = self.begin(strategy, claims, kind="evaluate")
        return self.evaluated(strategy, self.replies(asked, claims) + also(asked))

    def step(self, arrays, sent, shuffle=None, **options):
        """Return what a round of the median of means makes of these arrays by client."""
        arrays = arrays if isinstance(arrays, dict) else dict(enumerate(arrays))
        replies = {c: self.reply(a, {"loss": 0.1 * c}, 1 + c) for c, a in arrays.items()}
        return self.round(self.gmom(**options), replies, sent, shuffle=shuffle)


class Classic(Api):
    name, method = "classic", "aggregate_fit"
    flower, own, mods = flwr.server.strategy, flwr_byz.server.strategy, flwr.client.mod
    least = dict.fromkeys(["min_fit_clients", "min_evaluate_clients", "min_available_clients"], 1)
    others = CLASSIC_OTHERS

    def initial(self, arrays=SENT):
        """Return the options by which a strategy gets its initial model."""
        return {"initial_parameters": ndarrays_to_parameters(arrays)}

    def stock(self, name, **options):
        return super().stock(name, **{"fit_metrics_aggregation_fn": mean_loss} | options)

    def reply(self, arrays, metrics=None, num_examples=10):
        return malformed.fit_res(arrays, num_examples, metrics)

    def claim(self, loss, **metrics):
        """Return what a client replies to a request to evaluate."""
        return EvaluateRes(Status(Code.OK, ""), loss, 10, metrics)

    def begin(self, strategy, cids, sent=SENT, server_round=1, kind="fit"):
        """Let a strategy begin a round."""
        configure = getattr(strategy, f"configure_{kind}")
        manager = SimpleClientManager()
        manager.clients |= {str(cid): Proxy(str(cid)) for cid in cids}
        configure(server_round, ndarrays_to_parameters(sent), manager)

    def reply_of(self, asked, cid, result):
        return Proxy(str(cid)), result

    def end(self, strategy, replies, server_round=1):
        parameters, metrics = strategy.aggregate_fit(server_round, *with_failures(replies))
        return parameters and parameters_to_ndarrays(parameters), dict(metrics or {})

    def evaluated(self, strategy, replies):
        loss, metrics = strategy.aggregate_evaluate(1, *with_failures(replies))
        return {"loss": loss, **metrics}


class Message(Api):
    name, method = "message", "aggregate_train"
    flower, own, mods = flwr.serverapp.strategy, flwr_byz.serverapp.strategy, flwr.clientapp.mod
    least = dict.fromkeys(["min_train_nodes", "min_evaluate_nodes", "min_available_nodes"], 1)
    others = MESSAGE_OTHERS

    def initial(self, arrays=SENT):
        return {}  # `start` gets the initial model

    def reply(self, arrays, metrics=None, num_examples=10):
        metrics = {"num-examples": num_examples} | ({"loss": 0.5} if metrics is None else metrics)
        return malformed.content(record(arrays), metrics)

    def claim(self, loss, **metrics):
        return RecordDict({"metrics": MetricRecord({"num-examples": 10, "loss": loss} | metrics)})

    def begin(self, strategy, nodes, sent=SENT, server_round=1, kind="train"):
        """Let a strategy begin a round; return its messages by node."""
        malformed.in_a_run()
        gc.freeze()  # Flower collects garbage after each array that it reads: of what is new only
        configure = getattr(strategy, f"configure_{kind}")
        grid = SimpleNamespace(get_node_ids=lambda: list(nodes))
        messages = pushed(configure(server_round, record(sent), ConfigRecord(), grid))
        return {message.metadata.dst_node_id: message for message in messages}

    def reply_of(self, asked, node, content):
        return malformed.reply_to(asked[node], content)

    def end(self, strategy, replies, server_round=1):
        arrays, metrics = strategy.aggregate_train(server_round, replies)
        return arrays and arrays.to_numpy_ndarrays(), dict(metrics or {})

    def evaluated(self, strategy, replies):
        return dict(strategy.aggregate_evaluate(1, replies))


class Streamed(Message):
    """Rounds whose replies are added up on arrival."""

    def gmom(self, **options):
        return super().gmom(streaming=True, **options)


CLASSIC, MESSAGE, STREAMED = Classic(), Message(), Streamed()
BY_NAME = {"classic": CLASSIC, "message": MESSAGE}
BOTH = pytest.mark.parametrize("api", BY_NAME.values(), ids=BY_NAME)
EVERY = pytest.mark.parametrize("api", [*BY_NAME.values(), STREAMED], ids=[*BY_NAME, "streamed"])


def with_failures(pairs):
    """Return clients' results, and what Flower's server calls failures."""
    raised = [result for _, result in pairs if isinstance(result, Exception)]
    came = [pair for pair in pairs if not isinstance(pair[1], Exception)]
    usable = [pair for pair in came if pair[1].status.code == Code.OK]
    return usable, [*raised, *(pair for pair in came if pair[1].status.code != Code.OK)]


def mean_loss(pairs):
    """A user's aggregation function of metrics in the classic API."""
    return {"loss": float(np.average([m["loss"] for _, m in pairs], weights=[n for n, _ in pairs]))}


def updates(num_clients=13):
    """Return steps from `MODEL`, client by client."""
    rng = np.random.default_rng(0)
    return [[rng.normal(size=40).astype("f4"), rng.normal(size=(2, 2))] for _ in range(num_clients)]


def flat(arrays):
    return np.concatenate([np.ravel(a) for a in arrays])


def own(metrics):
    """Return the strategy's metrics without the counts of the checks."""
    return {n: v for n, v in metrics.items() if not n.startswith("byz-")}


def exact(outcome):
    """Return all bits of the model and of the strategy's metrics that a round ends with."""
    arrays, metrics = outcome
    return arrays and [(a.dtype, a.shape, a.tobytes()) for a in arrays], own(metrics)
