"""The pictures of a report; each is drawn from a study alone."""

import itertools
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import Colormap, LogNorm, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from flwr_byz.pages import BLUE, COLOURS, STYLE, VERMILION

from .tables import Study

IN_SIGHT = 10
"""Times the error that training begins with: lines leave the picture there, colours end."""

_LINES = [VERMILION, BLUE, *(c for c in COLOURS if c not in (VERMILION, BLUE, "#F0E442"))]
_CELL = 0.74, 0.4  # inches
_LETTER = 0.068  # inches, about
_POINTS = 400  # of a line over time


@mpl.rc_context(STYLE)
def heat_map(
    study: Study, cells: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], title: str
) -> Figure:
    """Draw cells as `tables.laid_out` returns them, the better the lighter."""
    row_names, column_names = ([_folded(name) for name in names] for names in (rows, columns))
    is_long = _longest(column_names) > 8
    width = _CELL[0] * len(columns) + _LETTER * _longest(row_names) + 0.4
    height = _CELL[1] * len(rows) + 0.5 + (_LETTER * _longest(column_names) if is_long else 0.2)
    figure = Figure((width, height))
    axes = figure.subplots()
    scale, colours = _scale(study)
    shown = np.full((len(rows), len(columns)), np.nan)
    for cell in cells.itertuples():
        y, x = rows.index(cell.row), columns.index(cell.column)
        shown[y, x] = np.clip(cell.mean, scale.vmin, scale.vmax)
        light = np.dot([0.2126, 0.7152, 0.0722], np.power(colours(scale(shown[y, x]))[:3], 2.2))
        style = {"ha": "center", "va": "center", "in_layout": False}
        style["color"] = "black" if light > 0.18 else "white"
        weight, middle = "bold" if cell.best else "normal", 0.36 if cell.spread else 0.5
        axes.text(x + 0.5, y + middle, cell.brief, fontsize=8, weight=weight, **style)
        axes.text(x + 0.5, y + 0.73, cell.spread, fontsize=5.8, **style)
    axes.set_facecolor("#eeeeee")
    masked = np.ma.masked_invalid(shown)
    axes.pcolormesh(masked, norm=scale, cmap=colours, edgecolors="white", linewidth=1)
    turned = {"rotation": 60, "ha": "left", "rotation_mode": "anchor"} if is_long else {}
    axes.set_xticks(np.arange(len(columns)) + 0.5, column_names, fontsize=8, **turned)
    axes.set_yticks(np.arange(len(rows)) + 0.5, row_names, fontsize=8.5)
    axes.tick_params(length=0, labelbottom=False, labeltop=True)
    axes.invert_yaxis()
    axes.grid(False)
    axes.spines[:].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


@mpl.rc_context(STYLE)
def rounds(study: Study, panels: Mapping[str, pd.DataFrame], options: Sequence[str]) -> Figure:
    """Draw the measure over rounds: a panel for each title, a line for each of its cells with runs.

    Lines are means over seeds, bands go from the least to the most.
    """
    figure = _panels(study, panels, options, lambda runs: pd.DataFrame(list(runs["values"])))
    for axes in figure.axes:
        axes.set(xlabel="round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


@mpl.rc_context(STYLE)
def over_time(study: Study, panels: Mapping[str, pd.DataFrame], options: Sequence[str]) -> Figure:
    """Draw the measure over simulated time, as `rounds` does."""
    figure = _panels(study, panels, options, _over_time)
    for axes in figure.axes:
        axes.set(xlabel="time", xscale="log")
        axes.xaxis.set_major_formatter("{x:g}")
    return figure


def _over_time(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each run: its values at the times that all of the runs have come to."""
    times = [np.array(each)[np.isfinite(each)] for each in runs.times]
    if not (ends := [each[1:] for each in times if len(each) > 1]):
        return pd.DataFrame()
    last = min(each[-1] for each in ends)
    shown = np.geomspace(min(max(each[0] for each in ends), last), last, _POINTS)
    curves = zip(times, runs["values"], strict=True)
    found = [np.array(v)[np.searchsorted(t, shown, side="right") - 1] for t, v in curves]
    return pd.DataFrame(found, columns=shown)


def _panels(
    study: Study,
    panels: Mapping[str, pd.DataFrame],
    options: Sequence[str],
    curves_of: Callable[[pd.DataFrame], pd.DataFrame],
) -> Figure:
    """Draw a panel for each title, with a line for each of its cells that has runs."""
    kept = {name: c[c.option.isin(options) & (c.seeds > 0)] for name, c in panels.items()}
    kept = {name: cells for name, cells in kept.items() if len(cells)}
    cases = [case for cells in kept.values() for case in cells.itertuples()]
    places = {case.column: (options.index(case.option), case.column) for case in cases}
    colours = dict(zip(sorted(places, key=places.__getitem__), itertools.cycle(_LINES)))
    across = min(4, max(1, len(kept)))
    down = max(1, math.ceil(len(kept) / across))
    figure = Figure((max(5.4, 2.9 * across), 0.9 + 2.6 * down + 0.2 * len(colours) / across))
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for axes, (name, cells) in zip(grid.flat, kept.items(), strict=False):
        axes.set(title=name)
        for case in cells.itertuples():
            curves = curves_of(study.runs_of(case))
            curves = curves.clip(upper=1e3 * _most(study))  # infinity cannot be drawn
            colour = colours[case.column]
            axes.plot(curves.columns, curves.mean(), color=colour)
            ends = curves.columns, curves.min(), curves.max()
            axes.fill_between(*ends, color=colour, alpha=0.15, linewidth=0)
    for axes in grid.flat[len(kept) :]:
        axes.set_visible(False)
    if study.measure == "accuracy":
        grid[0, 0].set(ylim=(0, 1.02))
        grid[0, 0].yaxis.set_major_formatter(PercentFormatter(1.0))
    else:
        grid[0, 0].set(yscale="log")
        grid[0, 0].set_ylim(top=_most(study))
    for axes in grid[:, 0]:
        axes.set_ylabel(study.measure)
    lines = [Line2D([], [], color=colour, label=label) for label, colour in colours.items()]
    figure.legend(handles=lines, loc="outside lower left", ncols=across)
    return figure


def _folded(name: str) -> str:
    return textwrap.fill(name, 24, break_long_words=False, break_on_hyphens=False)


def _longest(names: Sequence[str]) -> int:
    return max(len(line) for name in names for line in name.split("\n"))


def _scale(study: Study) -> tuple[Normalize, Colormap]:
    """Return the scale of colours, one for all heat maps of a study."""
    if study.measure == "accuracy":
        return PowerNorm(3, 0, 1), mpl.colormaps["viridis"]
    most, means = _most(study), study.cells["mean"]
    least = means[means > 0].min()
    return LogNorm(least if least < most else most / 10, most), mpl.colormaps["viridis_r"]


def _most(study: Study) -> float:
    """Return the most that is drawn."""
    begun = [values[0] for values in study.runs["values"] if values and math.isfinite(values[0])]
    return 1.0 if study.measure == "accuracy" else IN_SIGHT * max(begun, default=1.0)
