"""The selection rules of the paper's section 6 as strategies of Flower's Message API."""

from collections.abc import Callable, Iterable, Iterator
from logging import WARNING
from typing import Any, Literal

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore import log
from numpy.typing import NDArray

from flwr_byz.attacks.arrays import flatten, unflatten
from flwr_byz.payload import MalformedReply, arrays_layout, read_arrays

Select = Callable[[NDArray[np.float64], int], NDArray[np.float64]]


class Selection(FedAvg):
    """Average a selection of the well-formed replies.

    Parameters
    ----------
    select : callable
        Makes of the vectors (n, d), and the number of the round, the mean of a few, (d,).
    reply : {"weights", "gradients"}
    step_size : float
        η.
    options
        Of `FedAvg`.
    """

    def __init__(
        self,
        select: Select,
        reply: Literal["weights", "gradients"],
        step_size: float,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.select = select
        self.reply = reply
        self.step_size = step_size

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Remember the model that is sent."""
        self._sent = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Step along the mean update, or against the mean gradient, of the selected replies."""
        sent = self._sent.to_numpy_ndarrays()
        origin = flatten(sent) if self.reply == "weights" else 0.0
        vectors = [vector - origin for vector in self._well_formed(replies)]
        if not vectors:
            return None, None
        step = self.step_size if self.reply == "weights" else -self.step_size
        moved = flatten(sent) + step * self.select(np.stack(vectors), server_round)
        arrays = zip(self._sent, unflatten(moved, sent), strict=True)
        return ArrayRecord({name: Array(array) for name, array in arrays}), None

    def _well_formed(self, replies: Iterable[Message]) -> Iterator[NDArray[np.float64]]:
        """Yield the replies that are the model sent, as vectors, in the order of their nodes."""
        layout = arrays_layout(self._sent)
        for message in sorted(replies, key=lambda m: m.metadata.src_node_id):
            try:
                model = read_arrays(message.content[self.arrayrecord_key], layout)
                model.check_finite()
            except MalformedReply as error:
                log(WARNING, "node %d: %s", message.metadata.src_node_id, error)
                continue
            yield flatten(model.values)
