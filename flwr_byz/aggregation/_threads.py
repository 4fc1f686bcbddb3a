"""Work on all cores; NumPy lets go of the interpreter's lock inside of its loops."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def num_threads() -> int:
    """Return the number of cores this process may use; FLWR_BYZ_NUM_THREADS sets another.

    Raises
    ------
    ValueError
        Where the variable is neither empty nor a positive integer.
    """
    if setting := os.environ.get("FLWR_BYZ_NUM_THREADS"):
        if not (setting.isdecimal() and int(setting) > 0):
            raise ValueError(f"FLWR_BYZ_NUM_THREADS must be a positive integer, got {setting!r}")
        return int(setting)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Apply a function to every item; results stand in the order of the items."""
    items = list(items)
    threads = min(num_threads(), len(items))
    if threads <= 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as executor:
        return list(executor.map(function, items))
