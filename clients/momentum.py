"""Clients that send momentum, in one process."""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flwr_byz.attacks.arrays import flatten, unflatten
from flwr_byz.clientapp.mod import momentum

from .problem import Arrays, Problem


class WithMomentum:
    """A problem whose clients send momentum in place of their update, as `ClientMomentum` does.

    Rounds come in their order, and all clients take part in each; within a round, a reply can be
    asked for again and again. Everything else is as the problem has it.

    Parameters
    ----------
    problem : Problem
    beta : float
        β.
    """

    def __init__(self, problem: Problem, beta: float) -> None:
        self.problem = problem
        self.beta = beta
        self._round = 0
        self._momenta: list[NDArray[np.float64] | None] = [None] * problem.num_clients

    def __getattr__(self, name: str) -> Any:
        return getattr(self.problem, name)

    def reply(
        self, client: int, arrays: Arrays, server_round: int
    ) -> tuple[Arrays, int, dict[str, float]]:
        """Return the model moved along the client's momentum, or the momentum of its gradients."""
        origin = flatten(arrays) if self.problem.reply_kind == "weights" else 0.0
        if server_round != self._round:
            self._round = server_round
            for each, before in enumerate(self._momenta):
                update = flatten(self.problem.reply(each, arrays, server_round)[0]) - origin
                self._momenta[each] = momentum(before, update, self.beta)
        honest, num_examples, metrics = self.problem.reply(client, arrays, server_round)
        return unflatten(self._momenta[client] + origin, honest), num_examples, metrics

    def relabelled(self) -> "WithMomentum":
        """Return the problem with corrupted labels, which has a momentum of its own."""
        return self._relabelled

    @cached_property
    def _relabelled(self) -> "WithMomentum":
        return WithMomentum(self.problem.relabelled(), self.beta)
