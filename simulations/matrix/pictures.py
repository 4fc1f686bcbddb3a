"""What the pictures of a matrix show; each is drawn from a study alone."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LogNorm, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from clients.experiments import AttackName

from ..picture import ATTACKS, DIVERGED
from .engine import NOBODY
from .findings import Comparison, Option, Place, Study, Value, is_own, is_stock
from .rules import RuleName
from .words import OURS, number, split_title, worst_in_words

COLOURS: Mapping[RuleName, str] = {
    "fedavg": "#D55E00",
    "fedmedian": "#E69F00",
    "fedtrimmedavg": "#CC79A7",
    "krum": "#F0E442",
    "multi-krum": "#56B4E9",
    "bulyan": "#999999",
    "random-subset": "#BBBBBB",
    "small-norms": "#BBBBBB",
    "geometric-median": "#000000",
    "ours": "#0072B2",
    "ours-rebucketed": "#009E73",
}
"""Okabe and Ito's, with greys; those that are drawn as lines together differ."""

STOPPED = "†"
PARTIAL = "*"
IN_SIGHT = 10
"""Times the error that training begins with: more is out of a picture, or of its darkest colour."""

_CELL = (0.74, 0.4)  # inches
_LETTER = 0.07  # inches, about
_CHART = 5.4  # inches


def worst_cases(study: Study, split: str, attacks: Sequence[AttackName]) -> Figure:
    """Draw the worst case of each rule for each q as a heat map; its peace where q is 0."""

    def cell(option: Option, q: int) -> tuple[Value | None, str]:
        if q == 0:
            return study.value(Place(option, split, q, NOBODY)), ""
        worst = study.worst(option, split, q, attacks)
        if worst is None:
            return None, ""
        is_stopped = study.is_stopped(Place(option, split, q, worst.attack))
        is_whole = study.is_whole(option, split, q, attacks)
        return worst.value, (STOPPED if is_stopped else "") + ("" if is_whole else PARTIAL)

    return _heat_map(
        study,
        [option.title for option in study.options],
        [f"q = {q}" if q else "q = 0\n(peace)" for q in study.qs],
        [[cell(option, q) for q in study.qs] for option in study.options],
        split_title(split),
    )


def attacks_by_rules(study: Study, split: str) -> Figure:
    """Draw every rule under every attack at one q as a heat map, nobody attacking first."""

    def cell(option: Option, attack: AttackName) -> tuple[Value | None, str]:
        place = Place(option, split, study.q, attack)
        is_whole = study.is_whole(option, split, study.q, [attack])
        value = study.value(place)
        marks = (STOPPED if study.is_stopped(place) else "") + ("" if is_whole else PARTIAL)
        return value, marks if value else ""

    rows: list[AttackName] = [NOBODY, *study.attacks]
    return _heat_map(
        study,
        [ATTACKS[attack] for attack in rows],
        [option.title.replace(", ", ",\n").replace(" + ", "\n+ ") for option in study.options],
        [[cell(option, attack) for option in study.options] for attack in rows],
        _title(study, split),
    )


def lines_of(study: Study, split: str) -> list[Option]:
    """Return the rules that are drawn over rounds: FedAvg, ours, and the best of each."""
    attacks = study.well_formed
    stock = study.ranking(split, study.q, attacks, is_stock)
    own = study.ranking(split, study.q, attacks, is_own)
    wanted = [Option("fedavg"), *(o for o, _ in stock[:1]), OURS, *(o for o, _ in own[:1])]
    return [option for option in dict.fromkeys(wanted) if option in study.options]


