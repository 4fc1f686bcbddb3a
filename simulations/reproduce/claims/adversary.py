"""What the adversary may do, where the rule breaks, and what else a server could do."""

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from flwr_byz import attacks
from flwr_byz.theory import c_alpha, contraction

from ..engine import ATTACKS, AWAY, AWAY_AMONG_SHORT, NOBODY, Cell, Placement, RuleName
from ..statistics import contractions, estimate, ratio, share
from .claim import BASE, PLACEMENTS, REAL, Claim, Number, Plan, Runs, ends, per_cell
from .drawing import (
    BLUE,
    COLOURS,
    ERROR,
    GREY,
    LOST,
    MARKERS,
    RED,
    by_round,
    dashed,
    legend_above,
    title,
)

MEAN_ATTACKS = (
    AWAY,
    repr(attacks.InnerProductManipulation(100.0)),
    repr(attacks.GaussianNoise(200.0)),
    repr(attacks.ModelReplacement(10.0, server_learning_rate=0.5)),
)


def mean_cell(attack: str, k: int) -> Cell:
    """Return the cell of one Byzantine client."""
    return replace(BASE, q=1, k=k, attack=attack)


def plan_mean() -> Plan:
    """Plan the mean and the median under one Byzantine client."""
    return per_cell([mean_cell(a, k) for a in MEAN_ATTACKS for k in (1, 4)], 250)


def judge_mean(runs: Runs, figure: Figure) -> list[Number]:
    """Count the runs that end further off than they began."""
    axes = figure.subplots()
    worse = {}
    for k, style in ((1, 1), (4, 0)):
        cells = [mean_cell(attack, k) for attack in MEAN_ATTACKS]
        finals = np.array([np.median(runs[cell][:, -1]) for cell in cells])
        axes.plot(
            range(len(cells)),
            np.minimum(finals, LOST),
            MARKERS[style],
            color=COLOURS[style],
            label="mean (k = 1)" if k == 1 else "geometric median of means (k = 4)",
            markersize=8,
        )
        worse[k] = share(
            sum(int((runs[c][:, -1] > runs[c][:, 0]).sum()) for c in cells),
            sum(len(runs[c]) for c in cells),
        )
    start = float(np.median(runs[cells[0]][:, 0]))
    axes.axhline(start, color=GREY, linestyle=":", label="at the start")
    labels = [title(a).replace(", ", ",\n").replace(" × ", "\n× ") for a in MEAN_ATTACKS]
    axes.set_xticks(range(len(MEAN_ATTACKS)), [x.replace(" r", "\nr") for x in labels], fontsize=9)
    axes.set_yscale("log")
    axes.set_ylim(top=LOST * 100)
    axes.set_xlim(-0.5, len(MEAN_ATTACKS) - 0.5)
    axes.set_ylabel(ERROR)
    axes.legend(frameon=False, fontsize=9)
    return [
        Number(
            f"mean: share of {worse[1].num_runs} runs that end further off than they began",
            str(worse[1]),
            "1",
            worse[1].value == 1,
        ),
        Number(
            f"geometric median of means: the same, {worse[4].num_runs} runs",
            str(worse[4]),
            "0",
            worse[4].value == 0,
        ),
    ]


ONE_BYZANTINE = Claim(
    "mean",
    "One Byzantine client",
    "section 2.1",
    "One client is enough to ruin plain gradient descent, and does not harm the median.",
    f"{REAL} m = 32, q = 1, N/m = 200, d = 20.",
    plan_mean,
    judge_mean,
)


MOVING: tuple[Placement, ...] = ("one per batch", "fresh each round", "rotating")


def plan_moving() -> Plan:
    """Plan fixed and moving Byzantine sets."""
    return per_cell([replace(BASE, placement=placement) for placement in MOVING], 500)


def judge_moving(runs: Runs, figure: Figure) -> list[Number]:
    """Compare moving sets with a fixed one."""
    axes = figure.subplots()
    fixed, *moving = cells = [replace(BASE, placement=placement) for placement in MOVING]
    for style, cell in enumerate(cells):
        name = "fixed, one per batch" if cell is fixed else cell.placement
        axes.plot(
            runs[cell].mean(axis=0),
            MARKERS[style] + "-",
            color=COLOURS[style],
            label=name,
            markersize=4,
            linewidth=1.2,
        )
    axes.axhline(BASE.rate, color=GREY, linestyle=":", label="√(dk/N)")
    by_round(figure, axes)
    numbers = []
    for cell in moving:
        beside = estimate(ends(runs, [cell, fixed]), ratio)
        numbers.append(
            Number(
                f"floor, {cell.placement}, beside fixed, {beside.num_runs} runs",
                str(beside),
                "at most 1",
                beside.high <= 1,
            )
        )
    factors = np.concatenate([contractions(runs[cell]) for cell in cells])
    bound = contraction(1.0, 1.0)
    return [
        *numbers,
        Number(
            f"largest contraction of a round, {len(factors)} runs",
            f"{factors.max():.3f}",
            f"at most {bound:.3f}",
            bool(factors.max() <= bound),
        ),
    ]


