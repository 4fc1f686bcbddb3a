"""Remark 2 by trainings drawn here, τ and γ; and what a round costs the server."""

from functools import partial
from itertools import product
from math import inf, sqrt

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import linregress

from flwr_byz.aggregation import geometric_median, geometric_median_of_means
from simulations.monte_carlo import Aggregate, Array, medians, trainings

from .claim import Number, by
from .drawing import GREY, LINES, MARKERS, legend_above
from .statistics import estimate, slope

SIZES = {"num_batches": 20, "num_byzantine": 5, "dim": 20, "distance": sqrt(20)}
SAMPLES = 2000  # of a batch
COUNT, FEW = 200, 20  # trainings of each setting, and with this package's own rule
NORMS = 0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1.1, 1.5, 2.0, sqrt(20), 20.0  # τ beside ‖θ0 − θ*‖
REMARK = 20.0  # τ = d
FAR = 1e6
GAMMAS = 10.0 ** -np.arange(10)
GROWING = 600, 2000, 20_000, 200_000  # samples of a batch
_HALVINGS = 60


def approximate(trim_norm: float, gamma: float) -> Aggregate:
    """Return the rule of Remark 2 with the worst of all (1+γ)-approximate medians.

    Batch means longer than τ are left out; where all are, the aggregate is zero. Of the points
    whose objective is at most 1 + γ times the least, it is the furthest from the median along the
    direction away from θ*.
    """

    def aggregate(means: Array, away: Array) -> Array:
        kept = np.linalg.norm(means, axis=2) <= trim_norm
        is_empty = ~kept.any(axis=1)
        kept |= is_empty[:, None]
        median = medians(means, kept)

        def objective(moved: Array) -> Array:
            offsets = means - (median + moved[:, None] * away)[:, None]
            return np.asarray((np.linalg.norm(offsets, axis=2) * kept).sum(axis=1))

        least = objective(np.zeros(len(median)))
        low, high = 0 * least, (2 + gamma) * least / kept.sum(axis=1)
        for _ in range(_HALVINGS if gamma else 0):
            middle = (low + high) / 2
            allowed = objective(middle) <= (1 + gamma) * least
            low, high = np.where(allowed, middle, low), np.where(allowed, high, middle)
        return np.where(is_empty[:, None], 0.0, median + low[:, None] * away)

    return aggregate


def as_built(trim_norm: float, gamma: float) -> Aggregate:
    """Return this package's own rule, without the number of Byzantine clients."""
    rule = partial(
        geometric_median_of_means,
        num_batches=SIZES["num_batches"],
        trim_norm=None if trim_norm == inf else trim_norm,
        gamma=gamma or 1e-9,
    )
    return lambda means, away: np.stack([rule(each).point for each in means])


def beside_exact(rule: Aggregate, reach: float, count: int, samples: int = SAMPLES) -> Array:
    """Return each final error beside the mean one of the exact median without trimming."""
    same = partial(trainings, count=count, batch_samples=samples, rounds=12, seed=0, **SIZES)
    exact = same()[:, -1].mean()
    return np.asarray(same(reach=reach, aggregate=rule)[:, -1] / exact)


def judge_remark_2(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Sweep τ and γ against an adversary that uses what each leaves it."""
    start, below = SIZES["distance"], 1 - 1e-9
    by_norm = {
        rule: [beside_exact(rule(tau * start, 0), tau * start * below, count) for tau in NORMS]
        for rule, count in ((approximate, COUNT), (as_built, FEW))
    }
    by_gamma = {
        (rule, tau): [beside_exact(rule(tau, g), min(tau * below, FAR), count) for g in GAMMAS]
        for rule, count in ((approximate, COUNT), (as_built, FEW))
        for tau in (REMARK, inf)
    }
    grows = [
        beside_exact(approximate(REMARK, 1 / (n * SIZES["num_batches"])), REMARK * below, COUNT, n)
        for n in GROWING
    ]
    left, right = figure.subplots(1, 2, sharey=True)
    names = {approximate: "Remark 2, worst median", as_built: "this package"}
    for style, (rule, cells) in enumerate(by_norm.items()):
        look = {"color": LINES[style], "markersize": 4, "label": names[rule]}
        left.plot(NORMS, [cell.mean() for cell in cells], MARKERS[style] + "-", **look)
    for style, ((rule, tau), cells) in enumerate(by_gamma.items()):
        line = "-" if tau == REMARK else "--"
        look = {"color": LINES[list(names).index(rule)], "markersize": 4}
        look["label"] = f"{names[rule]}, {'τ = d' if tau == REMARK else 'no τ'}"
        right.plot(GAMMAS, [cell.mean() for cell in cells], MARKERS[style] + line, **look)
    left.set(xscale="log", yscale="log", xlabel="τ / ‖θ0 − θ*‖", ylabel="error / exact median's")
    right.set(xscale="log", yscale="log", xlabel="γ", ylim=(0.5, 1e4))
    for axes in (left, right):
        axes.axhline(1, color=GREY, linestyle=":")
    legend_above(figure, right)
    worst = np.array([cell.mean() for cell in by_norm[approximate]])
    above = np.array(NORMS) >= 1.1
    small, free = (np.array([c.mean() for c in by_gamma[approximate, at]]) for at in (REMARK, inf))
    built = [cells for (rule, _), cells in by_gamma.items() if rule is as_built]
    most = max(cell.mean() for cells in [*built, by_norm[as_built]] for cell in cells)
    growing = [cell.mean() for cell in grows]
    falls = bool((np.diff(growing) < 0).all())
    return [
        Number(
            "τ from 1.1 ‖θ0 − θ*‖ on: largest error beside that without τ",
            f"{worst[above].max():.3f}",
            "at most 1.05",
            bool(worst[above].max() <= 1.05),
        ),
        Number(
            "τ up to ‖θ0 − θ*‖: least error beside that without τ", f"{worst[~above].min():.0f}"
        ),
        Number(
            "τ = d, γ = 1/N: error beside the exact median's, N from 12 000 to 4 000 000",
            ", ".join(f"{ratio:.2f}" for ratio in growing),
            "at most 1.25, falling",
            falls and max(growing) <= 1.25,
        ),
        Number("τ = d: largest γ that adds at most a tenth", f"{GAMMAS[small <= 1.1].max():.0e}"),
        Number("no τ, replies of 10⁶: error with γ = 1e-5", f"{free[5]:.0f} times"),
        Number("no τ, replies of 10⁶: error with γ = 1e-9", f"{free[9]:.2f} times"),
        Number(
            "this package, any of these τ or none, any of these γ: largest error beside the exact",
            f"{most:.3f}",
            "at most 1.05",
            bool(most <= 1.05),
        ),
    ]


TOLERANCES = 10.0 ** -np.arange(1, 13)


def steps(num_points: int, dim: int, share: float) -> list[int]:
    """Return the solver's iterations for each γ, with a share of the points together far off."""
    points = np.random.default_rng([num_points, dim]).normal(size=(num_points, dim))
    points[: int(share * num_points)] = FAR * np.eye(dim)[0]
    return [geometric_median(points, gamma=gamma).iterations for gamma in TOLERANCES]


def judge_server(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Fit the solver's iterations against log(1/γ), and the server's time against m, k and d."""
    left, right = figure.subplots(1, 2)
    along, numbers = np.log(1 / TOLERANCES), []
    cells = list(product((20, 80), (20, 1000), (0.0, 0.25, 0.45)))
    taken = np.array([steps(*cell) for cell in cells])
    powers = [linregress(np.log(along), np.log(each)).slope for each in taken]
    for style, (k, d) in enumerate(product((20, 80), (20, 1000))):
        worst = taken[[cell[:2] == (k, d) for cell in cells]].max(axis=0)
        look = {"color": LINES[style], "markersize": 4, "label": f"k = {k}, d = {d}"}
        left.plot(along, worst, MARKERS[style] + "-", **look)
    left.set(xlabel="log(1/γ)", ylabel="iterations", yscale="log")
    left.legend()
    numbers = [
        Number(
            f"iterations as a power of log(1/γ), largest of {len(cells)} settings",
            f"{max(powers):.2f}",
            "at most 3",
            max(powers) <= 3,
        ),
        Number("largest number of iterations, γ from 0.1 to 1e-12", str(taken.max())),
    ]
    for style, column in enumerate("dmk"):
        times = by(runs[runs.name == f"server: {column}"], {"m": "num_clients"}.get(column, column))
        sizes, seconds = np.array(list(times)), [cell.seconds for cell in times.values()]
        ratios = [each.mean() / seconds[0].mean() for each in seconds]
        look = {"color": LINES[style], "markersize": 4, "label": column}
        right.plot(sizes / sizes[0], ratios, MARKERS[style] + "-", **look)
        power = estimate(seconds, slope(sizes))
        label = f"time as a power of {column}, from {sizes[0]} to {sizes[-1]}"
        numbers.append(Number(label, str(power)))
    right.set(xscale="log", yscale="log", xlabel="size / smallest", ylabel="time / smallest")
    right.legend()
    return numbers
