"""What the adversary may do, where the rule breaks, and what else a server could do."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from clients.rules import GMOM
from clients.rules import title as rule_title
from clients.run import NO_ATTACK
from flwr_byz.pages import BLUE, VERMILION
from flwr_byz.theory import c_alpha

from . import drawing
from .claim import AWAY, Number, at_most_one, beside, by, errors, largest_contraction
from .drawing import ERROR, GREY, LINES, LOST, MARKERS, RATE
from .statistics import share


def ends_worse(runs: pd.DataFrame) -> pd.Series:
    """Return which runs end further off than they began."""
    return runs.final > runs["values"].str[0]


def shared(label: str, hits: pd.Series, wanted: int) -> Number:
    """Compare a share of runs with none or all of them."""
    found = share(hits)
    label = label.format(f"share of {found.num_runs} runs")
    return Number(label, str(found), str(wanted), found.value == wanted)


def judge_mean(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Count the runs that end further off than they began."""
    axes = figure.subplots()
    names = {1: "mean (k = 1)", 4: "geometric median of means (k = 4)"}
    attacks = list(by(runs, "attack"))
    for k, style in ((1, 1), (4, 0)):
        finals = runs[runs.k == k].groupby("attack").final.median().clip(upper=LOST)
        marker = {"color": LINES[style], "markersize": 8, "label": names[k]}
        axes.plot(range(len(finals)), finals, MARKERS[style], **marker)
    start = runs["values"].str[0].median()
    axes.axhline(start, color=GREY, linestyle=":", label="at the start")
    axes.set_xticks(range(len(attacks)), map(drawing.folded, attacks))
    axes.set(yscale="log", xlim=(-0.5, len(attacks) - 0.5), ylabel=ERROR)
    axes.set_ylim(top=LOST * 100)
    axes.legend()
    worse = {k: ends_worse(cell) for k, cell in by(runs, "k").items()}
    return [
        shared("mean: {} that end further off than they began", worse[1], 1),
        shared("geometric median of means: {} that do", worse[4], 0),
    ]


