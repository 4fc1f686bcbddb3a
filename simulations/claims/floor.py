"""The error that stays: how it goes with N, d, q and k."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from clients.run import NO_ATTACK
from flwr_byz.theory import c_alpha

from .claim import AWAY, Judge, Number, beside, by, errors
from .drawing import RATE, against, dashed, fitted_line, legend_above, points
from .statistics import Estimate, contractions, determination, estimate, slope


def slope_number(runs: pd.DataFrame, column: str, low: float, high: float) -> Number:
    """Fit the slope of the floor and compare its interval with what the paper allows."""
    cells = by(runs, column)
    fitted = estimate([cell.final for cell in cells.values()], slope(list(cells)))
    wanted = f"between {low:g} and {high:g}".replace("-", "−")
    label = f"slope of the floor in {column}, {fitted.num_runs} runs"
    return Number(label, str(fitted), wanted, fitted.within(low, high))


def sweep(
    column: str,
    label: str,
    low: float,
    high: float,
    more: Sequence[Callable[[pd.DataFrame], Number]] = (),
) -> Judge:
    """Return the judge who fits the floor against a column, and measures more."""

    def judge(runs: pd.DataFrame, figure: Figure) -> list[Number]:
        swept = runs[~runs.name.str.contains(":")]
        cells = {at: cell.final for at, cell in by(swept, column).items()}
        axes = figure.subplots()
        points(axes, cells, "floor under attack")
        fitted_line(axes, cells)
        dashed(axes, list(cells), list(swept.groupby(column).rate.first()), RATE)
        against(axes, label, list(cells))
        axes.legend()
        return [slope_number(swept, column, low, high), *(each(runs) for each in more)]

    return judge


def straight_in_root_q(runs: pd.DataFrame) -> Number:
    """Fit the floor as a straight line in √q."""
    cells = by(runs, "q")
    fit = estimate([cell.final for cell in cells.values()], determination(np.sqrt(list(cells))))
    return Number("R² of the floor as a + b√q, the sum of √(d/N) and √(dq/N)", f"{fit.value:.4f}")


def judge_choice_of_k(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Follow the floor in k at fixed q, and ask whether there is a trade-off."""
    attacked, clean = (by(runs[runs.attack == attack], "k") for attack in (AWAY, NO_ATTACK))
    floors, clean_floors = (
        {k: cell.final for k, cell in cells.items()} for cells in (attacked, clean)
    )
    bounds = {k: c_alpha(cell.q.max() / k) * cell.rate.max() for k, cell in attacked.items()}
    axes = figure.subplots()
    points(axes, floors, "under attack, q = 4")
    fitted_line(axes, floors)
    points(axes, clean_floors, "no attack", 1)
    dashed(axes, list(bounds), list(bounds.values()), f"C_α {RATE}, α = q/k")
    against(axes, "batches k", list(floors))
    legend_above(figure, axes)
    fewest, *_, most = floors
    best = min(floors, key=lambda k: floors[k].mean())
    fitted = estimate(list(floors.values()), slope(list(floors)))
    below = all(floors[k].max() <= bounds[k] for k in floors)
    label = f"slope of the floor in k, {fitted.num_runs} runs"
    return [
        Number(label, str(fitted), "at most 0.5", fitted.high <= 0.5),
        Number(f"every run below C_α {RATE}", "yes" if below else "no", "yes", below),
        Number("does the floor grow with k?", _grows(fitted)),
        Number("k of the smallest floor", str(best)),
        Number("floor at k = m beside the smallest", str(beside(attacked[most], attacked[best]))),
        Number(
            f"without attack: floor at k = m beside k = {fewest}",
            str(beside(clean[most], clean[fewest])),
        ),
    ]


def _grows(fitted: Estimate) -> str:
    if fitted.low > 0:
        return "yes"
    return "no, it falls" if fitted.high < 0 else "undecided"


def beside_equal_sizes(runs: pd.DataFrame) -> Number:
    """Compare the floor with that of clients of the same size."""
    equal = runs[runs.name.str.contains(":")]
    uneven = runs[(runs.n == equal.n.max()) & ~runs.name.str.contains(":")]
    return Number("floor beside that of equal sizes", str(beside(uneven, equal)))


def contracts(runs: pd.DataFrame) -> Number:
    """See that the error of every run contracts."""
    most = contractions(errors(runs)).max()
    return Number("largest contraction of a round", f"{most:.3f}", "below 1", bool(most < 1))


judge_floor_in_n = sweep("N", "samples N", -0.55, -0.45)
judge_floor_in_d = sweep("d", "dimension d", 0.45, 0.55)
judge_floor_in_q = sweep("q", "Byzantine clients q, k = 4q", 0.0, 0.5, [straight_in_root_q])
judge_uneven = sweep("N", "samples N", -0.55, -0.45, [beside_equal_sizes])
judge_logistic = sweep("N", "samples N", -0.55, -0.45, [contracts])
