"""Clients that send momentum, in one process."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clients.problem import Arrays, Problem
from flwr_byz.attacks.arrays import flatten, unflatten
from flwr_byz.clientapp.mod import momentum


@dataclass(eq=False)
class WithMomentum:
    """A problem whose clients send momentum in place of their update, as `ClientMomentum` does.

    Rounds come in their order, and all clients take part in each; within a round, a reply can be
    asked for again and again.

    Parameters
    ----------
    problem : Problem
    beta : float
        β.
    """

    problem: Problem
    beta: float
    _round: int = 0
    _momenta: list[NDArray[np.float64] | None] = field(default_factory=list)

    @property
    def num_clients(self) -> int:
        """Number of clients m."""
        return self.problem.num_clients

    @property
    def seed(self) -> int:
        """Seed of the data."""
        return self.problem.seed

    @property
    def reply_kind(self) -> Literal["weights", "gradients"]:
        """What an honest client sends."""
        return self.problem.reply_kind

    def initial_arrays(self) -> Arrays:
        """Return the model that the server starts from."""
        return self.problem.initial_arrays()

    def reply(
        self, client: int, arrays: Arrays, server_round: int
    ) -> tuple[Arrays, int, dict[str, float]]:
        """Return the model moved along the client's momentum, or the momentum of its gradients."""
        origin = flatten(arrays) if self.reply_kind == "weights" else 0.0
        if server_round != self._round:
            self._advance(arrays, origin, server_round)
        honest, num_examples, metrics = self.problem.reply(client, arrays, server_round)
        return unflatten(self._momenta[client] + origin, honest), num_examples, metrics

    @cached_property
    def _relabelled(self) -> "WithMomentum":
        return WithMomentum(self.problem.relabelled(), self.beta)

    def relabelled(self) -> "WithMomentum":
        """Return the problem with corrupted labels, which has a momentum of its own."""
        return self._relabelled

    def evaluate(self, arrays: Arrays) -> dict[str, float]:
        """Return how good a model is."""
        return self.problem.evaluate(arrays)

    def evaluate_client(self, client: int, arrays: Arrays) -> tuple[float, int, dict[str, float]]:
        """Return loss, number of examples and metrics of a model on one client's data."""
        return self.problem.evaluate_client(client, arrays)

    def _advance(
        self, arrays: Arrays, origin: NDArray[np.float64] | float, server_round: int
    ) -> None:
        """Take the updates of a new round into all clients' momenta."""
        previous = self._momenta or [None] * self.num_clients
        updates = [
            flatten(self.problem.reply(client, arrays, server_round)[0]) - origin
            for client in range(self.num_clients)
        ]
        self._momenta = [
            momentum(before, update, self.beta)
            for before, update in zip(previous, updates, strict=True)
        ]
        self._round = server_round
