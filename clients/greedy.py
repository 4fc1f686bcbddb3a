"""Byzantine sets that are chosen by the data, which no client of a real server knows."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from flwr_byz.aggregation import split_into_batches
from flwr_byz.attacks import Attack
from flwr_byz.attacks.arrays import flatten

from .byzantine import Adversary, Model, arrays_of, byzantine_reply, comparable, honest_vectors
from .problem import Arrays, Problem
from .rule import ServerSide
from .rules import KnownRule


@dataclass(frozen=True)
class Greedy:
    """One client of each of the q batches whose honest means lead nearest to θ* in a round.

    Parameters
    ----------
    problem : Problem
        Of one vector θ, whose clients reply gradients.
    optimum : tuple of float
        θ*.
    num_byzantine, num_batches : int
        q ≤ k.
    """

    problem: Problem
    optimum: tuple[float, ...]
    num_byzantine: int
    num_batches: int

    def __post_init__(self) -> None:
        if self.problem.reply_kind != "gradients" or self.num_byzantine > self.num_batches:
            raise ValueError("a greedy set needs gradients, and a batch for each of its clients")

    def __call__(self, server_round: int, arrays: Arrays) -> frozenset[int]:
        """Return the first client of each batch taken."""
        return _taken(self, server_round, comparable(arrays))


@lru_cache(maxsize=2)
def _taken(greedy: Greedy, server_round: int, model: Model) -> frozenset[int]:
    """Rank the batches: once a round in each process that asks."""
    problem, (theta,) = greedy.problem, arrays_of(model)
    gradients = honest_vectors(problem, (), server_round, model)
    batches = split_into_batches(range(problem.num_clients), greedy.num_batches)
    from_optimum = theta - np.array(greedy.optimum)
    towards = [gradients[list(batch)].mean(axis=0) @ from_optimum for batch in batches]
    taken = np.argsort(towards)[::-1][: greedy.num_byzantine]
    return frozenset(batches[batch][0] for batch in taken)


def settled(greedy: Greedy, attack: Attack, rule: KnownRule, num_rounds: int) -> frozenset[int]:
    """Return the set that a greedy adversary ends with, from a rehearsal of the rounds."""
    problem, arrays, last = greedy.problem, greedy.problem.initial_arrays(), None
    adversary = Adversary(attack, greedy, greedy.num_byzantine, rule)
    for server_round in range(1, num_rounds + 1):
        vectors = []
        for client in range(problem.num_clients):
            reply = problem.reply(client, arrays, server_round)
            if client in greedy(server_round, arrays):
                made = byzantine_reply(problem, adversary, client, arrays, server_round)
                reply = made or reply
            vectors.append(flatten(reply[0]))
        last = rule.aggregate(np.stack(vectors), ServerSide(last))
        step = problem.server_learning_rate * last
        arrays = [(arrays[0] - step).astype(arrays[0].dtype)]
    return greedy(num_rounds, arrays)
