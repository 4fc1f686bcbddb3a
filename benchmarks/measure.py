"""Interleaved timing, peak memory, and the true gap of a geometric median."""

import os
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contestants import Contestant

LEAST_ROUNDS, MOST_ROUNDS = 3, 15
SECONDS_PER_CELL = 8.0


def interleaved(contestants: Sequence[Contestant]) -> list[list[float]]:
    """Time all contestants in turn, several rounds of it, after one round that is not counted.

    Returns
    -------
    list of list of float
        Seconds of each round, by contestant.
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
                times.append(elapsed)
    return seconds


def once(contestant: Contestant) -> float:
    """Return the seconds that one call takes."""
    argument = contestant.prepare()
    start = time.perf_counter()
    contestant.call(argument)
    return time.perf_counter() - start


def peak_memory(contestant: Contestant) -> int:
    """Return the bytes by which a call raises the process's memory at most, its result included."""
    argument = contestant.prepare()
    before = resident = _resident_bytes()
    done = threading.Event()

    def watch() -> None:
        nonlocal resident
        while not done.is_set():
            resident = max(resident, _resident_bytes())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    result: Any = contestant.call(argument)
    resident = max(resident, _resident_bytes())
    done.set()
    watcher.join()
    del result
    return resident - before


def _resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sum_of_distances(points: NDArray[np.float32], place: NDArray[np.floating]) -> float:
    """Return the geometric median's objective in float64."""
    place = np.asarray(place, np.float64)
    return float(sum(np.linalg.norm(point - place) for point in points))
