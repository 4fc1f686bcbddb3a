"""Remark 2, by trainings drawn here: trimming by τ, and the γ of an approximate median."""

from functools import lru_cache
from math import inf, sqrt
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from simulations.monte_carlo import Aggregate, Array, as_built, medians, trainings

from .claim import Number, at_least, at_most
from .drawing import GREY, LINES, MARKERS, legend_below

SIZES = {"num_batches": 20, "num_byzantine": 5, "dim": 20, "distance": sqrt(20)}
SAMPLES = 2000  # of a batch
COUNT, FEW = 200, 20  # trainings of each setting, and with this package's own rule
NORMS = 0.1, 0.3, 0.5, 0.7, 0.9, 1.0, 1.1, 1.5, 2.0, sqrt(20), 20.0  # τ beside ‖θ0 − θ*‖
REMARK = 20.0  # τ = d
FAR = 1e6
GAMMAS = 10.0 ** -np.arange(10)
GROWING = 600, 2000, 20_000, 200_000  # samples of a batch
_HALVINGS = 40


def approximate(trim_norm: float, gamma: float = 0.0) -> Aggregate:
    """Return the rule of Remark 2 with a (1+γ)-approximate median that helps the adversary.

    Batch means longer than τ are left out; where all are, the aggregate is zero. From the median it
    goes in the direction away from θ* until the objective is 1 + γ times the least.
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


def final_error(count: int, samples: int, **options: Any) -> float:
    """Return the mean final error of trainings."""
    same = {"count": count, "batch_samples": samples, "rounds": 12, "seed": 0, **SIZES}
    return float(trainings(**same, **options)[:, -1].mean())


exact_error = lru_cache(final_error)


def beside_exact(rule: Aggregate, reach: float, count: int, samples: int = SAMPLES) -> float:
    """Return the mean final error beside that of the exact median without trimming."""
    found = final_error(count, samples, reach=reach, aggregate=rule)
    return found / exact_error(count, samples)


def judge_remark_2(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Sweep τ and γ against an adversary that uses what each leaves it."""
    start, below = SIZES["distance"], 1 - 1e-9
    by_norm = {
        rule: [beside_exact(rule(tau * start), tau * start * below, count) for tau in NORMS]
        for rule, count in ((approximate, COUNT), (as_built, FEW))
    }
    by_gamma = {
        (rule, tau): [beside_exact(rule(tau, g), min(tau * below, FAR), count) for g in GAMMAS]
        for rule, count in ((approximate, COUNT), (as_built, FEW))
        for tau in (REMARK, inf)
    }
    growing = [
        beside_exact(approximate(REMARK, 1 / (n * SIZES["num_batches"])), REMARK * below, COUNT, n)
        for n in GROWING
    ]
    left, right = figure.subplots(1, 2, sharey=True)
    names = {approximate: "Remark 2", as_built: "this package"}
    for style, found in enumerate(by_norm.values()):
        look = {"color": LINES[style], "markersize": 4}
        left.plot(NORMS, found, MARKERS[style] + "-", **look)
    for (rule, tau), found in by_gamma.items():
        style = list(names).index(rule)
        look = {"color": LINES[style], "markersize": 4}
        look["label"] = f"{names[rule]}, {'τ = d' if tau == REMARK else 'no τ'}"
        right.plot(GAMMAS, found, MARKERS[style] + ("-" if tau == REMARK else "--"), **look)
    left.set(xscale="log", yscale="log", xlabel="τ / ‖θ0 − θ*‖, γ = 0")
    left.set_ylabel("error beside the exact median's")
    right.set(xscale="log", yscale="log", xlabel="γ", ylim=(0.5, 1e4))
    for axes in (left, right):
        axes.axhline(1, color=GREY, linestyle=":")
    legend_below(figure, right)
    trimmed, above = np.array(by_norm[approximate]), np.array(NORMS) >= 1.1
    kept, free = (np.array(by_gamma[approximate, tau]) for tau in (REMARK, inf))
    built = max(*by_norm[as_built], *by_gamma[as_built, REMARK], *by_gamma[as_built, inf])
    return [
        at_most("τ from 1.1 ‖θ0 − θ*‖ on: largest error beside no τ", trimmed[above].max(), 1.05),
        at_least("τ up to ‖θ0 − θ*‖: least error beside no τ", trimmed[~above].min(), 10),
        at_most("τ = d, γ = 1/N, N from 12 000 to 4 000 000: largest error", max(growing), 1.25),
        Number(
            "the same from the least to the most samples",
            ", ".join(f"{ratio:.2f}" for ratio in growing),
            "falling",
            growing == sorted(growing, reverse=True),
        ),
        Number("τ = d: largest γ that adds at most a tenth", f"{GAMMAS[kept <= 1.1].max():.0e}"),
        at_least("no τ, replies of 10⁶, γ = 1e-5: error", free[5], 10),
        Number("no τ, replies of 10⁶, γ = 1e-9: error", f"{free[9]:.2f}"),
        at_most("this package, all of these τ and γ, and no τ: largest error", built, 1.05),
    ]
