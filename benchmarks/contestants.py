"""What is timed: whole calls of strategies on the same replies, and geometric medians of points."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common import Code, FitRes, Parameters, Status
from flwr.server import strategy as classic
from flwr.server.client_proxy import ClientProxy
from flwr.serverapp import strategy as message
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from flwr_byz.aggregation import geometric_median
from flwr_byz.aggregation.threads import map_in_threads
from flwr_byz.server.strategy import GeometricMedianOfMeans as ClassicGeometricMedianOfMeans
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans as MessageGeometricMedianOfMeans

GMOM = "GeometricMedianOfMeans"
ROOFLINE = "roofline"


@dataclass(frozen=True)
class Contestant:
    """A call to be timed, and what makes its argument beforehand."""

    name: str
    api: str
    call: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None


class _Proxy(ClientProxy):  # type: ignore[misc]
    """A client that is never called."""

    get_properties = get_parameters = fit = evaluate = reconnect = None


class Replies:
    """The replies of m clients, d float32 numbers each, for both APIs; bytes are shared.

    Numbers are normal, the first tenth of the clients sends -10 times as much. The model that they
    answer is zero. Strategies ask this for clients where Flower gives them a manager or a grid.
    """

    def __init__(self, num_clients: int, dim: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.num_clients, self.dim = num_clients, dim
        arrays = []
        for client in range(num_clients):
            numbers = rng.standard_normal(dim, dtype=np.float32)
            arrays.append(Array(numbers * np.float32(-10 if client < num_clients // 10 else 1)))
        self.classic = [
            (
                _Proxy(str(client)),
                FitRes(Status(Code.OK, ""), Parameters([array.data], "numpy.ndarray"), 1, {}),
            )
            for client, array in enumerate(arrays)
        ]
        self.model = Array(np.zeros(dim, np.float32))
        self._arrays = arrays
        self.vectors = [np.frombuffer(array.data, np.float32)[-dim:] for array in arrays]

    def num_available(self) -> int:
        """Return the number of clients."""
        return self.num_clients

    def all(self) -> dict[str, ClientProxy]:
        """Return all clients of the classic API."""
        return {proxy.cid: proxy for proxy, _ in self.classic}

    def sample(self, *_: object, **__: object) -> list[ClientProxy]:
        """Return all clients of the classic API."""
        return list(self.all().values())

    def get_node_ids(self) -> list[int]:
        """Return all nodes of the Message API."""
        TaskIdentity.task_id = TaskIdentity.run_id = 1  # messages can only be made within a run
        TaskIdentity.node_id = 1
        return list(range(1, self.num_clients + 1))

    def messages(self) -> list[Message]:
        """Return the replies as messages, made anew: some strategies of Flower's empty them."""
        return [
            self.reply(node, Message(RecordDict(), dst_node_id=node, message_type="train"))
            for node in self.get_node_ids()
        ]

    def reply(self, node: int, message: Message) -> Message:
        """Return the reply of a node to a message."""
        TaskIdentity.node_id = node
        metrics = MetricRecord({"num-examples": 1})
        arrays = ArrayRecord({"0": self._arrays[node - 1]})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def read_all_write_one(replies: Replies) -> NDArray[np.float32]:
    """Read every reply once with all cores and write one vector: no aggregation can be faster."""
    list(map_in_threads(lambda vector: vector.max(), replies.vectors))
    return replies.vectors[0].copy()


def strategies(replies: Replies, num_batches: Sequence[int]) -> Iterator[Contestant]:
    """Yield the whole call of each strategy, the robust one for every number of batches."""
    m = replies.num_clients
    yield Contestant(ROOFLINE, "", lambda _: read_all_write_one(replies))
    for api, flower, robust, verb, noun in (
        ("classic", classic, ClassicGeometricMedianOfMeans, "fit", "clients"),
        ("message", message, MessageGeometricMedianOfMeans, "train", "nodes"),
    ):
        options: dict[str, Any] = {f"min_{verb}_{noun}": m, f"min_available_{noun}": m}
        to_keep = {"to_keep": 0} if api == "classic" else {}
        malicious = options | {f"num_malicious_{noun}": max((m - 3) // 4, 0)}
        for name, strategy in {
            **{f"{GMOM}(k={k})": robust(num_batches=k, **options) for k in num_batches},
            "FedAvg": flower.FedAvg(**options),
            "FedMedian": flower.FedMedian(**options),
            "FedTrimmedAvg": flower.FedTrimmedAvg(beta=0.2, **options),
            "Krum": flower.Krum(**malicious),
            "Bulyan": flower.Bulyan(**malicious, **to_keep),
        }.items():
            if api == "classic":
                model = Parameters([replies.model.data], "numpy.ndarray")
                strategy.configure_fit(1, model, replies)
                yield Contestant(name, api, partial(_fit, strategy, replies))
            else:
                arrays = ArrayRecord({"0": replies.model})
                strategy.configure_train(1, arrays, ConfigRecord(), replies)
                yield Contestant(name, api, partial(train, strategy), replies.messages)


def medians(points: NDArray[np.float32]) -> Iterator[Contestant]:
    """Yield every function that claims to find the geometric median of points, (n, d)."""
    import torch
    from geom_median.numpy import compute_geometric_median as numpy_median
    from geom_median.torch import compute_geometric_median as torch_median

    tensors = [torch.from_numpy(point) for point in points]
    rows = list(points)
    yield Contestant("geometric_median", "", lambda _: geometric_median(points).point)
    peers = {"numpy": partial(numpy_median, rows), "torch": partial(torch_median, tensors)}
    for end, options in {"": {}, ", to the end": {"eps": 1e-12, "ftol": 0.0}}.items():
        for name, peer in peers.items():
            call = partial(peer, **options)
            yield Contestant(f"geom_median {name}{end}", "", lambda _, c=call: c().median)


def _fit(strategy: Any, replies: Replies, _: None) -> Any:
    return strategy.aggregate_fit(1, replies.classic, [])


def train(strategy: Any, messages: list[Message]) -> Any:
    """Return what a strategy of the Message API makes of replies."""
    return strategy.aggregate_train(1, messages)
