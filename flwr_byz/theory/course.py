"""When the steps of an asynchronous training are made, and of which replies."""

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from math import inf

from ..aggregation.batches import replies_that_fill


@dataclass(frozen=True)
class Step:
    """A step: when it is made, and which replies have come for it."""

    seconds: float
    replies: Sequence[tuple[int, int]]  # clients, and how many steps old their models are
    too_old: Sequence[int]  # clients
    num_filled: int  # batches


@dataclass(frozen=True)
class Clients:
    """Clients that take equally long for each of their replies, infinity for those that do not."""

    seconds: Sequence[float]
    timeout: float
    batch_of: Sequence[int]
    quorum: int
    max_staleness: int

    @property
    def num_answering(self) -> int:
        """Number of batches of which half of the clients ever reply."""
        replying = Counter(b for b, s in zip(self.batch_of, self.seconds, strict=True) if s < inf)
        return sum(replying[batch] >= n for batch, n in replies_that_fill(self.batch_of).items())

    def steps(self) -> Iterator[Step]:
        """Yield the steps, as long as there are more, as of `AsyncGeometricMedianOfMeans`.

        Free clients are given the newest model when a step begins. It is made when a quorum of
        batches holds the replies of half of their clients, or all clients have replied or are given
        up.
        """
        coming: list[tuple[float, int, int, int]] = []  # a heap of replies
        numbers, now, free = count(), 0.0, [*range(len(self.seconds))]
        for step in count(1):
            for client in sorted(free):
                end = now + min(self.seconds[client], self.timeout)
                heapq.heappush(coming, (end, next(numbers), client, step))
            free, replies, too_old = [], [], []
            missing = replies_that_fill(self.batch_of)
            while coming and sum(n <= 0 for n in missing.values()) < self.quorum:
                now, _, client, sent_in = heapq.heappop(coming)
                if now == inf:
                    return
                free.append(client)
                if self.seconds[client] == inf:
                    continue
                if step - sent_in > self.max_staleness:
                    too_old.append(client)
                else:
                    replies.append((client, step - sent_in))
                    missing[self.batch_of[client]] -= 1
            fresh = len({self.batch_of[client] for client, _ in replies})
            yield Step(now, replies, too_old, fresh)
