"""The error that stays: how it goes with N, d, q and k."""

from collections.abc import Callable, Sequence
from itertools import combinations
from math import sqrt
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flwr_byz.theory import Statistics, expected_error

from .claim import Judge, Number, at_most, beside, boundary, by, errors, paired
from .drawing import LINES, RATE, against, dashed, fitted_line, legend_below, points
from .statistics import Estimate, contractions, determination, estimate, slope

_WORSE = 0.1


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
    """Ask whether k = m is best, on symmetric and on skewed data, client size by client size."""
    is_skewed = runs.problem.str.contains("is_skewed=True")
    runs = runs.assign(expected=list(map(expected, runs.itertuples(), is_skewed)))
    panels = figure.subplots(1, 2, sharey=True)
    numbers, sizes = [], []
    for axes, skewed in zip(panels, (False, True), strict=True):
        name = f"{'skewed' if skewed else 'symmetric'} data"
        part = runs[is_skewed == skewed]
        for style, n in enumerate(by(runs, "n")):
            if (part.n == n).any():
                draw_against_k(axes, part[part.n == n], f"n = {n}", style)
        against(axes, "batches k", list(by(runs, "k")))
        axes.set_title(name)
        found = {n: beside_half_as_many(cell) for n, cell in by(part, "n").items()}
        held = {n: each.high <= 1 + _WORSE for n, each in reversed(found.items())}
        label = f"{name}: n from which k = m is at most {_WORSE:.0%} worse than k = m/2"
        numbers.append(boundary(label, held, "from n = {} on", "every n"))
        sizes += [
            Number(f"{name}: k = m beside k = m/2, n = {n}, {each.num_runs} runs", str(each))
            for n, each in found.items()
        ]
        growth = max(growth_in_k(cell) for cell in by(part, "n").values())
        label = f"{name}: largest error for k′ beside that for k < k′, over √(k′/k)"
        numbers.append(at_most(label, growth, 1, digits=2))
    legend_below(figure, panels[1])
    cells = runs.groupby(["problem", "k"])
    planned = cells.expected.first() / cells.final.agg(lambda finals: np.sqrt((finals**2).mean()))
    spread = f"{planned.min():.2f} to {planned.max():.2f}"
    return [*numbers, *sizes, Number("expected error beside measured", spread)]


def expected(run: Any, is_skewed: bool) -> float:
    """Return the planner's error of a run."""
    skewness = 2 * run.d / (run.d + 2) if is_skewed else 0.0
    return expected_error(run.d, run.N, run.k, run.q, Statistics(skewness=skewness))


def draw_against_k(axes: Axes, runs: pd.DataFrame, label: str, style: int) -> None:
    """Draw errors, and the planner's as a line."""
    cells = by(runs, "k")
    points(axes, {k: cell.final for k, cell in cells.items()}, label, style)
    planned = [cell.expected.iloc[0] for cell in cells.values()]
    axes.plot(list(cells), planned, color=LINES[style], linewidth=1)


def growth_in_k(runs: pd.DataFrame) -> float:
    """Return the largest error for k′ beside that for k < k′, interval and all, over √(k′/k)."""
    pairs = combinations(by(runs, "k").items(), 2)
    return max(paired(more, fewer).high / sqrt(k_more / k) for (k, fewer), (k_more, more) in pairs)


def beside_half_as_many(runs: pd.DataFrame) -> Estimate:
    """Compare the most batches with half of them."""
    *_, half, most = by(runs, "k").values()
    return paired(most, half)


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
