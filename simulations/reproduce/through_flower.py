"""The same runs through Flower's own simulation: Ray, messages, serialised replies."""

from collections.abc import Callable

from clients.experiments import ATTACKS, EXPERIMENTS
from clients.server_rule import OURS

from ..play import simulate
from ..results import Run, RunResult
from .engine import NOBODY, Cell

_EXPERIMENT = "linear-regression"
_NAMES = {repr(make()): name for name, make in ATTACKS.items()} | {NOBODY: "none"}


def play_through_flower(
    cells: list[Cell], seed: int, finished: Callable[[Cell, list[float]], None]
) -> None:
    """Carry out cells of that regression one after the other; call `finished` after each.

    Parameters
    ----------
    cells : list of Cell
        Of one number of clients, with the sizes of the repository's regression and its rule.
    seed : int
    finished : callable
        Is given the cell and its errors from round 0 on.
    """
    by_run = {_run_of(cell, seed): cell for cell in cells}

    def done(result: RunResult) -> None:
        finished(by_run[result.run], list(result.values))

    simulate(list(by_run), done, lambda: None)


def _run_of(cell: Cell, seed: int) -> Run:
    setup = EXPERIMENTS[_EXPERIMENT]
    problem = setup.problem(cell.m, seed)
    if (cell.n, cell.d) != (problem.samples_per_client, problem.dim) or not cell.trimmed:
        raise ValueError(f"Flower's simulation does not play {cell}")
    return Run(
        experiment=_EXPERIMENT,
        rule=OURS,
        attack=_NAMES[cell.attack],
        api="message",
        num_clients=cell.m,
        num_byzantine=cell.q,
        num_rounds=cell.rounds,
        seed=seed,
    )