def judge_moving(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Compare moving sets with a fixed one."""
    cells = by(runs, "placement")
    axes = figure.subplots()
    for style, placement in enumerate(("one per batch", "fresh", "rotating")):
        look = {"color": LINES[style], "markersize": 4, "linewidth": 1.2}
        name = "fixed, one per batch" if style == 0 else placement
        values = errors(cells[placement]).mean(axis=0)
        axes.plot(values, MARKERS[style] + "-", label=name, **look)
    drawing.rate_line(axes, runs)
    drawing.by_round(figure, axes)
    floors = {p: beside(cells[p], cells["one per batch"]) for p in ("fresh", "rotating")}
    return [
        *(at_most_one(f"floor, {place}, beside fixed", floor) for place, floor in floors.items()),
        largest_contraction(runs),
    ]


def judge_corrupted(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Compare corrupted data with the worst replies and with no attack."""
    shown = {
        NO_ATTACK: "no attack",
        "LabelFlip": "labels of q clients\nflipped",
        AWAY: "q clients send\nthe worst",
    }
    clean, flipped, away = (runs[runs.attack == attack] for attack in shown)
    finals = [cell.final for cell in (clean, flipped, away)]
    axes = figure.subplots()
    look = {"whis": (0, 100), "widths": 0.5, "medianprops": {"color": VERMILION}}
    axes.boxplot(finals, tick_labels=list(shown.values()), **look)
    drawing.rate_line(axes, runs)
    axes.set_ylabel(f"final {ERROR}")
    axes.set_ylim(bottom=0)
    axes.legend()
    return [
        at_most_one("floor with corrupted data beside the worst replies", beside(flipped, away)),
        Number("floor with corrupted data beside no attack", str(beside(flipped, clean))),
    ]


def judge_breakdown(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """See that the bound holds below half of the batches, and nothing from there on."""
    runs = runs.assign(share=runs.q / runs.k)
    held, fallen = runs[runs.share < 0.5], runs[runs.share >= 0.5]
    bound = held.share.map(c_alpha) * held.rate
    axes = figure.subplots()
    finals = runs.groupby("share").final.median().clip(upper=LOST)
    look = {"color": BLUE, "markersize": 5, "linewidth": 1.2, "label": "under attack"}
    axes.plot(finals.index, finals, "o-", **look)
    bounds = bound.groupby(held.share).max()
    drawing.dashed(axes, list(bounds.index), list(bounds), f"C_α {RATE}, α = q/k")
    axes.axvline(0.5, color=GREY, linestyle=":", label="breakdown, q = k/2")
    axes.set(yscale="log", xlabel="Byzantine clients beside batches, q/k", ylabel=f"final {ERROR}")
    axes.legend(loc="center left")
    return [
        shared("2q < k: {} below C_α √(dk/N)", held.final <= bound, 1),
        shared("2q ≥ k: {} that end further off than they began", ends_worse(fallen), 1),
    ]


def judge_selection(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Compare the worst that can happen to each rule."""
    runs = runs.assign(final=runs.final.clip(upper=LOST))
    medians = runs.groupby(["rule", "attack"]).final.median().unstack()
    median = runs[runs.k == 4 * runs.q]
    base = median.rule.iloc[0]
    worst = {
        rule: runs[(runs.rule == rule) & (runs.attack == attack)]
        for rule, attack in medians.idxmax(axis="columns").items()
    }
    edge = median.rate.iloc[0]
    places = np.arange(len(medians.columns))
    axes = figure.subplots()
    for style, (rule, finals) in enumerate(medians.iterrows()):
        look = {"color": LINES[style], "markersize": 6, "label": rule_title(str(rule))}
        axes.plot(finals.clip(upper=edge), places + 0.15 * (style - 1.5), MARKERS[style], **look)
    axes.set_yticks(places, map(drawing.title, medians.columns))
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.05 * edge), xlabel=f"final {ERROR}")
    axes.axvline(edge, color=GREY, linestyle=":", label=f"{RATE} and beyond")
    drawing.legend_above(figure, axes)
    numbers = []
    for rule, cell in worst.items():
        label = (
            f"{rule_title(rule)}: worst floor ({drawing.title(cell.attack.iloc[0])}) beside k = 4q"
        )
        found = beside(cell, worst[base])
        lost = cell.final.median() > cell["values"].str[0].median()
        value = "the model is lost" if lost else str(found)
        asked = not rule.startswith(GMOM)
        wanted, holds = ("at most 1", found.high <= 1) if asked else ("", None)
        numbers.append(Number(label, value, wanted, holds))
    return numbers


def judge_attacks(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Rank the attacks by their floor."""
    clean = runs[runs.attack == NO_ATTACK]
    attacked = runs[runs.attack != NO_ATTACK]
    used = attacked[(attacked.attack == AWAY) & (attacked.placement == "one per batch")]
    floors = attacked.groupby(["attack", "placement"]).final.mean().sort_values(ascending=False)
    attack, placement = next(case for case in floors.index if case[0] != AWAY)
    other = attacked[(attacked.attack == attack) & (attacked.placement == placement)]
    shown = floors[:14]
    axes = figure.subplots()
    names = [drawing.title(attack) for attack, _ in shown.index] + [drawing.title(NO_ATTACK)]
    places = np.arange(len(names))
    for colour, where in zip(LINES, sorted(set(attacked.placement)), strict=False):
        at = shown.index.get_level_values("placement") == where
        if at.any():
            axes.barh(places[:-1][at], shown[at], color=colour, label=where)
    axes.barh(places[-1:], clean.final.mean(), color=GREY)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlabel(ERROR)
    drawing.legend_above(figure, axes)
    found = beside(other, used)
    name = f"{drawing.title(attack)}, {placement}"
    label = f"strongest other attack ({name}) beside the one that the sweeps use"
    return [
        Number(label, str(found), "at most 1", found.high <= 1),
        Number("attacks and placements tried", str(len(floors))),
        Number("harm: floor under attack beside no attack", str(beside(used, clean))),
    ]
