"""FedBuff (Nguyen et al. 2022): asynchronous federated averaging without protection."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid

from flwr_byz.attacks.arrays import flatten

from .rule import Vectors
from .vector_strategy import VectorStrategy


class FedBuff(VectorStrategy):
    """Step along the mean of the first `buffer_size` replies, whoever sent them.

    A node is given the newest model as soon as it has replied, and may reply many times in a step.
    The update of a reply that is s steps old is divided by √(1 + s); a malformed reply takes a
    place in the buffer, too. What `grid` hands out goes on with the replies to earlier messages.

    Parameters
    ----------
    buffer_size : int
    options
        Of `VectorStrategy`.
    """

    def __init__(self, buffer_size: int = 10, **options: Any) -> None:
        super().__init__(**options)
        self.buffer_size = buffer_size
        self._origins: dict[int, Vectors | float] = {}
        self._training: dict[int, int] = {}

    def combine(self, vectors: Vectors, server_round: int) -> Vectors:
        """Return the mean."""
        return np.asarray(vectors.mean(axis=0))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Give the model to all nodes that are free."""
        self._sent, self._grid = arrays, grid
        weights = self.problem.reply_kind == "weights"
        self._origins[server_round] = flatten(arrays.to_numpy_ndarrays()) if weights else 0.0
        config["server-round"] = server_round
        self._content = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        free = [node for node in grid.get_node_ids() if node not in self._training]
        return self._messages(free, server_round)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Step along the mean of those among the first replies that are well-formed."""
        updates: list[Vectors] = []
        for number, reply in enumerate(replies, 1):
            sent_in = self._training.pop(node := reply.metadata.src_node_id)
            scale = (1 + server_round - sent_in) ** -0.5
            updates += [
                scale * (vector - self._origins[sent_in]) for vector in self._well_formed([reply])
            ]
            if number == self.buffer_size:
                break
            self._grid.send(self._messages([node], server_round))  # type: ignore[attr-defined]
        wanted = set(self._training.values())
        self._origins = {step: origin for step, origin in self._origins.items() if step in wanted}
        return self._stepped(updates, server_round)

    def _messages(self, nodes: Sequence[int], server_round: int) -> list[Message]:
        self._training |= dict.fromkeys(nodes, server_round)
        return [
            Message(self._content, dst_node_id=node, message_type=MessageType.TRAIN)
            for node in nodes
        ]