def rounds(study: Study, split: str) -> Figure:
    """Draw a few rules over rounds: in peace, and each under its own worst well-formed attack."""
    figure = plt.figure(figsize=(_CHART, 5.6), layout="constrained")
    axes = figure.subplots()
    drawn = []
    for option in lines_of(study, split):
        peace = Place(option, split, study.q, NOBODY)
        _curve(axes, study, peace, in_peace=True)
        if worst := study.worst(option, split, study.q, study.well_formed):
            place = peace._replace(attack=worst.attack)
            _curve(axes, study, place, in_peace=False)
            told = f"{option.title}: {worst_in_words(study, worst)}"
            drawn.append(Line2D([], [], **_style(option), label=told.replace(" under", "\nunder")))
    drawn.append(Line2D([], [], color="#555555", lw=1.1, ls="--", label="with nobody attacking"))
    axes.set_title(_title(study, split), loc="left", fontsize=11)
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0, 1.01 * study.rounds)
    axes.grid(alpha=0.25)
    if study.measure == "accuracy":
        axes.set_ylim(0, 100)
        axes.set_ylabel("accuracy on held-out images, %")
    else:
        axes.set_yscale("log")
        axes.set_ylim(top=_most_in_sight(study))
        axes.set_ylabel("error ‖θ − θ*‖ (log scale)")
    _bare(axes)
    figure.legend(handles=drawn, loc="outside lower left", frameon=False, fontsize=8.5)
    return figure


