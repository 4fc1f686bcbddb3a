"""The error that stays: how it goes with N, d, q and k."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from flwr_byz.theory import Statistics, expected_error

from .claim import Judge, Number, beside, boundary, by, errors, paired
from .drawing import LINES, RATE, against, dashed, fitted_line, legend_above, points
from .statistics import contractions, determination, estimate, slope


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
    skewed = runs.problem.str.contains("is_skewed=True")
    left, right = figure.subplots(1, 2, sharey=True)
    plain, planned = [], {}
    numbers, growth = [], []
    for name, part, axes in (("symmetric", runs[~skewed], left), ("skewed", runs[skewed], right)):
        held = {}
        for style, (n, cell) in enumerate(by(part, "n").items()):
            cells = by(cell, "k")
            points(axes, {k: each.final for k, each in cells.items()}, f"n = {n}", style)
            d, q, samples = (int(cell[column].iloc[0]) for column in ("d", "q", "N"))
            statistics = Statistics(skewness=2 * d / (d + 2) if name == "skewed" else 0.0)
            expected = {k: expected_error(d, samples, k, q, statistics) for k in cells}
            axes.plot(list(cells), list(expected.values()), color=LINES[style], linewidth=1)
            rms = {k: float(np.sqrt(np.square(each.final).mean())) for k, each in cells.items()}
            planned |= {(name, n, k): expected[k] / rms[k] for k in cells}
            *_, half, most = cells
            found = paired(cells[most], cells[half])
            growth.append(found)
            held[n] = found.low <= 1
            label = f"{name} data: k = m beside k = m/2, n = {n}, {found.num_runs} runs"
            numbers.append(Number(label, str(found)))
        against(axes, "batches k", list(by(part, "k")))
        axes.set_title(f"{name} data")
        label = f"{name} data: n from which k = m is not worse than k = m/2"
        plain.append(boundary(label, dict(reversed(held.items())), "from n = {} on", "every n"))
    legend_above(figure, right)
    most = max(each.high for each in growth)
    return [
        Number(
            "growth: error for twice the k, at most", f"{most:.2f}", "at most √2", most <= 2**0.5
        ),
        *plain,
        *numbers,
        Number(
            "expected error beside measured, least and most",
            f"{min(planned.values()):.2f} to {max(planned.values()):.2f}",
        ),
    ]


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
