"""A run in this process: Flower's strategies and messages, without a network between.

The rounds are those of ``flwr.serverapp.strategy.Strategy.start``; strategies, clients and attacks
are the very ones that Flower's simulation runs.
"""

import gc
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from clients.byzantine import Adversary, byzantine_reply
from clients.problem import Arrays, Problem
from clients.rules import message_strategy
from clients.run import Run, adversary_of, problem_of

from .detection import Detection
from .outcome import LOST, Outcome

Made = tuple[Arrays, int, dict[str, float]]

_FAR = 1e30  # a model further off is not trained on


def train(run: Run) -> Outcome:
    """Carry out a run; a server that raises, or a model that is lost, is an outcome, too.

    Its numbers are what the problem's `evaluate` says of the last model besides the measure and,
    where the same clients attack in every round, how well they are detected.
    """
    problem = problem_of(run)
    adversary = adversary_of(run, problem)
    strategy = message_strategy(run.rule, problem, run.num_byzantine, run.seed)
    arrays, before = _record(problem.initial_arrays()), None
    nodes = cast(Grid, _Nodes(range(1, run.num_clients + 1)))
    figures = problem.evaluate(arrays.to_numpy_ndarrays())
    values = [figures[problem.measure]]
    seconds, stopped, detection = 0.0, "", Detection.of(problem, adversary)
    _begin_run()
    for server_round in range(1, run.num_rounds + 1):
        with np.errstate(all="ignore"):  # what diverges is a result, not a warning
            since = time.process_time()
            sent = list(strategy.configure_train(server_round, arrays, ConfigRecord(), nodes))
            seconds += time.process_time() - since
            sent.sort(key=lambda message: message.metadata.dst_node_id)  # Flower shuffles them
            model = arrays.to_numpy_ndarrays()
            clients = [_client_of(message) for message in sent]
            made = _replies(problem, adversary, model, before, server_round, clients)
            replies = _messages(sent, made)
            since = time.process_time()
            try:
                aggregate, _ = strategy.aggregate_train(server_round, replies)
            except Exception as error:
                stopped = f"round {server_round}: {type(error).__name__}: {error}"
                break
            seconds += time.process_time() - since
            arrays, before = arrays if aggregate is None else aggregate, model
            figures = problem.evaluate(after := arrays.to_numpy_ndarrays())
            if detection is not None:
                sent_back = {client: reply for client, (reply, *_) in made.items()}
                detection.add(sent_back, model, None if aggregate is None else after)
        if not figures[problem.measure] < _FAR:
            break
        values.append(figures[problem.measure])
    seconds /= max(1, len(values) - 1)
    lost = [LOST[problem.measure]] * (run.num_rounds + 1 - len(values))
    numbers = {name: value for name, value in figures.items() if name != problem.measure}
    if lost:
        numbers = dict.fromkeys(numbers, lost[0])
    if detection is not None:
        numbers |= detection.numbers()
    return Outcome(values + lost, seconds, stopped, numbers=numbers)


def _replies(
    problem: Problem,
    adversary: Adversary | None,
    arrays: Arrays,
    before: Arrays | None,
    server_round: int,
    clients: Iterable[int],
) -> dict[int, Made]:
    """Return what the clients send back; the silent ones are left out."""
    byzantine = adversary.choose(server_round, arrays) if adversary else frozenset()
    replies = {}
    for client in clients:
        if adversary is not None and client in byzantine:
            made = byzantine_reply(problem, adversary, client, arrays, server_round, before)
        else:
            made = problem.reply(client, arrays, server_round)
        if made is not None:
            replies[client] = made
    return replies


def _messages(sent: Iterable[Message], replies: Mapping[int, Made]) -> list[Message]:
    """Return the replies as messages, in the order in which the clients were asked."""
    messages = []
    for message in sent:
        if (client := _client_of(message)) in replies:
            arrays, num_examples, metrics = replies[client]
            reported = {"num-examples": num_examples, "partition-id": client, **metrics}
            content = RecordDict({"arrays": _record(arrays), "metrics": MetricRecord(reported)})
            messages.append(Message(content, reply_to=message))
    return messages


def _client_of(message: Message) -> int:
    return message.metadata.dst_node_id - 1


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
