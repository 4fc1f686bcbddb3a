"""How far batches stray, how many are good, and the bound that follows: drawn here, with no runs.

Linear regression with Gaussian data, whose batches are drawn by their sufficient statistics.
"""

from collections.abc import Mapping
from itertools import product
from math import ceil, floor, sqrt

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from flwr_byz import theory
from simulations.monte_carlo import batches, trainings

from .claim import Number, at_most
from .drawing import GREY, LINES, MARKERS, by_round, legend_below
from .statistics import Array, share

DRAWN = 10_000  # batches or trainings of a setting

DELTA = 0.1
DIMS = 1, 5, 20
SIZES = 60, 600, 6000, 60_000, 10**6, 10**9  # of a batch, in samples

BATCHES, ALPHA = 20, 0.45
DELTAS = 0.01, 0.03, 0.1, 0.2, 0.3

README = {"num_batches": 20, "num_byzantine": 5, "dim": 20}
NEAR_HALF = {"num_batches": 20, "num_byzantine": 9, "dim": 20}
SMALLEST = {"num_batches": 3, "num_byzantine": 1, "dim": 1}
BOUNDS = (  # sizes, samples of a batch, confidences
    (README, 600, (0.99,)),
    (README, 2000, (0.99,)),
    (README, 10_000, (0.99,)),
    (NEAR_HALF, 100_000, (0.99,)),
    (SMALLEST, 100_000, (0.99, 0.9, 0.5)),
)
ROUNDS = 15


def strays(samples: int, dim: int, count: int, seed: int) -> Array:
    """Return ‖ĝ‖, ‖Ĥ − I‖ and ‖(Ĥ − I)v‖ for one unit vector v, of batches, (3, count)."""
    hessians, offsets = batches(count, samples, dim, seed)
    everywhere = np.abs(np.linalg.eigvalsh(hessians) - 1).max(axis=1)
    along = np.linalg.norm(hessians[:, 0] - np.eye(dim)[0], axis=1)
    return np.stack([np.linalg.norm(offsets, axis=1), everywhere, along])


def paper_radii(samples: int, dim: int) -> tuple[float, float, float]:
    """Return Δ1, Δ1′ and Δ2 with the smallest r; NaN where their conditions do not hold."""
    c = theory.linear_regression(samples, dim, DELTA)
    named = {name: getattr(c, name) for name in ("sigma_1", "sigma_2", "alpha_2", "M", "M_prime")}
    shells = 2 * c.sigma_2**2 * sqrt(samples) / (c.alpha_2 * c.sigma_1)
    found = (
        theory.delta_1(samples, dim, DELTA, c.sigma_1),
        theory.delta_1(samples, dim, DELTA, c.sigma_2),
        theory.delta_2(samples, dim, DELTA, r=ceil(shells) / shells, **named),
    )
    limits = c.sigma_1**2 / c.alpha_1, *[c.sigma_2**2 / c.alpha_2] * 2
    first, along, second = np.where(np.less_equal(found, limits), found, np.nan).tolist()
    return first, along, second


def radii(samples: int, dim: int) -> Mapping[str, tuple[int, float, float]]:
    """Return by name which of the norms a radius bounds, the radius, and the probability stated.

    Where a batch is beyond 4Δ1 + 8Δ2‖θ − θ*‖, ‖∇f̄(θ*)‖ is beyond 4Δ1, or ‖Ĥ − H‖ beyond 8Δ2.
    """
    delta_1, delta_along, delta_2 = paper_radii(samples, dim)
    return {
        "2Δ1 of Lemma 6": (0, 2 * delta_1, DELTA / 3),
        "2Δ1′ of Lemma 7": (2, 2 * delta_along, DELTA / 3),
        "4Δ1 of Theorem 3": (0, 4 * delta_1, DELTA),
        "8Δ2 of Theorem 3": (1, 8 * delta_2, DELTA),
        "sharper radius of ‖∇f̄(θ*)‖": (0, theory.gradient_radius(samples, dim, DELTA), DELTA),
        "sharper radius of ‖Ĥ − H‖": (1, theory.hessian_radius(samples, dim, DELTA), DELTA),
    }


