"""Measure the planner's constants again: ``python -m simulations.calibrate``."""

import json
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

import flwr_byz.theory
from flwr_byz.theory import error_rate, minimax_rate
from flwr_byz.theory.calibration import DIMS, SHARES, TABLE, error_strength

from .monte_carlo import descend, root_mean_square

_NUM_BATCHES = 40
_STRENGTH = 0.15  # x at which c is measured, at most: its effect on σ² hardly counts there
_LEAST_SAMPLES = 20  # of a batch, for each parameter, where c is measured
_REACH = 1e3  # norm of a Byzantine mean, in distances of honest means: as good as infinity
_ROUNDS = 8


def main(
    table: Annotated[Path, typer.Option(help="The table to write.")] = (
        Path(flwr_byz.theory.__file__).parent / TABLE
    ),
    fresh: Annotated[bool, typer.Option(help="Forget the cells that are already there.")] = False,
) -> None:
    """Measure c for each q/k and d of the table, and a; goes on after the last cell of the file."""
    if fresh:
        table.unlink(missing_ok=True)
    cells = [(share, dim) for share in (0.0, *SHARES) for dim in DIMS]
    with table.open("a+", encoding="utf-8") as file:
        file.seek(0)
        done = sum(1 for _ in file)
        console = Console()
        for share, dim in track(cells[done:], description="cells", console=console):
            runs = num_runs(dim, share)
            factor, standard_error = measure_factor(dim, share, range(runs))
            cell = {
                "byzantine_share": share,
                "dim": dim,
                "runs": runs,
                "factor": round(factor, 4),
                "standard_error": round(standard_error, 4),
            }
            file.write(json.dumps(cell) + "\n")
            file.flush()
    console.print(f"table: {table}", soft_wrap=True)


def num_runs(dim: int, byzantine_share: float) -> int:
    """Return how many runs a cell of the table takes: more where runs differ more.

    They differ more in few dimensions, and for few Byzantine batches, where noise is most of the
    error.
    """
    return max(800 // dim, 32) * (4 if byzantine_share < 0.1 else 1)


def measure_factor(dim: int, byzantine_share: float, seeds: Sequence[int]) -> tuple[float, float]:
    """Measure c by Monte Carlo, or a for no Byzantine client.

    Parameters
    ----------
    dim : int
        d.
    byzantine_share : float
        q/k, a multiple of 1/40.
    seeds : sequence of int
        One run each, at least two.

    Returns
    -------
    factor, standard_error : float
    """
    k, q = _NUM_BATCHES, round(byzantine_share * _NUM_BATCHES)
    needed = round((error_strength(dim, k, k, q) / _STRENGTH) ** 2)
    batch_samples = max(needed, _LEAST_SAMPLES * dim)
    num_samples = batch_samples * k
    final = [
        descend(
            num_clients=k,
            num_byzantine=q,
            num_batches=k,
            samples_per_client=batch_samples,
            dim=dim,
            rounds=_ROUNDS,
            distance=_STRENGTH,
            reach=_REACH * error_rate(dim, k, num_samples),
            seed=seed,
        )[-1]
        for seed in seeds
    ]
    error, standard_error = root_mean_square(np.array(final))
    # e = x/√(1 − x²), solved for x, and x for the factor.
    noise = minimax_rate(dim, num_samples)
    x = error / sqrt(1 + error**2)
    standard_error /= sqrt(1 + error**2) ** 3
    if q == 0:
        return x / noise, standard_error / noise
    attack = noise * q / sqrt(k - 2 * q)
    return (x - noise * sqrt(k / (k - q))) / attack, standard_error / attack


if __name__ == "__main__":
    typer.run(main)
