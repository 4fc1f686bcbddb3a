"""Nodes that reply in simulated time: as much of a grid as a strategy needs."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from itertools import count

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from clients.byzantine import Adversary, byzantine_reply
from clients.latency import Equal, make_latency
from clients.problem import Arrays, Problem
from clients.rules import batches_of, own_rule, quorum_of
from clients.run import Run
from flwr_byz.aggregation import split_into_batches

Made = tuple[Arrays, int, dict[str, float]]


class SimulatedNodes:
    """The nodes of a run; node n has partition n − 1.

    Attributes
    ----------
    now : float
        The time at which the last reply arrived.
    made : dict
        What was sent back by whom, of the messages of the present round.
    """

    def __init__(self, run: Run, problem: Problem, adversary: Adversary | None) -> None:
        self._run, self._problem, self._adversary = run, problem, adversary
        self._latency = make_latency(run.latency) if run.latency else Equal()
        self._on_the_way: list[tuple[float, int, Message]] = []  # a heap
        self._held_back: list[tuple[int, Message]] = []  # by the adversary, with their round
        self._numbers, self._tasks = count(), [0] * run.num_clients
        self._quorum = quorum_of(run.rule, run.num_clients, run.num_byzantine) or run.num_clients
        k = batches_of(run.rule, run.num_clients, run.num_byzantine)
        batches = split_into_batches(range(run.num_clients), k)
        self._batch_of = {client: n for n, batch in enumerate(batches) for client in batch}
        self._most_staleness = getattr(own_rule(run.rule), "max_staleness", run.num_rounds)
        self.now = 0.0

    def get_node_ids(self) -> Sequence[int]:
        """Return the ids of the nodes."""
        return range(1, self._run.num_clients + 1)

    def begin(self, server_round: int, arrays: Arrays, before: Arrays | None) -> None:
        """Begin a round, in which this model is sent."""
        self._round, self._arrays, self._before = server_round, arrays, before
        adversary = self._adversary
        self._byzantine = adversary.choose(server_round, arrays) if adversary else frozenset()
        self.made: dict[int, Made] = {}

    def send(self, messages: Iterable[Message]) -> None:
        """Let nodes begin to work on their replies; the silent ones never reply."""
        for message in messages:
            client = message.metadata.dst_node_id - 1
            made = self._reply(client)
            if made is None:
                continue
            self.made[client] = made
            reply = _message(message, client, made)
            timing = self._run.timing if client in self._byzantine else "own"
            if timing in ("last", "stale"):
                self._held_back.append((self._round, reply))
            else:
                self._post(reply, 0.0 if timing == "fast" else self._seconds(client))

    def arrivals(self) -> Iterator[Message]:
        """Yield the replies that are on the way, as they arrive."""
        seen: set[int] = set()  # batches that hold an honest reply
        self._release(seen)
        while self._on_the_way:
            self.now, _, reply = heapq.heappop(self._on_the_way)
            client = reply.metadata.src_node_id - 1
            if client not in self._byzantine:
                seen.add(self._batch_of[client])
            yield reply
            self._release(seen)

    def _reply(self, client: int) -> Made | None:
        problem, adversary, given = self._problem, self._adversary, (self._arrays, self._round)
        if adversary is not None and client in self._byzantine:
            return byzantine_reply(problem, adversary, client, *given, self._before)
        return problem.reply(client, *given)

    def _seconds(self, client: int) -> float:
        self._tasks[client] += 1
        run = self._run
        return self._latency(client, run.num_clients, run.seed, self._tasks[client])

    def _post(self, reply: Message, seconds: float) -> None:
        heapq.heappush(self._on_the_way, (self.now + seconds, next(self._numbers), reply))

    def _release(self, seen: set[int]) -> None:
        """Let those replies go whose time has come for the adversary."""
        oldest = self._round - self._most_staleness
        held, self._held_back = self._held_back, []
        is_last = len(seen) + len(held) >= self._quorum or not self._on_the_way
        for sent_in, reply in held:
            if sent_in <= oldest if self._run.timing == "stale" else is_last:
                self._post(reply, 0.0)
            else:
                self._held_back.append((sent_in, reply))


def _message(message: Message, client: int, made: Made) -> Message:
    arrays, num_examples, metrics = made
    reported = {"num-examples": num_examples, "partition-id": client, **metrics}
    content = RecordDict({"arrays": record_of(arrays), "metrics": MetricRecord(reported)})
    return Message(content, reply_to=message)


def record_of(arrays: Sequence[np.ndarray]) -> ArrayRecord:  # type: ignore[type-arg]
    """Return arrays as a record."""
    return ArrayRecord({f"{place}": Array(array) for place, array in enumerate(arrays)})
