"""Tasks spread over worker processes, each result kept as soon as it is there."""

import logging
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar
from unittest.mock import patch

import typer
from flwr.supercore.logger import FLOWER_LOGGER
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_ONE_THREAD_EACH = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "FLWR_BYZ_NUM_THREADS": "1",
}

Task = TypeVar("Task")
Result = TypeVar("Result")


def progress_of_runs(console: Console) -> Progress:
    """Return a display of runs done, of all runs, and of the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("runs"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        speed_estimate_period=120,
    )


def in_workers(
    carry_out: Callable[[Task], Result],
    tasks: Sequence[Task],
    save: Callable[[Result], None],
    num_workers: int,
) -> None:
    """Carry out tasks in processes of one thread each; call `save` with each result.

    On Ctrl-C the tasks that have begun are ended and saved, and the program exits.
    """
    with (
        patch.dict(os.environ, _ONE_THREAD_EACH),
        ProcessPoolExecutor(num_workers, get_context("spawn"), initializer=_begin_worker) as pool,
    ):
        futures = [pool.submit(carry_out, task) for task in tasks]
        saved: set[Future[Result]] = set()
        try:
            for future in as_completed(futures):
                save(future.result())
                saved.add(future)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            for future in futures:
                if future.done() and not future.cancelled() and future not in saved:
                    save(future.result())
            print("\ninterrupted: the same command goes on where it stopped")
            raise typer.Exit(128 + signal.SIGINT) from None


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    FLOWER_LOGGER.setLevel(logging.CRITICAL)
