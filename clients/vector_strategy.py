"""Strategies of the Message API that aggregate the well-formed replies as vectors."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from logging import WARNING
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore import log
from numpy.typing import NDArray

from flwr_byz.attacks.arrays import flatten, unflatten
from flwr_byz.payload import MalformedReply, arrays_layout, read_arrays

from .problem import Problem
from .rule import ServerSide, Vectors, signed_step, trusted_in


class VectorStrategy(FedAvg):
    """Step along what `combine` makes of the clients' updates, or against it for gradients.

    Parameters
    ----------
    problem : Problem
        For the kind of replies and the server's step.
    options
        Of `FedAvg`.
    """

    def __init__(self, problem: Problem, **options: Any) -> None:
        super().__init__(**options)
        self.problem = problem
        self.step = signed_step(problem)

    @abstractmethod
    def combine(self, vectors: Vectors, server_round: int) -> Vectors:
        """Return the aggregate (d,) of the vectors (n, d) of a round."""

    def step_in(self, server_round: int) -> float:
        """Return the step of a round, with its sign."""
        return self.step

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Remember the model that is sent."""
        self._sent = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Step along the aggregated update, or against the aggregated gradient."""
        sent = self._sent.to_numpy_ndarrays()
        origin = flatten(sent) if self.problem.reply_kind == "weights" else 0.0
        return self._stepped([v - origin for v in self._well_formed(replies)], server_round)

    def _stepped(
        self, vectors: Sequence[Vectors], server_round: int
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the model after the step of the updates, or gradients; none without any."""
        if not vectors:
            return None, None
        sent = self._sent.to_numpy_ndarrays()
        aggregate = self.combine(np.stack(vectors), server_round)
        arrays = unflatten(flatten(sent) + self.step_in(server_round) * aggregate, sent)
        named = zip(self._sent, arrays, strict=True)
        return ArrayRecord({name: Array(array) for name, array in named}), None

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


class FunctionStrategy(VectorStrategy):
    """Aggregate by a function of the vectors and of what the server has besides.

    Parameters
    ----------
    function : callable
        Maps vectors (n, d) and a `ServerSide` to the aggregate (d,).
    needs_trusted_data : bool
        Whether the function uses the problem's trusted data.
    options
        Of `VectorStrategy`.
    """

    def __init__(
        self,
        function: Callable[[Vectors, ServerSide], Vectors],
        *,
        needs_trusted_data: bool,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.function = function
        self.needs_trusted_data = needs_trusted_data
        self._last: Vectors | None = None

    def combine(self, vectors: Vectors, server_round: int) -> Vectors:
        """Return what the function makes of the vectors, and remember it."""
        trusted = None
        if self.needs_trusted_data:
            trusted = trusted_in(self.problem, server_round, self._sent.to_numpy_ndarrays())
        self._last = self.function(vectors, ServerSide(self._last, trusted))
        return self._last
