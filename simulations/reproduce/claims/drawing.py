"""Figures in one hand: colours, markers, axes, short names."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from flwr_byz import attacks

from ..engine import ATTACKS, AWAY, AWAY_AMONG_SHORT, NOBODY
from ..records import Errors

# Okabe and Ito's colours, which colour-blind readers tell apart, with a marker each.
BLUE, ORANGE, GREEN, PURPLE, BLACK, SKY, RED = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#000000",
    "#56B4E9",
    "#D55E00",
)
COLOURS = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, BLACK)
MARKERS = "os^Dv<>"
GREY = "#767676"
ERROR = "error ‖θ − θ*‖"
LOST = 1e9  # drawn in place of infinity


TITLES = {
    AWAY: "away from θ*",
    AWAY_AMONG_SHORT: "away from θ*, short",
    NOBODY: "nobody attacks",
    repr(attacks.BatchTakeover()): "takeover",
    repr(attacks.BatchTakeover(0.5)): "takeover, r = ½",
    repr(attacks.SignFlip(10.0)): "sign flip × 10",
    repr(attacks.GaussianNoise(200.0)): "noise, σ = 200",
    repr(attacks.InnerProductManipulation(0.5)): "inner product × −½",
    repr(attacks.ALittleIsEnough()): "a little is enough",
    repr(attacks.Adaptive()): "adaptive",
    repr(attacks.LabelFlip()): "flipped labels",
    repr(attacks.FangTrimmedMean()): "Fang: trimmed mean",
    repr(attacks.ModelReplacement(10.0, server_learning_rate=0.5)): "model replacement",
}


def title(attack: str) -> str:
    """Return a short name of an attack for a figure."""
    made = ATTACKS.get(attack)
    if attack in TITLES or made is None:
        return TITLES.get(attack, attack)
    if isinstance(made, attacks.BatchTakeover):
        along = "" if made.direction == "mean" else f", {made.direction}"
        return f"takeover, r = {made.radius:g}{along}"
    if isinstance(made, attacks.InnerProductManipulation):
        return f"inner product × −{made.epsilon:g}"
    return attack


def points(
    axes: Axes, x: Sequence[float], samples: Sequence[Errors], label: str, style: int = 0
) -> None:
    """Draw means with their 95 % intervals."""
    means = [sample.mean() for sample in samples]
    spread = [1.96 * sample.std(ddof=1) / np.sqrt(len(sample)) for sample in samples]
    axes.errorbar(
        x,
        means,
        spread,
        fmt=MARKERS[style],
        color=COLOURS[style],
        label=label,
        markersize=6,
        capsize=3,
    )


def fitted_line(axes: Axes, x: Sequence[float], samples: Sequence[Errors], style: int = 0) -> None:
    """Draw the power of x that `slope` fits."""
    y = np.log([sample.mean() for sample in samples])
    power, start = np.polyfit(np.log(x), y, 1)
    axes.plot(
        x,
        np.exp(start) * np.asarray(x) ** power,
        color=COLOURS[style],
        linewidth=1.2,
        label=f"fit: slope {power:.2f}".replace("-", "−"),
    )


def dashed(axes: Axes, x: Sequence[float], y: Sequence[float], label: str) -> None:
    """Draw what the paper says, as a grey dashed line."""
    axes.plot(x, y, "--", color=GREY, label=label, linewidth=1.2)


def log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis of errors with plain numbers."""
    low, high = axis.get_view_interval()
    if high < 1000 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def against(axes: Axes, x_label: str, ticks: Sequence[float]) -> None:
    """Draw the floor against a quantity, both logarithmic, with ticks where the cells are."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(list(ticks), [f"{tick:,.0f}".replace(",", " ") for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    log_ticks(axes.yaxis)
    axes.set_xlabel(x_label)
    axes.set_ylabel(ERROR)
    axes.legend(frameon=False, fontsize=9)


def by_round(figure: Figure, axes: Axes) -> None:
    """Label errors round by round, with the legend above."""
    axes.set_yscale("log")
    log_ticks(axes.yaxis)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("round t")
    axes.set_ylabel(ERROR)
    legend_above(figure, axes)


def legend_above(figure: Figure, axes: Axes) -> None:
    """Put the legend where it covers nothing."""
    handles = axes.get_legend_handles_labels()
    ncols = 2 if max(map(len, handles[1])) > 19 else 3
    figure.legend(*handles, loc="outside upper center", ncols=ncols, fontsize=9, frameon=False)