MOVING_SETS = Claim(
    "moving",
    "Moving Byzantine sets",
    "section 1.2",
    "The set may be another one in each round, and nothing gets worse.",
    f"{REAL} m = 32, k = 16, q = 4, N/m = 200, d = 20.",
    plan_moving,
    judge_moving,
)


CORRUPTED = (NOBODY, repr(attacks.LabelFlip()), AWAY)


def plan_corrupted() -> Plan:
    """Plan runs with corrupted data, and what they stand beside."""
    return per_cell([replace(BASE, attack=attack) for attack in CORRUPTED], 500)


def judge_corrupted(runs: Runs, figure: Figure) -> list[Number]:
    """Compare corrupted data with lies and with peace."""
    axes = figure.subplots()
    calm, flipped, away = cells = [replace(BASE, attack=attack) for attack in CORRUPTED]
    axes.boxplot(
        ends(runs, cells),
        whis=(0, 100),
        widths=0.5,
        medianprops={"color": RED},
        tick_labels=["nobody", "labels of q clients\nflipped", "q clients send\nthe worst"],
    )
    axes.axhline(BASE.rate, color=GREY, linestyle=":", label="√(dk/N)")
    axes.set_ylabel("final " + ERROR)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    beside = estimate(ends(runs, [flipped, away]), ratio)
    return [
        Number(
            f"floor with corrupted data beside the worst lies, {beside.num_runs} runs",
            str(beside),
            "at most 1",
            beside.high <= 1,
        ),
        Number(
            "floor with corrupted data beside none",
            str(estimate(ends(runs, [flipped, calm]), ratio)),
        ),
    ]


CORRUPTED_DATA = Claim(
    "corrupted-data",
    "Corrupted data",
    "section 1.2",
    "The guarantee also covers q clients whose data are corrupted.",
    f"{REAL} m = 32, k = 16, q = 4, N/m = 200, d = 20.",
    plan_corrupted,
    judge_corrupted,
)


BREAKDOWN_SWEEP = [replace(BASE, q=q, attack=AWAY if q else NOBODY) for q in range(13)]


def judge_breakdown(runs: Runs, figure: Figure) -> list[Number]:
    """See that it holds below half of the batches, and that nothing holds from there on."""
    axes = figure.subplots()
    shares = [cell.q / cell.k for cell in BREAKDOWN_SWEEP]
    finals = [np.minimum(runs[cell][:, -1], LOST) for cell in BREAKDOWN_SWEEP]
    medians = [float(np.median(f)) for f in finals]
    axes.plot(shares, medians, "o-", color=BLUE, markersize=5, linewidth=1.2, label="under attack")
    held = [cell for cell in BREAKDOWN_SWEEP if 2 * cell.q < cell.k]
    fallen = [cell for cell in BREAKDOWN_SWEEP if 2 * cell.q >= cell.k]
    dashed(
        axes,
        [c.q / c.k for c in held],
        [c_alpha(c.q / c.k) * c.rate for c in held],
        "C_α √(dk/N), α = q/k",
    )
    axes.axvline(0.5, color=GREY, linestyle=":", label="breakdown, q = k/2")
    axes.set_yscale("log")
    axes.set_xlabel("Byzantine clients beside batches, q/k")
    axes.set_ylabel("final " + ERROR)
    axes.legend(frameon=False, fontsize=9, loc="center left")
    below = share(
        sum(int((runs[c][:, -1] <= c_alpha(c.q / c.k) * c.rate).sum()) for c in held),
        sum(len(runs[c]) for c in held),
    )
    lost = share(
        sum(int((runs[c][:, -1] > runs[c][:, 0]).sum()) for c in fallen),
        sum(len(runs[c]) for c in fallen),
    )
    return [
        Number(
            f"2q < k: share of {below.num_runs} runs below C_α √(dk/N)",
            str(below),
            "1",
            below.value == 1,
        ),
        Number(
            f"2q ≥ k: share of {lost.num_runs} runs that end further off than they began",
            str(lost),
            "1",
            lost.value == 1,
        ),
    ]


BREAKDOWN = Claim(
    "breakdown",
    "Breakdown",
    "Lemma 1",
    "It holds while 2q < k, and nothing holds from there on.",
    f"{REAL} m = 32, k = 16, N/m = 200, d = 20.",
    lambda: per_cell(BREAKDOWN_SWEEP, 200),
    judge_breakdown,
)


RULES: dict[str, tuple[RuleName, int]] = {
    "geometric median, k = 4q": ("geometric median", BASE.k),
    "geometric median, k = m": ("geometric median", BASE.m),
    "m − q shortest": ("small norms", BASE.m),
    "m − q at random": ("random subset", BASE.m),
}
SELECTION_ATTACKS = {
    NOBODY: 32,
    repr(attacks.BatchTakeover(0.5)): 32,
    repr(attacks.BatchTakeover(1.0)): 32,
    repr(attacks.InnerProductManipulation(0.5)): 32,
    repr(attacks.SignFlip(10.0)): 32,
    repr(attacks.GaussianNoise(200.0)): 32,
    repr(attacks.Adaptive()): 10,
    AWAY_AMONG_SHORT: 32,
    AWAY: 32,
}


