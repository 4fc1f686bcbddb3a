"""A pilot of an app: its strategy asks clients twice to train one model, and keeps the model."""

from typing import Any

import numpy as np
from flwr.app import ArrayRecord
from numpy.typing import NDArray

from ..payload import Model, arrays_layout, parameters_layout, read_arrays, read_parameters
from ..round import Rejections
from ..server import results
from ..serverapp import messages
from .attacked_app import seed_everything
from .training import Function, WatchedTraining


class Pilot(WatchedTraining):
    """A training that aggregates nothing, and writes down what clients reply to the first model.

    For each round there is a file with the update of each client, by partition, and an event
    "replies" with the API that the app uses and the reasons of replies that cannot be used.
    """

    _arrays_key = "arrays"

    def _begin(self, own: Any, num_rounds: int, evaluate_first_model: Function) -> Any:
        self._arrays_key = getattr(own, "arrayrecord_key", self._arrays_key)
        return super()._begin(own, num_rounds, evaluate_first_model)

    def _seeded(self, configure: Function, server_round: int, *args: Any, **named: Any) -> Any:
        """Draw the same clients in every round."""
        seed_everything(self.run.seed)
        return configure(server_round, *args, **named)

    def _aggregate(self, aggregate: Function, server_round: int, *args: Any, **named: Any) -> Any:
        """Write down the replies, and return the model that was sent."""
        sent, given = self._first_model, [*args, *named.values()]
        if isinstance(sent, ArrayRecord):
            api, layout = "serverapp", arrays_layout(sent)
            before = _vector(read_arrays(sent, layout))
            replies = list(messages.opened(given[0], [], "", self._arrays_key, layout))
        else:
            api, layout = "server", parameters_layout(sent)
            before = _vector(read_parameters(sent, layout))
            replies = [results.opened(client, result, layout) for client, result in given[0]]
            replies += map(results.failed, given[1])
        updates: dict[str, Any] = {}
        rejections = Rejections()
        for reply in replies:
            if reply.model is None:
                rejections.add(reply.client, reply.reason)
            else:
                partition = self.partitions[int(reply.client)]
                updates[f"{partition}"] = _vector(reply.model) - before
        np.savez(self.run.replies(server_round), **updates)
        reasons = [verdict.reason for _, verdict in rejections]
        self.run.record("replies", round=server_round, api=api, rejected=reasons)
        return sent, {}


def _vector(model: Model) -> NDArray[np.floating]:
    """Join the float arrays of a model."""
    return np.concatenate([np.zeros(0, model.layout.precision), *model.floats()])