def judge_tails(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Compare the lemmas' radii, and sharper ones, with what batches stray by."""
    rows = []
    for n, d in product(SIZES, DIMS):
        norms = strays(n, d, DRAWN, seed=0)
        for name, (which, radius, delta) in radii(n, d).items():
            times = radius / np.quantile(norms[which], 1 - delta)
            rows.append((name, n, d, delta, times, (norms[which] > radius).sum()))
    frame = pd.DataFrame(rows, columns=["radius", "n", "d", "delta", "times", "beyond"])
    axes, numbers = figure.subplots(), []
    for style, (name, cells) in enumerate(frame.groupby("radius", sort=False)):
        cells = cells.dropna()  # where the conditions do not hold
        delta, settings = cells.delta.iloc[0], f"{len(cells)} settings of {DRAWN} batches"
        beyond = share(np.arange(DRAWN) < cells.beyond.max())
        least, most = cells.times.min(), cells.times.max()
        numbers += [
            Number(
                f"{name}: largest share beyond, {settings}",
                str(beyond),
                f"at most {delta:.3f}",
                bool(beyond.high <= delta),
            ),
            Number(f"{name} beside the measured quantile", f"{least:.2f} to {most:.2f} times"),
        ]
        largest = cells[cells.d == max(DIMS)]
        look = {"color": LINES[style], "label": name, "markersize": 5}
        axes.plot(largest.n, largest.times, MARKERS[style] + "-", **look)
    axes.axhline(1, color=GREY, linestyle=":", label="measured quantile")
    axes.set(xscale="log", yscale="log", xlabel=f"samples of a batch, d = {max(DIMS)}")
    axes.set_ylabel("beside the measured quantile")
    legend_below(figure, axes)
    return numbers


def judge_good_batches(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Compare how often enough batches are good, event (11), with Lemma 5."""
    n, d = 200, 5
    scale = [[theory.gradient_radius(n, d, DELTA)], [theory.hessian_radius(n, d, DELTA)]]
    pilot, batch = (
        (strays(n, d, DRAWN * BATCHES, seed)[:2] / scale).max(axis=0).reshape(DRAWN, BATCHES)
        for seed in (1, 2)
    )
    rows = []
    for q, delta in product(range(int(ALPHA * BATCHES)), DELTAS):
        if delta <= ALPHA - q / BATCHES:
            most = floor(ALPHA * BATCHES) - q
            found = share((batch > np.quantile(pilot, 1 - delta)).sum(axis=1) <= most)
            stated = {"alpha": ALPHA, "delta": delta}
            exact = theory.exact_success_probability(BATCHES, q, **stated)
            chernoff = theory.success_probability(BATCHES, q, **stated)
            rows.append((q, delta, found.value, found.low, found.high, exact, chernoff))
    frame = pd.DataFrame(rows, columns=["q", "delta", "value", "low", "high", "exact", "chernoff"])
    axes = figure.subplots()
    for style, (delta, cells) in enumerate(frame.groupby("delta")):
        colour = LINES[style]
        axes.plot(cells.q, cells.value, MARKERS[style], color=colour, label=f"δ = {delta:g}")
        axes.plot(cells.q, cells.exact, color=colour, linewidth=1)
        axes.plot(cells.q, cells.chernoff, "--", color=colour, linewidth=1)
    axes.plot([], [], color=GREY, label="(20), exact")
    axes.plot([], [], "--", color=GREY, label="(19), Chernoff")
    axes.set(xlabel=f"q, with k = {BATCHES} and α = {ALPHA}", ylabel="probability of event (11)")
    legend_below(figure, axes)
    apart = np.maximum(frame.high - frame.exact, frame.exact - frame.low).max()
    short = frame.exact - frame.chernoff
    deltas = [theory.largest_delta(BATCHES, j, 0.95) for j in range(8)]
    kept = [
        share((batch > np.quantile(pilot, 1 - delta)).sum(axis=1) <= j)
        for j, delta in enumerate(deltas)
    ]
    low, high = min(found.low for found in kept), max(found.high for found in kept)
    settings = f"{len(frame)} settings of {DRAWN} draws"
    return [
        at_most(
            f"event (11): largest distance from (20), interval and all, {settings}", apart, 0.02
        ),
        Number(
            "event (11): settings in which it is rarer than (19) states, interval and all",
            str((frame.high < frame.chernoff).sum()),
            "0",
            bool((frame.high >= frame.chernoff).all()),
        ),
        Number("(19) falls short of (20) by up to", f"{short.max():.2f}"),
        Number(
            "at most j bad batches with the δ of 95 %, j from 0 to 7: all intervals",
            f"{low:.3f} to {high:.3f}",
            "within 0.94 and 0.96",
            low >= 0.94 and high <= 0.96,
        ),
    ]


def judge_bound(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Count the trainings under the strongest attack that leave the proved bound in some round."""
    axes, numbers = figure.subplots(), []
    rounds = np.arange(ROUNDS + 1)
    for place, (sizes, n, confidences) in enumerate(BOUNDS):
        k, q, d = sizes.values()
        start, is_readme = sqrt(d), sizes == README
        errors = trainings(
            count=DRAWN, batch_samples=n, rounds=ROUNDS, distance=start, seed=0, **sizes
        )
        worst = errors.max(axis=0)
        for confidence in confidences:
            bound = theory.sharp_bound(
                num_batches=k,
                num_byzantine=q,
                confidence=confidence,
                precision=theory.gaussian_precision(n, d),
                step_size=1.0,
            )
            stated = np.array([bound.error_after(int(t), start) for t in rounds])
            beyond = share((errors > stated).any(axis=1))
            setting = f"k = {k}, q = {q}, d = {d}, N/k = {n}, {confidence:.0%}"
            beside = f"the bound {bound.floor:.3g} beside the worst error {worst[-1]:.3g}"
            numbers += [
                Number(
                    f"{setting}: share of {DRAWN} trainings beyond the bound in some round",
                    beyond.with_digits(4),
                    f"at most {1 - confidence:.2f}",
                    beyond.high <= 1 - confidence,
                ),
                Number(
                    f"{setting}: {beside}",
                    f"{bound.floor / worst[-1]:.2f} times",
                    *(("at most 15", bool(bound.floor <= 15 * worst[-1])) if is_readme else ()),
                ),
            ]
        if is_readme:
            axes.plot(worst, color=LINES[place], label=f"worst, N/m = {n // 2}")
            axes.plot(stated, "--", color=LINES[place], label=f"bound, N/m = {n // 2}")
    by_round(figure, axes)
    return numbers
