"""Carry out the runs that are missing, in two processes, and keep each as soon as it is done."""

import logging
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from ..workers import in_workers, progress_of_runs
from .engine import Cell, play
from .records import Block, append, missing
from .through_flower import play_through_flower

_WORKERS = 2
_AT_ONCE = 5  # runs of a block: what is being done when an interruption comes

Runs = dict[int, list[float]]
Done = dict[Cell, Runs]


def carry_out(plan: Mapping[Cell, int], done: Done, path: Path, console: Console) -> None:
    """Carry out the runs that are not done yet, and append each to the file as soon as it is."""
    blocks = list(missing(plan, done, _AT_ONCE))
    through_flower = [block.cell for block in blocks if block.cell.through == "flower"]
    alone = [block for block in blocks if block.cell.through == "engine"]
    with progress_of_runs(console) as progress:
        task = progress.add_task("training", total=sum(plan.values()))
        to_do = sum(len(block.seeds) for block in blocks)
        progress.advance(task, sum(plan.values()) - to_do)

        def save(played: tuple[Cell, Runs]) -> None:
            cell, runs = played
            append(path, cell, runs)
            done.setdefault(cell, {}).update(runs)
            progress.advance(task, len(runs))

        if alone:
            in_workers(play_block, alone, save, _WORKERS)
        if through_flower:
            logging.getLogger("flwr").setLevel(logging.ERROR)
            progress.update(task, description="through Flower")
            play_through_flower(through_flower, 0, lambda cell, errors: save((cell, {0: errors})))


def play_block(block: Block) -> tuple[Cell, Runs]:
    """Carry out the runs of a block."""
    return block.cell, {seed: play(block.cell, seed) for seed in block.seeds}
