"""What the adversary may do, where the rule breaks, and what else a server could do."""

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from clients.rules import GMOM
from clients.rules import title as rule_title
from clients.run import NO_ATTACK
from flwr_byz.pages import BLUE, VERMILION
from flwr_byz.theory import c_alpha, sharp_c_alpha

from . import drawing
from .claim import AWAY, Number, at_most_one, beside, boundary, by, paired, with_radius
from .drawing import ERROR, GREY, LINES, LOST, MARKERS, intervals
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


MOVING = {
    "greedy": "chosen by the data",
    "settled": "its last set, kept",
    "fresh": "fresh",
    "rotating": "rotating",
}


def judge_moving(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Compare sets that move with the bound, and with a fixed set placed blindly."""
    runs = below_bound(runs)
    cells = by(runs, "placement")
    fixed = cells["one per batch"]
    left, right = figure.subplots(1, 2)
    numbers = []
    for style, (placement, name) in enumerate(MOVING.items()):
        cell = cells[placement]
        found = {q: paired(each, fixed[fixed.q == q]) for q, each in by(cell, "q").items()}
        intervals(right, found, name, style)
        label = f"{name}: harm beside a fixed set placed blindly"
        numbers += [Number(f"{label}, q = {q}", str(each)) for q, each in found.items()]
        if placement != "settled":
            numbers.append(at_most_one(f"{label}, every q", paired(cell, fixed)))
    moving = runs[runs.placement.isin(["greedy", "fresh", "rotating"])]
    beside_bound = (moving.final / moving.bound).groupby(moving.q).max()
    left.plot(beside_bound, "o-", color=BLUE)
    left.set(xlabel="Byzantine clients q", ylim=(0, 1.05), ylabel="largest error beside C_α r")
    left.axhline(1, color=GREY, linestyle=":")
    right.axhline(1, color=GREY, linestyle=":")
    right.set(xlabel="Byzantine clients q", ylabel="harm beside a fixed set placed blindly")
    drawing.legend_below(figure, right)
    kept = paired(cells["greedy"], cells["settled"])
    label = f"{MOVING['settled']}: harm of the moving set beside it"
    return [
        held_below_bound("bound: q up to which every run ends below C_α r", moving),
        Number("largest error beside C_α r", f"{beside_bound.max():.2f}"),
        *numbers,
        Number(label, str(kept), "at most 1.02", kept.high <= 1.02),
    ]


def below_bound(runs: pd.DataFrame) -> pd.DataFrame:
    """Add C_α r of Lemma 1, α = q/k; where 2q ≥ k, for lack of one, the error at the start."""
    runs = with_radius(runs)
    start = runs["values"].str[0]
    held = 2 * runs.q < runs.k
    factor = (runs.q / runs.k).where(held, 0.0).map(c_alpha)
    return runs.assign(bound=(factor * runs.radius).where(held, start))


def held_below_bound(label: str, runs: pd.DataFrame) -> Number:
    """Say up to which q every run ends below its bound."""
    held = {q: bool((cell.final <= cell.bound).all()) for q, cell in by(runs, "q").items()}
    return boundary(label, held, f"up to q = {{}} of k = {runs.k.max()}", "every q < k/2")


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
    runs = below_bound(runs)
    below, fallen = runs[2 * runs.q < runs.k], runs[2 * runs.q >= runs.k]
    sharp = (below.q / below.k).map(sharp_c_alpha) * below.radius
    axes = figure.subplots()
    finals = runs.groupby(runs.q / runs.k).final.median().clip(upper=LOST)
    look = {"color": BLUE, "markersize": 5, "linewidth": 1.2, "label": "under attack"}
    axes.plot(finals.index, finals, "o-", **look)
    for bound, line, name in ((below.bound, "--", "C_α r"), (sharp, "-.", "(1−α)/√(1−2α) r")):
        least = bound.groupby(below.q / below.k).min()
        axes.plot(least, line, color=GREY, linewidth=1.2, label=f"{name}, α = q/k")
    axes.axvline(0.5, color=GREY, linestyle=":", label="q = k/2")
    axes.set(yscale="log", xlabel="Byzantine clients beside batches, q/k", ylabel=f"final {ERROR}")
    axes.legend(loc="center left")
    found = held_below_bound("q up to which every run ends below C_α r", runs)
    meant = found.where == f"up to q = {below.q.max()} of k = {runs.k.max()}"
    return [
        replace(found, holds=meant),
        shared("2q ≥ k: {} that end further off than they began", ends_worse(fallen), 1),
        Number("largest error beside C_α r", f"{(below.final / below.bound).max():.2f}"),
        Number("largest error beside (1−α)/√(1−2α) r", f"{(below.final / sharp).max():.2f}"),
    ]


def judge_selection(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Follow each rule's worst attack in q, up to where runs end further off than they began."""
    runs = runs.assign(final=runs.final.clip(upper=LOST))
    worst = runs.groupby(["rule", "q", "attack"]).final.transform("median")
    runs = runs[worst == worst.groupby([runs.rule, runs.q]).transform("max")]
    axes = figure.subplots()
    numbers = []
    cells = by(runs, "rule")
    for style, (rule, cell) in enumerate(cells.items()):
        name = rule_title(str(rule)).removesuffix(", untrimmed")
        medians = cell.groupby("q").final.median()
        look = {"color": LINES[style], "markersize": 5, "linewidth": 1.2, "label": name}
        axes.plot(medians, MARKERS[style] + "-", **look)
        held = {q: not ends_worse(each).any() for q, each in by(cell, "q").items()}
        label = f"{name}: q up to which every run ends nearer to θ* than it began"
        numbers.append(boundary(label, held, "up to q = {}", "every q < m/2"))
    start, m = runs["values"].str[0].median(), runs.num_clients.max()
    axes.axhline(start, color=GREY, linestyle=":", label="at the start")
    for part in (3, 2):
        axes.axvline(m / part, color=GREY, linestyle="--", linewidth=0.8)
        axes.annotate(f"m/{part}", (m / part, runs.final.min()))
    axes.set(yscale="log", xlabel="Byzantine clients q", ylabel=f"final {ERROR}, worst attack")
    drawing.legend_below(figure, axes)
    short = cells["SmallestNorms"]
    median = next(cell for rule, cell in cells.items() if str(rule).startswith(GMOM))
    for q, cell in by(short[short.attack == "AwayAmongShort"], "q").items():
        if 4 * q <= m:
            found = paired(cell, median[median.q == q])
            numbers.append(Number(f"shortest beside the median's worst, q = {q}", str(found)))
    return numbers


def judge_attacks(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Rank the attacks by their floor."""
    clean = runs[runs.attack == NO_ATTACK]
    attacked = runs[runs.attack != NO_ATTACK]
    floors = attacked.groupby(["attack", "placement"]).final.mean().sort_values(ascending=False)
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
    drawing.legend_below(figure, axes)
    numbers = []
    for placement, cell in by(attacked, "placement").items():
        means = cell.groupby("attack").final.mean().drop(AWAY)
        strongest = cell[cell.attack == means.idxmax()]
        found = paired(strongest, cell[cell.attack == AWAY])
        label = f"{placement}: strongest other attack ({drawing.title(str(means.idxmax()))})"
        label += " beside the one that the sweeps use"
        numbers.append(Number(label, str(found), "at most 1", found.high <= 1))
    used = attacked[(attacked.attack == AWAY) & (attacked.placement == "one per batch")]
    return [
        *numbers,
        Number("attacks and placements tried", str(len(floors))),
        Number("harm: floor under attack beside no attack", str(beside(used, clean))),
    ]
