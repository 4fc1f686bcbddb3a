"""Interleaved timing, and peak memory."""

import gc
import time
import tracemalloc
from collections.abc import Sequence

from .contestants import Contestant

LEAST_ROUNDS, MOST_ROUNDS = 3, 15
SECONDS_PER_CELL = 8.0


def interleaved(contestants: Sequence[Contestant]) -> list[list[float]]:
    """Return the seconds of several rounds by contestant, which take turns.

    One round before them is not counted.
    """
    seconds: list[list[float]] = [[] for _ in contestants]
    start = time.perf_counter()
    for round_number in range(MOST_ROUNDS + 1):
        spent = time.perf_counter() - start
        if round_number > LEAST_ROUNDS and spent > SECONDS_PER_CELL:
            break
        for contestant, times in zip(contestants, seconds, strict=True):
            elapsed = once(contestant)
            if round_number > 0:
                times.append(round(elapsed, 6))
    return seconds


def once(contestant: Contestant) -> float:
    """Return the seconds that one call takes."""
    argument = contestant.prepare()
    start = time.perf_counter()
    contestant.call(argument)
    return time.perf_counter() - start


def peak_memory(contestant: Contestant) -> int:
    """Return the most bytes that Python and NumPy hold during a call beyond those held before."""
    argument = contestant.prepare()
    gc.collect()
    tracemalloc.start()
    contestant.call(argument)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak
