"""What the paper says, the runs that try it, and what they say: a figure and numbers each.

Nothing here is judged by eye: a verdict follows from the numbers, these from the runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from flwr_byz import attacks
from flwr_byz.theory import (
    Guarantee,
    c_alpha,
    contraction,
    error_bound,
    error_floor,
    linear_regression,
    theorem_5,
)

from .engine import ATTACKS, AWAY, AWAY_AMONG_SHORT, NOBODY, Cell, Placement, RuleName
from .problems import SummarisedRegression, summaries
from .records import Errors
from .statistics import (
    contractions,
    determination,
    estimate,
    ratio,
    rounds_until,
    share,
    slope,
)

Plan = dict[Cell, int]
Runs = Mapping[Cell, Errors]

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


@dataclass(frozen=True)
class Number:
    """A measured number, what it should be, and whether it is (None: for information)."""

    label: str
    value: str
    wanted: str = ""
    holds: bool | None = None


@dataclass(frozen=True)
class Claim:
    """One claim: where it stands, the runs of it, and its judge, who draws and measures.

    Attributes
    ----------
    name, title, source, says, setting : str
    plan : callable
        Returns the number of runs of each cell.
    judge : callable
        Draws into the figure and returns the numbers.
    is_question : bool, default False
        Whether the paper leaves it open, so that each number is an answer of its own.
    """

    name: str
    title: str
    source: str
    says: str
    setting: str
    plan: Callable[[], Plan]
    judge: Callable[[Runs, Figure], list[Number]]
    is_question: bool = False


BASE = Cell("linear regression", m=32, k=16, q=4, n=200, d=20, attack=AWAY, rounds=20)
PLACEMENTS: tuple[Placement, ...] = ("one per batch", "packed", "fresh each round", "rotating")
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


def ends(runs: Runs, cells: Sequence[Cell]) -> list[Errors]:
    """Return the final errors of each cell's runs."""
    return [runs[cell][:, -1] for cell in cells]


def per_cell(cells: Sequence[Cell], num_runs: int) -> Plan:
    """Plan as many runs of each cell."""
    return dict.fromkeys(cells, num_runs)


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
    ncols = 2 if max(map(len, handles[1])) > 20 else 3
    figure.legend(*handles, loc="outside upper center", ncols=ncols, fontsize=9, frameon=False)


def slope_number(
    runs: Runs, cells: Sequence[Cell], along: Sequence[float], low: float, high: float, of: str
) -> Number:
    """Fit the slope of the floor and compare its interval with what the paper allows."""
    fitted = estimate(ends(runs, cells), slope(along))
    wanted = f"between {low:g} and {high:g}".replace("-", "−")
    label = f"slope of the floor in {of}, {fitted.num_runs} runs"
    return Number(label, str(fitted), wanted, fitted.within(low, high))


# --- the attacks -----------------------------------------------------------------------------


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


# --- (a) convergence -------------------------------------------------------------------------

CONVERGENCE_ATTACKS = (
    AWAY,
    repr(attacks.BatchTakeover()),
    repr(attacks.InnerProductManipulation(10.0)),
    repr(attacks.SignFlip(10.0)),
    repr(attacks.GaussianNoise(200.0)),
    repr(attacks.ALittleIsEnough()),
    NOBODY,
)


def plan_convergence() -> Plan:
    """Plan runs under several attacks."""
    return per_cell([replace(BASE, attack=attack) for attack in CONVERGENCE_ATTACKS], 150)


def judge_convergence(runs: Runs, figure: Figure) -> list[Number]:
    """Compare every run's contraction with the paper's."""
    cells = list(plan_convergence())
    bound = contraction(1.0, 1.0)
    axes = figure.subplots()
    for cell, colour in zip(cells, COLOURS, strict=True):
        errors = runs[cell]
        rounds = range(cell.rounds + 1)
        axes.plot(rounds, np.median(errors, axis=0), color=colour, label=title(cell.attack))
        axes.fill_between(
            rounds, *np.quantile(errors, [0.05, 0.95], axis=0), color=colour, alpha=0.12, lw=0
        )
    start = float(np.median(runs[cells[0]][:, 0]))
    dashed(
        axes,
        range(BASE.rounds + 1),
        [bound**t * start for t in range(BASE.rounds + 1)],
        "(½ + √3/4)ᵗ ‖θ0 − θ*‖",
    )
    axes.axhline(BASE.rate, color=GREY, linestyle=":", label="√(dk/N)")
    by_round(figure, axes)
    factors = np.concatenate([contractions(runs[cell]) for cell in cells])
    typical = estimate([factors], lambda means: means[..., 0])
    return [
        Number(
            f"largest contraction of a round, {len(factors)} runs",
            f"{factors.max():.3f}",
            f"at most {bound:.3f}",
            bool(factors.max() <= bound),
        ),
        Number("mean contraction of a round", str(typical)),
        Number("largest final error beside √(dk/N)", f"{_largest_end(runs, cells):.2f}"),
    ]


def _largest_end(runs: Runs, cells: Sequence[Cell]) -> float:
    return max(float(runs[cell][:, -1].max()) / cell.rate for cell in cells)


# --- Theorem 5 with its constants ------------------------------------------------------------

THEOREM_ATTACKS = (AWAY, repr(attacks.BatchTakeover()), repr(attacks.SignFlip(10.0)))
THEOREM = replace(BASE, problem="summarised regression", n=500_000_000, rounds=40)
THEOREM_ALPHA = (THEOREM.q / THEOREM.k + 0.5) / 2
THEOREM_DELTA = 0.02


def guarantee() -> Guarantee:
    """Return what Theorem 5 promises of these runs, with r = 3."""
    batch_samples = THEOREM.num_samples / THEOREM.k
    return theorem_5(
        num_batches=THEOREM.k,
        num_byzantine=THEOREM.q,
        batch_samples=batch_samples,
        dim=THEOREM.d,
        alpha=THEOREM_ALPHA,
        delta=THEOREM_DELTA,
        constants=linear_regression(batch_samples, THEOREM.d, THEOREM_DELTA),
        r=3.0,
    )


@lru_cache(maxsize=1)
def measured_precision() -> tuple[float, float]:
    """Return ξ1 and ξ2 that a batch keeps with probability 1 − δ, from drawn batches.

    The paper bounds them (Theorem 3). Here they are C_α times the quantiles at 1 − δ/2 of what a
    batch strays by: ‖∇f̄(θ*)‖, and the norm of the difference of the Hessians.
    """
    batches = SummarisedRegression(10_000, THEOREM.num_samples // THEOREM.k, THEOREM.d, seed=0)
    _, covariances, noises = summaries(batches)
    strayed = np.linalg.eigvalsh(covariances - np.eye(THEOREM.d))
    at = 1 - THEOREM_DELTA / 2
    xi_1 = np.quantile(np.linalg.norm(noises, axis=1), at)
    xi_2 = np.quantile(np.abs(strayed).max(axis=1), at)
    return c_alpha(THEOREM_ALPHA) * float(xi_1), c_alpha(THEOREM_ALPHA) * float(xi_2)


def plan_theorem() -> Plan:
    """Plan runs in which every condition of Theorem 5 holds."""
    return per_cell([replace(THEOREM, attack=attack) for attack in THEOREM_ATTACKS], 340)


def judge_theorem(runs: Runs, figure: Figure) -> list[Number]:
    """Count the runs that leave the bound in any round."""
    promised, (xi_1, xi_2) = guarantee(), measured_precision()
    errors = np.concatenate([runs[cell] for cell in plan_theorem()])
    rounds = np.arange(errors.shape[1])
    stated = 1 - promised.success_probability
    bounds = {
        "bound of Theorem 5": np.array([promised.error_after(t, 1.0) for t in rounds]),
        "Theorem 2, measured ξ1, ξ2": np.array(
            [error_bound(t, 1.0, L=1.0, M=1.0, xi_1=xi_1, xi_2=xi_2) for t in rounds]
        ),
    }
    floors = (promised.floor, error_floor(1.0, 1.0, xi_1=xi_1, xi_2=xi_2))
    axes = figure.subplots()
    axes.plot(rounds, errors.max(axis=0), color=BLUE, label="largest error of all runs")
    axes.plot(rounds, np.median(errors, axis=0), color=SKY, label="median error")
    numbers = []
    for (name, at_distance_one), floor, line in zip(
        bounds.items(), floors, ("--", "-."), strict=True
    ):
        bound = (at_distance_one - floor) * errors[:, :1] + floor
        axes.plot(rounds, np.median(bound, axis=0), line, color=GREY, label=name)
        failed = share(int((errors > bound)[:, 1:].any(axis=1).sum()), len(errors))
        numbers += [
            Number(
                f"{name}: share of {len(errors)} runs that leave it in some round",
                str(failed),
                f"at most {stated:.3f}, the probability stated",
                failed.high <= stated,
            ),
            Number(
                f"{name}: its floor beside the largest final error",
                f"{floor / errors[:, -1].max():.0f} times",
            ),
        ]
    axes.axhline(THEOREM.rate, color=GREY, linestyle=":", label="√(dk/N)")
    by_round(figure, axes)
    return numbers


# --- (b) the floor ---------------------------------------------------------------------------

N_SWEEP = [replace(BASE, n=n) for n in (200, 400, 800, 1600, 3200)]


def judge_floor_in_n(runs: Runs, figure: Figure) -> list[Number]:
    """Fit the floor against N."""
    along = [float(cell.num_samples) for cell in N_SWEEP]
    axes = figure.subplots()
    points(axes, along, ends(runs, N_SWEEP), "floor under attack")
    fitted_line(axes, along, ends(runs, N_SWEEP))
    dashed(axes, along, [cell.rate for cell in N_SWEEP], "√(dk/N)")
    against(axes, "samples N", along)
    return [slope_number(runs, N_SWEEP, along, -0.55, -0.45, "N")]


D_SWEEP = [replace(BASE, k=8, q=2, n=1000, d=d) for d in (8, 12, 16, 24, 32, 48, 64)]


def judge_floor_in_d(runs: Runs, figure: Figure) -> list[Number]:
    """Fit the floor against d."""
    along = [float(cell.d) for cell in D_SWEEP]
    axes = figure.subplots()
    points(axes, along, ends(runs, D_SWEEP), "floor under attack")
    fitted_line(axes, along, ends(runs, D_SWEEP))
    dashed(axes, along, [cell.rate for cell in D_SWEEP], "√(dk/N)")
    against(axes, "dimension d", along)
    return [slope_number(runs, D_SWEEP, along, 0.45, 0.55, "d")]


Q_SWEEP = [replace(BASE, m=64, n=400, q=q, k=4 * q) for q in (1, 2, 4, 8, 16)]


def judge_floor_in_q(runs: Runs, figure: Figure) -> list[Number]:
    """Fit the floor against q, where k = 4q follows."""
    along = [float(cell.q) for cell in Q_SWEEP]
    axes = figure.subplots()
    points(axes, along, ends(runs, Q_SWEEP), "floor under attack")
    fitted_line(axes, along, ends(runs, Q_SWEEP))
    dashed(axes, along, [cell.rate for cell in Q_SWEEP], "√(dk/N)")
    against(axes, "Byzantine clients q, k = 4q", along)
    straight = estimate(ends(runs, Q_SWEEP), determination(np.sqrt(along)))
    return [
        slope_number(runs, Q_SWEEP, along, 0.0, 0.5, "q"),
        Number(
            "R² of the floor as a + b√q, the sum of √(d/N) and √(dq/N)", f"{straight.value:.4f}"
        ),
    ]


# --- (e) the choice of k ---------------------------------------------------------------------

K_SWEEP = [replace(BASE, m=64, q=4, k=k) for k in (10, 12, 16, 24, 32, 48, 64)]
K_CALM = [replace(cell, attack=NOBODY) for cell in K_SWEEP]


def judge_choice_of_k(runs: Runs, figure: Figure) -> list[Number]:
    """Follow the floor in k at fixed q, and ask whether there is a trade-off."""
    along = [float(cell.k) for cell in K_SWEEP]
    axes = figure.subplots()
    points(axes, along, ends(runs, K_SWEEP), "under attack, q = 4")
    fitted_line(axes, along, ends(runs, K_SWEEP))
    points(axes, along, ends(runs, K_CALM), "nobody attacks", 1)
    dashed(axes, along, [c_alpha(c.q / c.k) * c.rate for c in K_SWEEP], "C_α √(dk/N), α = q/k")
    against(axes, "batches k", along)
    axes.get_legend().remove()
    legend_above(figure, axes)
    best = min(K_SWEEP, key=lambda cell: runs[cell][:, -1].mean())
    fitted = estimate(ends(runs, K_SWEEP), slope(along))
    last = estimate(ends(runs, [K_SWEEP[-1], best]), ratio)
    below = all(runs[cell][:, -1].max() <= c_alpha(cell.q / cell.k) * cell.rate for cell in K_SWEEP)
    return [
        Number(
            f"slope of the floor in k, {fitted.num_runs} runs",
            str(fitted),
            "at most 0.5",
            fitted.high <= 0.5,
        ),
        Number("every run below C_α √(dk/N)", "yes" if below else "no", "yes", below),
        Number("k of the smallest floor", str(best.k)),
        Number("floor at k = m beside the smallest", str(last)),
        Number(
            "where nobody attacks: floor at k = m beside k = 10",
            str(estimate(ends(runs, [K_CALM[-1], K_CALM[0]]), ratio)),
        ),
    ]


# --- (c) rounds ------------------------------------------------------------------------------

ROUNDS_SWEEP = [
    replace(BASE, problem="summarised regression", k=8, q=2, n=10**i, rounds=28)
    for i in range(3, 10)
]


def judge_rounds(runs: Runs, figure: Figure) -> list[Number]:
    """Fit the rounds until twice the floor against log N."""
    along = [float(cell.num_samples) for cell in ROUNDS_SWEEP]
    rounds = [rounds_until(runs[c], 2 * runs[c][:, -1].mean()) for c in ROUNDS_SWEEP]
    axes = figure.subplots()
    points(axes, along, rounds, "until twice the floor")
    line = np.polyfit(np.log(along), [r.mean() for r in rounds], 1)
    dashed(axes, along, list(np.polyval(line, np.log(along))), "straight line in log N")
    axes.set_xscale("log")
    axes.set_xlabel("samples N")
    axes.set_ylabel("rounds")
    axes.legend(frameon=False, fontsize=9)
    fit = estimate(rounds, determination(np.log(along)))
    per_tenfold = float(line[0]) * np.log(10)
    return [
        Number(
            f"R² of rounds against log N, {fit.num_runs} runs",
            f"{fit.value:.4f} [{fit.low:.4f}, {fit.high:.4f}]",
            "at least 0.98",
            fit.low >= 0.98,
        ),
        Number("rounds for ten times the samples", f"{per_tenfold:.2f}"),
        slope_number(runs, ROUNDS_SWEEP, along, -0.55, -0.45, "N"),
    ]


# --- (d) one Byzantine client against the mean -----------------------------------------------

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
    return per_cell([mean_cell(a, k) for a in MEAN_ATTACKS for k in (1, 4)], 130)


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


# --- (f) moving sets -------------------------------------------------------------------------

MOVING: tuple[Placement, ...] = ("one per batch", "fresh each round", "rotating")


def plan_moving() -> Plan:
    """Plan fixed and moving Byzantine sets."""
    return per_cell([replace(BASE, placement=placement) for placement in MOVING], 340)


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


# --- (g) corrupted data ----------------------------------------------------------------------

CORRUPTED = (NOBODY, repr(attacks.LabelFlip()), AWAY)


def plan_corrupted() -> Plan:
    """Plan runs with corrupted data, and what they stand beside."""
    return per_cell([replace(BASE, attack=attack) for attack in CORRUPTED], 340)


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


# --- (h) section 6 ---------------------------------------------------------------------------

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


# --- (i) uneven data sizes -------------------------------------------------------------------

UNEVEN_SWEEP = [
    replace(BASE, problem="uneven regression", n=n) for n in (200, 800, 3200, 12800, 51200)
]
EVEN = replace(UNEVEN_SWEEP[2], problem="summarised regression")


def judge_uneven(runs: Runs, figure: Figure) -> list[Number]:
    """Fit the floor against N where clients have unequal amounts of data."""
    along = [float(cell.num_samples) for cell in UNEVEN_SWEEP]
    axes = figure.subplots()
    points(axes, along, ends(runs, UNEVEN_SWEEP), "sizes from n/2 to 3n/2")
    fitted_line(axes, along, ends(runs, UNEVEN_SWEEP))
    points(axes, [float(EVEN.num_samples)], ends(runs, [EVEN]), "equal sizes", 1)
    dashed(axes, along, [cell.rate for cell in UNEVEN_SWEEP], "√(dk/N)")
    against(axes, "samples N", along)
    return [
        slope_number(runs, UNEVEN_SWEEP, along, -0.55, -0.45, "N"),
        Number(
            "floor beside that of equal sizes",
            str(estimate(ends(runs, [UNEVEN_SWEEP[2], EVEN]), ratio)),
        ),
    ]


# --- (j) breakdown ---------------------------------------------------------------------------

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


# --- (k) logistic regression -----------------------------------------------------------------

LOGISTIC_SWEEP = [
    Cell("logistic regression", m=32, k=8, q=2, n=n, d=10, attack=AWAY, rounds=50)
    for n in (200, 400, 800, 1600, 3200)
]


def judge_logistic(runs: Runs, figure: Figure) -> list[Number]:
    """Fit the floor against N where the paper gives no constants."""
    along = [float(cell.num_samples) for cell in LOGISTIC_SWEEP]
    axes = figure.subplots()
    points(axes, along, ends(runs, LOGISTIC_SWEEP), "floor under attack")
    fitted_line(axes, along, ends(runs, LOGISTIC_SWEEP))
    dashed(axes, along, [cell.rate for cell in LOGISTIC_SWEEP], "√(dk/N)")
    against(axes, "samples N", along)
    factors = np.concatenate([contractions(runs[cell]) for cell in LOGISTIC_SWEEP])
    return [
        slope_number(runs, LOGISTIC_SWEEP, along, -0.55, -0.45, "N"),
        Number(
            "largest contraction of a round", f"{factors.max():.3f}", "below 1", factors.max() < 1
        ),
    ]


# --- the engine ------------------------------------------------------------------------------

FLOWER = [
    Cell(
        "linear regression",
        m=40,
        k=20,
        q=5,
        n=50,
        d=20,
        attack=attack,
        rounds=12,
        trimmed=True,
        through="flower",
    )
    for attack in (
        NOBODY,
        repr(attacks.SignFlip(10.0)),
        repr(attacks.GaussianNoise(200.0)),
        repr(attacks.InnerProductManipulation(10.0)),
        repr(attacks.ALittleIsEnough()),
        repr(attacks.FangTrimmedMean()),
        repr(attacks.BatchTakeover()),
        repr(attacks.Adaptive()),
    )
]
DRAWN = [replace(BASE, n=n, problem="summarised regression") for n in (200, 800)]


def plan_engine() -> Plan:
    """Plan runs through Flower and the same ones without; drawn summaries beside real data."""
    alone = [replace(cell, through="engine") for cell in FLOWER]
    real = [replace(cell, problem="linear regression") for cell in DRAWN]
    return per_cell([*FLOWER, *alone], 1) | per_cell([*DRAWN, *real], 208)


def judge_engine(runs: Runs, figure: Figure) -> list[Number]:
    """Compare errors number by number, and drawn summaries with real data on average."""
    axes = figure.subplots()
    same = 0
    for cell, colour, marker in zip(FLOWER, [*COLOURS, GREY], MARKERS + "P", strict=True):
        flower, alone = runs[cell][0], runs[replace(cell, through="engine")][0]
        same += bool((flower == alone).all())
        axes.plot(flower, marker, color=colour, markersize=5, label=title(cell.attack))
        axes.plot(alone, "-", color=colour, linewidth=1)
    by_round(figure, axes)
    axes.set_xlabel("round t (points: through Flower, lines: engine)")
    rounds = len(FLOWER) * (FLOWER[0].rounds + 1)
    numbers = [
        Number(
            f"runs of {len(FLOWER)} through Flower that equal the engine's in all digits "
            f"({rounds} errors)",
            str(same),
            str(len(FLOWER)),
            same == len(FLOWER),
        )
    ]
    for cell in DRAWN:
        real = replace(cell, problem="linear regression")
        beside = estimate(ends(runs, [cell, real]), ratio)
        numbers.append(
            Number(
                f"drawn summaries beside real samples, n = {cell.n}: floor, {beside.num_runs} runs",
                str(beside),
                "1 in the interval",
                beside.low <= 1 <= beside.high,
            )
        )
    return numbers


REAL = "Real clients and data, in process."
SUMMARISED = "Data drawn as sufficient statistics, in process."

CLAIMS = (
    Claim(
        "convergence",
        "Convergence",
        "Corollary 1",
        "The error contracts by at most ½ + √3/4 a round, whoever attacks.",
        f"{REAL} m = 32, k = 16, q = 4, N/m = 200, d = 20.",
        plan_convergence,
        judge_convergence,
    ),
    Claim(
        "theorem",
        "The bound, constants and all",
        "Theorem 5",
        "Where its conditions hold, no more runs leave the bound than it states.",
        f"{SUMMARISED} The explicit constants ask for N/k = 10⁹: m = 32, k = 16, q = 4, "
        "d = 20, α = 3/8, δ = 0.02.",
        plan_theorem,
        judge_theorem,
    ),
    Claim(
        "floor-n",
        "Floor against N",
        "Corollary 1",
        "The error that stays falls as 1/√N.",
        f"{REAL} m = 32, k = 16, q = 4, d = 20.",
        lambda: per_cell(N_SWEEP, 208),
        judge_floor_in_n,
    ),
    Claim(
        "floor-d",
        "Floor against d",
        "Corollary 1",
        "The error that stays grows as √d.",
        f"{REAL} m = 32, k = 8, q = 2, N/m = 1000.",
        lambda: per_cell(D_SWEEP, 150),
        judge_floor_in_d,
    ),
    Claim(
        "floor-q",
        "Floor against q",
        "Remark 1",
        "The error that stays grows no faster than √q.",
        f"{REAL} m = 64, k = 4q, N/m = 400, d = 20.",
        lambda: per_cell(Q_SWEEP, 208),
        judge_floor_in_q,
    ),
    Claim(
        "choice-of-k",
        "The choice of k",
        "Remark 1",
        "More batches cost accuracy, by √k at most; the paper suspects its proof, not the rule.",
        f"{REAL} m = 64, q = 4, N/m = 200, d = 20.",
        lambda: per_cell(K_SWEEP, 150) | per_cell(K_CALM, 30),
        judge_choice_of_k,
    ),
    Claim(
        "rounds",
        "Rounds",
        "Theorem 1",
        "The floor is reached in a number of rounds linear in log N.",
        f"{SUMMARISED} m = 32, k = 8, q = 2, d = 20.",
        lambda: per_cell(ROUNDS_SWEEP, 150),
        judge_rounds,
    ),
    Claim(
        "mean",
        "One Byzantine client",
        "section 2.1",
        "One client is enough to ruin plain gradient descent, and does not harm the median.",
        f"{REAL} m = 32, q = 1, N/m = 200, d = 20.",
        plan_mean,
        judge_mean,
    ),
    Claim(
        "moving",
        "Moving Byzantine sets",
        "section 1.2",
        "The set may be another one in each round, and nothing gets worse.",
        f"{REAL} m = 32, k = 16, q = 4, N/m = 200, d = 20.",
        plan_moving,
        judge_moving,
    ),
    Claim(
        "corrupted-data",
        "Corrupted data",
        "section 1.2",
        "The guarantee also covers q clients whose data are corrupted.",
        f"{REAL} m = 32, k = 16, q = 4, N/m = 200, d = 20.",
        plan_corrupted,
        judge_corrupted,
    ),
    Claim(
        "uneven",
        "Uneven data",
        "section 1.2",
        "The results extend to clients with amounts of data of the same order.",
        f"{SUMMARISED} Client sizes from n/2 to 3n/2; m = 32, k = 16, q = 4, d = 20.",
        lambda: per_cell(UNEVEN_SWEEP, 208) | per_cell([EVEN], 208),
        judge_uneven,
    ),
    Claim(
        "breakdown",
        "Breakdown",
        "Lemma 1",
        "It holds while 2q < k, and nothing holds from there on.",
        f"{REAL} m = 32, k = 16, N/m = 200, d = 20.",
        lambda: per_cell(BREAKDOWN_SWEEP, 80),
        judge_breakdown,
    ),
    Claim(
        "selection",
        "Selecting replies instead",
        "section 6",
        "Open question: is the mean of selected replies as good as the geometric median?",
        f"{REAL} m = 32, q = 4 (k = 16), N/m = 200, d = 20; m − q replies are selected.",
        plan_selection,
        judge_selection,
        is_question=True,
    ),
    Claim(
        "logistic",
        "Logistic regression",
        "Theorem 1",
        "The same rate where no constant is known.",
        f"{REAL} ‖θ*‖ = 1, m = 32, k = 8, q = 2, d = 10; η = L/(2M²), L at θ*, M = ¼.",
        lambda: per_cell(LOGISTIC_SWEEP, 208),
        judge_logistic,
    ),
    Claim(
        "attacks",
        "The strongest attack",
        "section 1.2",
        "No attack found does more harm than the one that the sweeps use.",
        f"{REAL} m = 32, k = 16, q = 4, N/m = 200, d = 20.",
        plan_attacks,
        judge_attacks,
    ),
    Claim(
        "engine",
        "The engine",
        "this repository",
        "Runs in process are those of Flower's simulation, to the last bit.",
        "m = 40, k = 20, q = 5, N/m = 50, d = 20, through Flower 1.41 and Ray, and without.",
        plan_engine,
        judge_engine,
    ),
)
