"""A run in this process: Flower's strategies and messages, without a network between.

The rounds are those of ``flwr.serverapp.strategy.Strategy.start``; strategies, clients and attacks
are the very ones that Flower's simulation runs.
"""

import gc
import math
import time
from collections.abc import Iterable
from functools import cache
from typing import cast

import numpy as np
from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from clients.rules import is_async, message_strategy
from clients.run import Run, adversary_of, problem_of

from .detection import Detection
from .outcome import LOST, Outcome
from .simulated_nodes import SimulatedNodes, record_of

_FAR = 1e30  # a model further off is not trained on


def train(run: Run) -> Outcome:
    """Carry out a run; a server that raises, or a model that is lost, is an outcome, too.

    Its numbers are what the problem's `evaluate` says of the last model besides the measure and,
    where the same clients attack in every round, how well they are detected.
    """
    problem = problem_of(run)
    adversary = adversary_of(run, problem)
    strategy = message_strategy(run.rule, problem, run.num_byzantine, run.seed)
    arrays, before = record_of(problem.initial_arrays()), None
    nodes, waits = SimulatedNodes(run, problem, adversary), not is_async(run.rule)
    figures = problem.evaluate(arrays.to_numpy_ndarrays())
    values = [figures[problem.measure]]
    seconds, stopped, times = 0.0, "", [0.0]
    detection = Detection.of(problem, adversary) if waits else None
    _begin_run()
    for server_round in range(1, run.num_rounds + 1):
        with np.errstate(all="ignore"):  # what diverges is a result, not a warning
            model, grid = arrays.to_numpy_ndarrays(), cast(Grid, nodes)
            nodes.begin(server_round, model, before)
            since = time.process_time()
            sent = list(strategy.configure_train(server_round, arrays, ConfigRecord(), grid))
            seconds += time.process_time() - since
            nodes.send(sorted(sent, key=lambda m: m.metadata.dst_node_id))  # Flower shuffles them
            replies: Iterable[Message] = nodes.arrivals()
            if waits:
                replies = sorted(replies, key=lambda m: m.metadata.src_node_id)
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
                sent_back = {client: reply for client, (reply, *_) in nodes.made.items()}
                detection.add(sent_back, model, None if aggregate is None else after)
        if not figures[problem.measure] < _FAR:
            break
        values.append(figures[problem.measure])
        times.append(nodes.now)
    seconds /= max(1, len(values) - 1)
    lost = [LOST[problem.measure]] * (run.num_rounds + 1 - len(values))
    numbers = {name: value for name, value in figures.items() if name != problem.measure}
    if lost:
        numbers = dict.fromkeys(numbers, lost[0])
    if detection is not None:
        numbers |= detection.numbers()
    times = times + [math.inf] * len(lost) if run.latency else []
    if not waits:
        seconds = math.nan  # replies are made while others are read
    return Outcome(values + lost, seconds, stopped, numbers=numbers, times=times)


@cache
def _begin_run() -> None:
    """Let messages be made in this process, as within a run of Flower.

    Some of Flower's strategies collect garbage once a reply: what was there before is left out.
    """
    gc.freeze()
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