def selection_cell(name: str, attack: str) -> Cell:
    """Return the cell of a rule; to the selection rules every client is a batch of its own."""
    rule, k = RULES[name]
    return replace(BASE, rule=rule, k=k, attack=attack)


def plan_selection() -> Plan:
    """Plan each rule under each attack."""
    return {
        selection_cell(name, attack): number
        for name in RULES
        for attack, number in SELECTION_ATTACKS.items()
    }


def judge_selection(runs: Runs, figure: Figure) -> list[Number]:
    """Compare the worst that can happen to each rule."""
    axes = figure.subplots()
    worst: dict[str, Cell] = {}
    for style, name in enumerate(RULES):
        cells = [selection_cell(name, attack) for attack in SELECTION_ATTACKS]
        finals = np.array([np.median(runs[cell][:, -1]) for cell in cells])
        axes.plot(
            np.minimum(finals, BASE.rate),
            np.arange(len(cells)) + 0.15 * (style - 1.5),
            MARKERS[style],
            color=COLOURS[style],
            label=name,
            markersize=6,
        )
        worst[name] = cells[int(np.argmax(finals))]
    axes.set_yticks(range(len(SELECTION_ATTACKS)), [title(a) for a in SELECTION_ATTACKS])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.05 * BASE.rate)
    axes.axvline(BASE.rate, color=GREY, linestyle=":", label="√(dk/N) and beyond")
    axes.set_xlabel("final " + ERROR)
    legend_above(figure, axes)
    numbers = []
    ours = worst["geometric median, k = 4q"]
    for name in RULES:
        start, end = runs[worst[name]][:, 0], np.minimum(runs[worst[name]][:, -1], LOST)
        beside = estimate([end, runs[ours][:, -1]], ratio)
        lost = bool(np.median(end) > np.median(start))
        numbers.append(
            Number(
                f"{name}: worst floor ({title(worst[name].attack)}) beside k = 4q",
                "the model is lost" if lost else str(beside),
                "" if name in list(RULES)[:2] else "at most 1",
                None if name in list(RULES)[:2] else beside.high <= 1,
            )
        )
    return numbers


SELECTION = Claim(
    "selection",
    "Selecting replies instead",
    "section 6",
    "Open question: is the mean of selected replies as good as the geometric median?",
    f"{REAL} m = 32, q = 4 (k = 16), N/m = 200, d = 20; m − q replies are selected.",
    plan_selection,
    judge_selection,
    is_question=True,
)


def plan_attacks() -> Plan:
    """Plan every attack from every placement."""
    cells = [
        replace(BASE, attack=attack, placement=placement)
        for placement in PLACEMENTS
        for attack in (AWAY, *ATTACKS)
    ]
    return per_cell([replace(BASE, attack=NOBODY), *cells], 6)


def judge_attacks(runs: Runs, figure: Figure) -> list[Number]:
    """Rank the attacks by their floor."""
    cells = sorted(plan_attacks(), key=lambda cell: -runs[cell][:, -1].mean())
    calm = replace(BASE, attack=NOBODY)
    used = replace(BASE, attack=AWAY)
    shown = [*cells[:14], calm]
    axes = figure.subplots()
    places = range(len(shown))
    colours = dict(zip(PLACEMENTS, COLOURS, strict=False))
    for place, cell in zip(places, shown, strict=True):
        colour = GREY if cell == calm else colours[cell.placement]
        axes.barh(place, runs[cell][:, -1].mean(), color=colour)
    axes.set_yticks(places, [title(cell.attack) for cell in shown], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(ERROR)
    for placement in dict.fromkeys(cell.placement for cell in shown[:-1]):
        axes.barh([0], [0], color=colours[placement], label=placement)
    legend_above(figure, axes)
    best_other = next(cell for cell in cells if cell.attack != AWAY)
    beside = estimate(ends(runs, [best_other, used]), ratio)
    return [
        Number(
            f"strongest other attack ({title(best_other.attack)}, {best_other.placement}) "
            "beside the one that the sweeps use",
            str(beside),
            "at most 1",
            beside.high <= 1,
        ),
        Number("attacks and placements tried", str(len(cells) - 1)),
        Number(
            "harm: floor under attack beside none",
            str(estimate(ends(runs, [used, calm]), ratio)),
        ),
    ]


STRONGEST_ATTACK = Claim(
    "attacks",
    "The strongest attack",
    "section 1.2",
    "No attack found does more harm than the one that the sweeps use.",
    f"{REAL} m = 32, k = 16, q = 4, N/m = 200, d = 20.",
    plan_attacks,
    judge_attacks,
)
