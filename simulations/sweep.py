"""Carry out the runs that are missing, and keep each as soon as it is done."""

import logging
import os
import signal
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

from flwr.supercore.logger import FLOWER_LOGGER
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from clients.run import Run

from .flower import train_through_flower
from .outcome import Outcome, append, load
from .process import train

_ONE_THREAD_EACH = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "FLWR_BYZ_NUM_THREADS": "1",
}


def sweep(runs: Iterable[Run], path: Path, num_workers: int, console: Console) -> None:
    """Carry out the runs that a file does not hold yet, and append each to it.

    Parameters
    ----------
    runs : iterable of Run
    path : Path
        A file of JSON lines; see `outcome.load`.
    num_workers : int
        Processes of one thread each; those through Flower's simulation come one after the other.
    console : Console

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C, once every process that was started has ended.
    """
    wanted = dict.fromkeys(runs)
    done = {run for run, outcome in load(path).items() if not outcome.failed}
    missing = [run for run in wanted if run not in done]
    alone = [run for run in missing if run.through == "process"]
    through_flower = [run for run in missing if run.through == "flower"]
    with _progress(console) as progress:
        task = progress.add_task("runs", total=len(wanted), completed=len(wanted) - len(missing))
        for results in (_in_processes(alone, num_workers), train_through_flower(through_flower)):
            for run, outcome in results:
                append(path, run, outcome)
                progress.advance(task)


def _in_processes(runs: list[Run], num_workers: int) -> Iterator[tuple[Run, Outcome]]:
    """Yield runs as they are done."""
    if not runs:
        return
    with (
        patch.dict(os.environ, _ONE_THREAD_EACH),
        ProcessPoolExecutor(num_workers, get_context("spawn"), initializer=_begin_worker) as pool,
    ):
        try:
            for future in as_completed([pool.submit(_train_or_fail, run) for run in runs]):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _train_or_fail(run: Run) -> tuple[Run, Outcome]:
    """Carry out a run; what keeps it from ending is a failure, which is kept as well."""
    try:
        return run, train(run)
    except Exception:
        return run, Outcome([], failed=traceback.format_exc())


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    FLOWER_LOGGER.setLevel(logging.CRITICAL)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        speed_estimate_period=120,
    )