def effects(study: Study, split: str) -> Figure:
    """Draw by how much client momentum and re-bucketing make rules better."""
    shown = study.effects(split, study.q)
    figure = plt.figure(figsize=(_CHART, 1.5 + 0.55 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for row, effect in enumerate(shown):
        for shift, comparison, face in ((-0.13, effect.peace, "white"), (0.13, effect.worst, None)):
            _change(axes, row + shift, comparison, COLOURS[effect.option.rule], face)
    titles = [f"{effect.option.title}\nagainst {effect.base.title}" for effect in shown]
    axes.set_yticks(range(len(shown)), titles, fontsize=8.5)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.axvline(0, color="#555555", lw=1)
    if study.measure == "accuracy":
        axes.set_xlabel("← worse · points of accuracy · better →")
    else:
        axes.set_xscale("symlog", linthresh=0.01)
        axes.set_xlabel("← worse · by how much the error is less · better →")
    axes.grid(axis="x", alpha=0.25)
    axes.set_title(_title(study, split), loc="left", fontsize=11)
    _bare(axes)
    point = {"marker": "o", "ls": "", "color": "#555555"}
    figure.legend(
        handles=[
            Line2D([], [], **point, markerfacecolor="white", label="with nobody attacking"),
            Line2D([], [], **point, label="each in its worst well-formed attack"),
        ],
        loc="outside lower center",
        ncol=2,
        frameon=False,
        fontsize=8.5,
    )
    return figure


def server_times(study: Study) -> Figure:
    """Draw the server's milliseconds for a round, a bar for each rule."""
    timed = [(option, ms) for option in study.options if (ms := study.server_ms(option))]
    figure = plt.figure(figsize=(_CHART, 0.9 + 0.32 * len(timed)), layout="constrained")
    axes = figure.subplots()
    for row, (option, ms) in enumerate(timed):
        axes.barh(row, ms.mean, color=COLOURS[option.rule], height=0.7, alpha=0.6)
        if ms.number > 1:
            axes.plot([ms.least, ms.most], [row, row], color="#1b1b1b", lw=1.2)
        spread = f" ({ms.least:.3g}–{ms.most:.3g})" if ms.number > 1 else ""
        axes.annotate(
            f"{ms.mean:.3g}{spread}",
            (ms.most, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
        )
    axes.set_yticks(range(len(timed)), [option.title for option, _ in timed], fontsize=9)
    axes.set_ylim(len(timed) - 0.5, -0.5)
    axes.set_xlim(0, 1.6 * max((ms.most for _, ms in timed), default=1.0))
    axes.set_xlabel("milliseconds a round at the server")
    _bare(axes)
    return figure


def _title(study: Study, split: str) -> str:
    return f"{split_title(split)}, q = {study.q} of {study.m}"


def _heat_map(
    study: Study,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Sequence[Sequence[tuple[Value | None, str]]],
    title: str,
) -> Figure:
    """Draw values, each with its spread and marks, a light colour where they are good."""
    width = _CELL[0] * len(columns) + _LETTER * max(map(len, rows)) + 0.4
    height = _CELL[1] * len(rows) + 1.1
    figure = plt.figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    scale, colours = _scale(study), _colours(study)
    means = np.array([[value.mean if value else np.nan for value, _ in row] for row in cells])
    shown = np.ma.masked_invalid(np.clip(means, scale.vmin, scale.vmax))
    axes.set_facecolor("#eeeeee")
    axes.pcolormesh(shown, norm=scale, cmap=colours, edgecolors="white", linewidth=1)
    for y, row in enumerate(cells):
        for x, (value, marks) in enumerate(row):
            if value is None:
                axes.text(x + 0.5, y + 0.5, "–", ha="center", va="center", color="#5a5a5a")
                continue
            ink = _ink(colours(scale(shown[y, x])))
            mean = number(study.measure, value.mean) + marks
            middle = 0.5 if value.number == 1 else 0.36
            place = {"ha": "center", "va": "center", "color": ink, "in_layout": False}
            axes.text(x + 0.5, y + middle, mean, fontsize=8, **place)
            if value.number > 1:
                ends = (number(study.measure, end, 2) for end in (value.least, value.most))
                axes.text(x + 0.5, y + 0.73, "–".join(ends), fontsize=5.8, **place)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, fontsize=8)
    if len(max("\n".join(columns).split("\n"), key=len)) > 8:
        axes.tick_params("x", labelrotation=60)
        for label in axes.get_xticklabels():
            label.set(ha="left", rotation_mode="anchor")
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows, fontsize=8.5)
    axes.tick_params(length=0, labelbottom=False, labeltop=True)
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _scale(study: Study) -> Normalize:
    """Return the scale of colours, one for all heat maps of a study."""
    if study.measure == "accuracy":
        return PowerNorm(3, 0, 100)
    means = [value.mean for place in study.outcomes if (value := study.value(place))]
    most = _most_in_sight(study)
    shown = [mean for mean in means if 0 < mean <= most] or [most]
    return LogNorm(min(shown), max(*shown, 2 * min(shown)))


def _most_in_sight(study: Study) -> float:
    """Return the error beyond which a model is lost, for readers."""
    begun = [study.curves(place)[:, 0].max() for place in study.outcomes]
    return float(IN_SIGHT * max(begun, default=1.0))


def _colours(study: Study) -> Colormap:
    return plt.get_cmap("viridis" if study.measure == "accuracy" else "viridis_r")


def _ink(paper: Sequence[float]) -> str:
    """Return black or white, whichever has more contrast (WCAG's relative luminance)."""
    luminance = np.dot([0.2126, 0.7152, 0.0722], np.power(paper[:3], 2.2))
    return "black" if luminance > 0.18 else "white"


def _style(option: Option) -> dict[str, object]:
    marker = {"marker": "o", "ms": 4} if option.momentum else {}
    return {"color": COLOURS[option.rule], "lw": 2.2, **marker}


def _curve(axes: Axes, study: Study, place: Place, in_peace: bool) -> None:
    """Draw mean and band over seeds."""
    curves = study.curves(place)
    if not len(curves):
        return
    curves = np.minimum(curves, DIVERGED)
    style = _style(place.option)
    if in_peace:
        style |= {"lw": 1.1, "ls": "--", "ms": 2.5}
    number_of_rounds = np.arange(curves.shape[1])
    axes.plot(number_of_rounds, curves.mean(axis=0), markevery=5, **style)
    if len(curves) > 1:
        axes.fill_between(
            number_of_rounds,
            curves.min(axis=0),
            curves.max(axis=0),
            color=style["color"],
            alpha=0.08 if in_peace else 0.18,
            linewidth=0,
        )


def _change(
    axes: Axes, row: float, comparison: Comparison | None, colour: str, face: str | None
) -> None:
    """Draw a gain and its spread, if it is finite."""
    if comparison is None:
        return
    gain = comparison.gain
    if not all(map(math.isfinite, (gain.mean, gain.least, gain.most))):
        return
    axes.plot([gain.least, gain.most], [row, row], color=colour, lw=2)
    axes.plot(gain.mean, row, "o", color=colour, ms=7, markerfacecolor=face or colour)


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
