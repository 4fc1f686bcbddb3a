"""Figures of claims: axes, short names, points with intervals."""

import re
from collections.abc import Hashable, Mapping, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from clients.run import NO_ATTACK
from flwr_byz.attacks.names import parse_call
from flwr_byz.pages import BLUE, COLOURS, VERMILION

from .statistics import Estimate

LINES = (BLUE, VERMILION, *(COLOURS[place] for place in (3, 1, 7, 2, 0)))
MARKERS = "os^Dv<>P"
GREY = "#767676"
ERROR = "error ‖θ − θ*‖"
RATE = "√(dk/N)"
LOST = 1e9  # drawn in place of infinity

_SHORT = {
    NO_ATTACK: "no attack",
    "AwayFromTruth": "away from θ*",
    "AwayAmongShort": "away from θ*, short",
    "InnerProductManipulation": "InnerProduct",
}


def title(attack: str) -> str:
    """Return a short name of an attack: its class and the values of its options."""
    name, options = parse_call(attack, "an attack", "SignFlip(scale=10)")
    return " ".join([_SHORT.get(name, name), *map(str, options.values())])


def folded(attack: str) -> str:
    """Return the short name in lines of a few letters."""
    words = re.sub("(?<=[a-z])(?=[A-Z])", " ", title(attack))
    return fill(words, 12, break_long_words=False)


def points(axes: Axes, cells: Mapping[float, Sequence[float]], label: str, style: int = 0) -> None:
    """Draw the mean of each cell with its 95 % interval."""
    samples = pd.DataFrame({at: pd.Series(list(cell)) for at, cell in cells.items()})
    axes.errorbar(
        list(cells),
        samples.mean(),
        1.96 * samples.sem(),
        fmt=MARKERS[style],
        color=LINES[style],
        label=label,
        markersize=6,
        capsize=3,
    )


def intervals(axes: Axes, found: Mapping[Hashable, Estimate], label: str, style: int = 0) -> None:
    """Draw estimates with their intervals."""
    value, low, high = np.array([(each.value, each.low, each.high) for each in found.values()]).T
    look = {"color": LINES[style], "markersize": 5, "capsize": 3, "label": label}
    axes.errorbar(list(found), value, (value - low, high - value), fmt=MARKERS[style], **look)


def fitted_line(axes: Axes, cells: Mapping[float, Sequence[float]]) -> None:
    """Draw the power of x that `statistics.slope` fits."""
    x = list(cells)
    power, start = np.polyfit(np.log(x), np.log([np.mean(cell) for cell in cells.values()]), 1)
    label = f"fit: slope {power:.2f}".replace("-", "−")
    axes.plot(x, np.exp(start) * np.power(x, power), color=LINES[0], linewidth=1.2, label=label)


def dashed(axes: Axes, x: Sequence[float], y: Sequence[float], label: str) -> None:
    """Draw what the paper states, as a grey dashed line."""
    axes.plot(x, y, "--", color=GREY, label=label, linewidth=1.2)


def rate_line(axes: Axes, runs: pd.DataFrame, label: str = RATE) -> None:
    """Draw the least rate of the runs across the axes."""
    axes.axhline(runs.rate.min(), color=GREY, linestyle=":", label=label)


def log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis of errors with plain numbers."""
    low, high = axis.get_view_interval()
    if high < 1000 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def against(axes: Axes, label: str, ticks: Sequence[float]) -> None:
    """Make both axes logarithmic, with ticks where the cells are."""
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel=ERROR)
    axes.set_xticks(ticks, [f"{tick:,.0f}".replace(",", " ") for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    log_ticks(axes.yaxis)


def by_round(figure: Figure | SubFigure, axes: Axes, label: str = "round t") -> None:
    """Label errors round by round, with the legend above."""
    axes.set(yscale="log", xlabel=label, ylabel=ERROR)
    log_ticks(axes.yaxis)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    legend_below(figure, axes)


def legend_below(figure: Figure | SubFigure, axes: Axes) -> None:
    """Put the legend where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    ncols = 2 if max(map(len, labels)) > 19 else 3
    figure.legend(handles, labels, loc="outside lower center", ncols=ncols)
