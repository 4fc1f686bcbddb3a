"""Flower's strategies as gradient descent: what they aggregate is stepped against (Algorithm 1)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays

from .problem import Arrays


class MessageDescent:
    """Makes a strategy of the Message API, in whose bases it comes first, step by `step`."""

    step: float

    def configure_train(self, server_round, arrays, config, grid):  # type: ignore[no-untyped-def]
        """Remember the model that is sent."""
        self._sent = arrays
        return super().configure_train(server_round, arrays, config, grid)  # type: ignore[misc]

    def aggregate_train(self, server_round, replies):  # type: ignore[no-untyped-def]
        """Step against the aggregated gradient."""
        gradient, metrics = super().aggregate_train(server_round, replies)  # type: ignore[misc]
        if gradient is None:
            return None, metrics
        sent = self._sent.to_numpy_ndarrays()
        stepped = _stepped(sent, gradient.to_numpy_ndarrays(), self.step)
        named = zip(self._sent, stepped, strict=True)
        return ArrayRecord({name: Array(array) for name, array in named}), metrics


class ClassicDescent:
    """The same for the classic API."""

    step: float

    def configure_fit(self, server_round, parameters, client_manager):  # type: ignore[no-untyped-def]
        """Remember the model that is sent."""
        self._sent = parameters_to_ndarrays(parameters)
        return super().configure_fit(server_round, parameters, client_manager)  # type: ignore[misc]

    def aggregate_fit(self, server_round, results, failures):  # type: ignore[no-untyped-def]
        """Step against the aggregated gradient."""
        gradient, metrics = super().aggregate_fit(server_round, results, failures)  # type: ignore[misc]
        if gradient is None:
            return None, metrics
        stepped = _stepped(self._sent, parameters_to_ndarrays(gradient), self.step)
        return ndarrays_to_parameters(stepped), metrics


def _stepped(arrays: Arrays, gradients: Sequence[np.ndarray[Any, Any]], step: float) -> Arrays:
    with np.errstate(all="ignore"):  # a diverging model is a result, too
        return [
            (array - step * gradient).astype(array.dtype)
            for array, gradient in zip(arrays, gradients, strict=True)
        ]
