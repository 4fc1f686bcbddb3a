"""Work on all cores; NumPy releases the interpreter's lock inside its loops."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from threading import RLock
from typing import TypeVar

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

Item = TypeVar("Item")
Result = TypeVar("Result")

_blas_lock = RLock()


def num_threads() -> int:
    """Return FLWR_BYZ_NUM_THREADS, by default the number of cores that this process may use."""
    setting = os.environ.get("FLWR_BYZ_NUM_THREADS")
    if setting:
        if not (setting.isdecimal() and int(setting) > 0):
            raise ValueError(f"FLWR_BYZ_NUM_THREADS must be a positive integer, got {setting!r}")
        return int(setting)
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def map_in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Apply a function to every item; yield the results in the order of the items.

    Threads work only a few items ahead of the results that were taken, which limits the memory.
    """
    threads = num_threads()
    if min(threads, len(items)) <= 1:
        yield from map(function, items)
        return
    ahead: deque[Future[Result]] = deque()
    try:
        for item in items:
            ahead.append(_executor(threads).submit(function, item))
            if len(ahead) > threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        wait(ahead)  # no thread works on after an error


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS and LAPACK to the calling thread.

    The threads of this module then do not wait for theirs, and the bytes of a product do not depend
    on their number. That number belongs to the process; it is restored at the end.
    """
    with _blas_lock, _controller().limit(limits=1, user_api="blas"):
        yield


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@cache
def _executor(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "flwr-byz")


if hasattr(os, "register_at_fork"):  # a forked process has no threads
    os.register_at_fork(after_in_child=_executor.cache_clear)
