"""Who is Byzantine, and what such a client replies in place of the honest reply."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from flwr_byz.attacks import Attack, Knowledge

from .problem import Arrays, Problem, flatten, unflatten


@dataclass(frozen=True)
class Adversary:
    """A set of clients that carry out one attack together, in every round.

    Parameters
    ----------
    attack : Attack
    clients : frozenset of int
        The Byzantine clients, by partition id.
    """

    attack: Attack
    clients: frozenset[int]

    @classmethod
    def spread(cls, attack: Attack, num_clients: int, num_byzantine: int) -> "Adversary":
        """Take q of m clients, evenly spaced: the worst placement, each in a batch of its own."""
        ids = (client * num_clients // num_byzantine for client in range(num_byzantine))
        return cls(attack, frozenset(ids))


def byzantine_reply(
    problem: Problem, adversary: Adversary, client: int, arrays: Arrays, server_round: int
) -> tuple[Arrays, int, dict[str, float]] | None:
    """Return what a Byzantine client sends for the model `arrays`; None where it stays silent.

    The attack sees gradients, or the update where clients reply weights. Omniscient attacks see the
    honest replies, recomputed from the problem's definition: nothing passes between processes.
    """
    honest_arrays, num_examples, metrics = problem.reply(client, arrays, server_round)
    sent = flatten(arrays) if problem.reply_kind == "weights" else np.zeros(1)
    honest = None
    if adversary.attack.omniscient:
        model = tuple((array.tobytes(), array.dtype.str, array.shape) for array in arrays)
        honest = _honest_replies(problem, adversary.clients, server_round, model) - sent
    vector = adversary.attack(
        Knowledge(
            own=flatten(honest_arrays) - sent,
            num_clients=problem.num_clients,
            num_byzantine=len(adversary.clients),
            rng=np.random.default_rng([problem.seed, client, server_round]),
            honest=honest,
        )
    )
    if vector is None:
        return None
    return unflatten(vector + sent, honest_arrays), num_examples, metrics


@lru_cache(maxsize=2)
def _honest_replies(
    problem: Problem,
    byzantine: frozenset[int],
    server_round: int,
    model: tuple[tuple[bytes, str, tuple[int, ...]], ...],
) -> NDArray[np.float64]:
    """Recompute every honest reply, (m − q, d): once a round in each process that colludes."""
    arrays = [np.frombuffer(data, dtype).reshape(shape) for data, dtype, shape in model]
    honest = [client for client in range(problem.num_clients) if client not in byzantine]
    return np.stack([flatten(problem.reply(client, arrays, server_round)[0]) for client in honest])
