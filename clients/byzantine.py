"""Who is Byzantine, and what such a client replies in place of the honest reply."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from flwr_byz.aggregation import split_into_batches
from flwr_byz.attacks import Attack, Knowledge, Schedule
from flwr_byz.attacks.arrays import flatten, unflatten

from .problem import Arrays, Problem
from .rule import ServerSide, step_between, trusted_in
from .rules import KnownRule

Model = tuple[tuple[bytes, str, tuple[int, ...]], ...]
"""A model as something that can be compared: bytes, dtype and shape of each array."""

Choice = Callable[[int, Arrays], frozenset[int]]
"""Maps the number of a round and the model sent in it to the Byzantine clients, by partition id."""


@dataclass(frozen=True)
class Scheduled:
    """The clients of a schedule, whatever the model is."""

    schedule: Schedule

    def __call__(self, server_round: int, arrays: Arrays) -> frozenset[int]:
        """Return the schedule's clients."""
        return self.schedule(server_round)


@dataclass(frozen=True)
class Adversary:
    """Clients that carry out one attack together, at most q of them in a round.

    Parameters
    ----------
    attack : Attack
    choose : callable
        Who is Byzantine.
    num_byzantine : int
        q.
    rule : KnownRule, optional
        What the server does with the replies, for attacks that know it.
    """

    attack: Attack
    choose: Choice
    num_byzantine: int
    rule: KnownRule | None = None


def byzantine_reply(
    problem: Problem,
    adversary: Adversary,
    client: int,
    arrays: Arrays,
    server_round: int,
    before: Arrays | None = None,
) -> tuple[Arrays, int, dict[str, float]] | None:
    """Return what a Byzantine client sends for the model `arrays`; None where it stays silent.

    The attack sees gradients, or the update where clients reply weights. Omniscient attacks see
    the honest replies, recomputed from the problem's definition: nothing passes between processes.
    `before` is the model of the round before, from which the attack knows the last aggregate; where
    None, it takes the server to have none.
    """
    attack = adversary.attack
    honest_arrays, num_examples, metrics = problem.reply(client, arrays, server_round)
    models = comparable(arrays), None if before is None else comparable(before)
    rng = np.random.default_rng([problem.seed, client, server_round])
    if attack.common:
        vector = _common_vector(problem, adversary, server_round, *models)
    else:
        own = flatten(honest_arrays) - _origin(problem, arrays)
        vector = attack(_knowledge(problem, adversary, client, own, rng, server_round, *models))
    if vector is None:
        return None
    made = unflatten(vector + _origin(problem, arrays), honest_arrays)
    return attack.corrupt(made, rng), num_examples, metrics


@lru_cache(maxsize=2)
def _common_vector(
    problem: Problem, adversary: Adversary, server_round: int, model: Model, before: Model | None
) -> NDArray[np.float64] | None:
    """Make the vector that all colluders send: once a round in each process that colludes."""
    arrays = arrays_of(model)
    client = min(adversary.choose(server_round, arrays))
    rng = np.random.default_rng([problem.seed, server_round])
    own = np.zeros(flatten(arrays).shape)
    return adversary.attack(
        _knowledge(problem, adversary, client, own, rng, server_round, model, before)
    )


def _knowledge(
    problem: Problem,
    adversary: Adversary,
    client: int,
    own: NDArray[np.float64],
    rng: np.random.Generator,
    server_round: int,
    model: Model,
    before: Model | None,
) -> Knowledge:
    """Collect what the attack needs to know."""
    arrays = arrays_of(model)
    byzantine = tuple(sorted(adversary.choose(server_round, arrays)))
    requires, rule = adversary.attack.requires, adversary.rule
    batches = None
    if rule is not None:
        batches = split_into_batches(range(problem.num_clients), rule.num_batches)
    if rule is not None and "rule" in requires:
        rule = replace(rule, server=_server_side(problem, rule, server_round, arrays, before))

    def relabelled() -> NDArray[np.float64]:
        reply, _, _ = problem.relabelled().reply(client, arrays, server_round)
        return flatten(reply) - _origin(problem, arrays)

    return Knowledge(
        own=own,
        num_clients=problem.num_clients,
        num_byzantine=adversary.num_byzantine,
        rng=rng,
        client=client,
        byzantine=byzantine,
        model=flatten(arrays),
        honest=honest_vectors(problem, byzantine, server_round, model)
        if "honest" in requires
        else None,
        batches=batches,
        rule=rule,
        relabelled=relabelled,
        uses_gradients=problem.reply_kind == "gradients",
    )


def _server_side(
    problem: Problem, rule: KnownRule, server_round: int, arrays: Arrays, before: Model | None
) -> ServerSide:
    """Return what the server has besides the replies, as an adversary that knows it."""
    return ServerSide(
        None if before is None else step_between(problem, arrays_of(before), arrays),
        trusted_in(problem, server_round, arrays) if rule.needs_trusted_data else None,
    )


@lru_cache(maxsize=2)
def honest_vectors(
    problem: Problem, byzantine: tuple[int, ...], server_round: int, model: Model
) -> NDArray[np.float64]:
    """Recompute every honest reply, (m − q, d): once a round in each process that colludes."""
    arrays = arrays_of(model)
    honest = [client for client in range(problem.num_clients) if client not in byzantine]
    replies = [flatten(problem.reply(client, arrays, server_round)[0]) for client in honest]
    return np.stack(replies) - _origin(problem, arrays)


def _origin(problem: Problem, arrays: Arrays) -> NDArray[np.float64]:
    """Return what vectors are counted from: the weights that were sent, or zero for gradients."""
    sent = flatten(arrays)
    return sent if problem.reply_kind == "weights" else np.zeros_like(sent)


def comparable(arrays: Arrays) -> Model:
    """Return a model as something that can be compared."""
    return tuple((array.tobytes(), array.dtype.str, array.shape) for array in arrays)


def arrays_of(model: Model) -> Arrays:
    """Return a model as arrays."""
    return [np.frombuffer(data, dtype).reshape(shape) for data, dtype, shape in model]
