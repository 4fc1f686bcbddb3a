"""One training in one process: Flower's strategies and messages, without a network between.

The rounds are those of ``flwr.serverapp.strategy.Strategy.start``; strategies, clients and attacks
are the very ones that Flower's simulation runs.
"""

import gc
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from clients.byzantine import Adversary, byzantine_reply
from clients.experiments import ATTACKS, AttackName
from clients.perceptron import Perceptron
from clients.pooled_regression import PooledRegression
from clients.pools import POOLS
from clients.problem import Arrays, Problem

from .momentum import WithMomentum
from .rules import RuleName, known_rule, strategy_of

NOBODY: AttackName = "none"
REGRESSION = "regression"
STEP_SIZE = {"weights": 1.0, "gradients": 0.5}

_LOST = 1e30  # a model further off is not trained on


@dataclass(frozen=True)
class Cell:
    """What identifies a run.

    Attributes
    ----------
    problem : str
        "regression", or one of `clients.pools.POOLS`.
    split : str
        How data are spread, as in `clients.partition`.
    rule : str
    momentum : float
        β of the clients; 0 sends updates as they are.
    attack : str
        One of `clients.experiments.ATTACKS`, or "none".
    m, q : int
        Clients, and those that the server is set for; as many attack.
    rounds, seed : int
    """

    problem: str
    split: str
    rule: RuleName
    momentum: float
    attack: AttackName
    m: int
    q: int
    rounds: int
    seed: int

    @property
    def measure(self) -> str:
        """What is measured: "error" ‖θ − θ*‖, or "accuracy" on data held out."""
        return "error" if self.problem == REGRESSION else "accuracy"


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes
    ----------
    values : list of float
        The measure from round 0 on; what a lost model has, from where the run stopped.
    seconds : float
        Of processor time that the server took for a round, on average.
    stopped : str
        The error that ended the run at the server; empty where none did.
    """

    values: list[float]
    seconds: float
    stopped: str = ""

    @property
    def final(self) -> float:
        """The measure after the last round."""
        return self.values[-1]


def problem_of(cell: Cell) -> Problem:
    """Make the problem of a run.

    Raises
    ------
    ValueError
        Where it is not known.
    """
    problem: Problem
    if cell.problem == REGRESSION:
        problem = PooledRegression(num_clients=cell.m, split=cell.split, seed=cell.seed)
    elif cell.problem in POOLS:
        problem = Perceptron(
            images=cell.problem, num_clients=cell.m, split=cell.split, seed=cell.seed
        )
    else:
        known = ", ".join((REGRESSION, *POOLS))
        raise ValueError(f"problem must be one of {known}, got {cell.problem!r}")
    return WithMomentum(problem, cell.momentum) if cell.momentum else problem


def adversary_of(cell: Cell) -> Adversary | None:
    """Return who attacks in a run, and how."""
    if cell.attack == NOBODY or cell.q == 0:
        return None
    rule = known_rule(cell.rule, cell.m, cell.q)
    return Adversary.spread(ATTACKS[cell.attack](), cell.m, cell.q, rule)


def play(cell: Cell) -> Outcome:
    """Train; a server that falls, or a model that is lost, is an outcome, too."""
    problem, adversary = problem_of(cell), adversary_of(cell)
    step_size = STEP_SIZE[problem.reply_kind]
    strategy = strategy_of(cell.rule, problem, cell.q, step_size, cell.seed)
    arrays = _record(problem.initial_arrays())
    nodes = cast(Grid, _Nodes(range(1, cell.m + 1)))
    values = [problem.evaluate(arrays.to_numpy_ndarrays())[cell.measure]]
    worst = 0.0 if cell.measure == "accuracy" else math.inf
    seconds, stopped = 0.0, ""
    _begin_run()
    for server_round in range(1, cell.rounds + 1):
        with np.errstate(all="ignore"):  # what diverges is a result, not a warning
            since = time.process_time()
            sent = list(strategy.configure_train(server_round, arrays, ConfigRecord(), nodes))
            seconds += time.process_time() - since
            replies = _replies(problem, adversary, arrays.to_numpy_ndarrays(), server_round, sent)
            since = time.process_time()
            try:
                aggregate, _ = strategy.aggregate_train(server_round, replies)
            except Exception as error:
                stopped = f"round {server_round}: {type(error).__name__}: {error}"
                break
            seconds += time.process_time() - since
            arrays = arrays if aggregate is None else aggregate
            value = problem.evaluate(arrays.to_numpy_ndarrays())[cell.measure]
        if not value < _LOST:
            break
        values.append(value)
    rounds = max(1, len(values) - 1)
    return Outcome(values + [worst] * (cell.rounds + 1 - len(values)), seconds / rounds, stopped)


def _replies(
    problem: Problem,
    adversary: Adversary | None,
    arrays: Arrays,
    server_round: int,
    sent: Iterable[Message],
) -> list[Message]:
    """Return what the nodes send back; the silent ones are left out."""
    byzantine = adversary.when(server_round) if adversary else frozenset()
    replies = []
    for message in sent:
        client = message.metadata.dst_node_id - 1
        if adversary is not None and client in byzantine:
            made = byzantine_reply(problem, adversary, client, arrays, server_round)
        else:
            made = problem.reply(client, arrays, server_round)
        if made is not None:
            reply, num_examples, metrics = made
            told = {"num-examples": num_examples, "partition-id": client, **metrics}
            content = RecordDict({"arrays": _record(reply), "metrics": MetricRecord(told)})
            replies.append(Message(content, reply_to=message))
    return replies


def _record(arrays: Sequence[np.ndarray[Any, Any]]) -> ArrayRecord:
    return ArrayRecord({f"{place}": Array(array) for place, array in enumerate(arrays)})


@cache
def _begin_run() -> None:
    """Let messages be made in this process, as within a run of Flower.

    Some of Flower's strategies collect garbage once a reply: what was there before is left out.
    """
    gc.freeze()
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


@dataclass(frozen=True)
class _Nodes:
    """As much of a grid as a strategy needs to choose nodes."""

    node_ids: Sequence[int]

    def get_node_ids(self) -> Sequence[int]:
        """Return the ids of the nodes."""
        return self.node_ids
