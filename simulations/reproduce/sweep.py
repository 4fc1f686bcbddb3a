"""Carry out the runs that are missing, in two processes, and keep each as soon as it is done."""

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .engine import Cell, play
from .records import Block, append, missing
from .through_flower import play_through_flower

_WORKERS = 2
_AT_ONCE = 5  # runs of a block: what is being done when an interruption comes

Done = dict[Cell, dict[int, list[float]]]
Save = Callable[[Cell, dict[int, list[float]]], None]


def carry_out(plan: Mapping[Cell, int], done: Done, path: Path, console: Console) -> None:
    """Carry out the runs that are not done yet, and append each to the file as soon as it is."""
    blocks = list(missing(plan, done, _AT_ONCE))
    through_flower = [block.cell for block in blocks if block.cell.through == "flower"]
    alone = [block for block in blocks if block.cell.through == "engine"]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TextColumn("runs"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        speed_estimate_period=120,
    ) as progress:
        task = progress.add_task("training", total=sum(plan.values()))
        to_do = sum(len(block.seeds) for block in blocks)
        progress.advance(task, sum(plan.values()) - to_do)

        def save(cell: Cell, runs: dict[int, list[float]]) -> None:
            append(path, cell, runs)
            done.setdefault(cell, {}).update(runs)
            progress.advance(task, len(runs))

        if alone:
            _in_workers(alone, save)
        if through_flower:
            logging.getLogger("flwr").setLevel(logging.ERROR)
            progress.update(task, description="through Flower")
            play_through_flower(through_flower, 0, lambda cell, errors: save(cell, {0: errors}))


def play_block(block: Block) -> tuple[Cell, dict[int, list[float]]]:
    """Carry out the runs of a block."""
    return block.cell, {seed: play(block.cell, seed) for seed in block.seeds}


def _in_workers(blocks: Sequence[Block], save: Save) -> None:
    """Carry out blocks; on Ctrl-C those that have begun are ended and saved."""
    with (
        _one_thread_each(),
        ProcessPoolExecutor(_WORKERS, get_context("spawn"), initializer=_begin_worker) as pool,
    ):
        futures = [pool.submit(play_block, block) for block in blocks]
        saved: set[Future[tuple[Cell, dict[int, list[float]]]]] = set()
        try:
            for future in as_completed(futures):
                save(*future.result())
                saved.add(future)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            for future in futures:
                if future.done() and not future.cancelled() and future not in saved:
                    save(*future.result())
            print("\ninterrupted: the same command goes on where it stopped")
            raise typer.Exit(128 + signal.SIGINT) from None


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("flwr").setLevel(logging.CRITICAL)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let each worker that is started compute in one thread."""
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "FLWR_BYZ_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in one}
    os.environ.update(one)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
