"""The planner's expected errors beside those of trainings, in settings drawn at random.

Pilot gradients at a few models are all that the planner gets to see of a problem.
"""

from dataclasses import dataclass
from functools import partial
from math import sqrt

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from flwr_byz import theory
from flwr_byz.aggregation import split_into_batches
from simulations.monte_carlo import descend

from .claim import Number, at_least
from .drawing import ERROR, GREY, LINES, MARKERS, dashed
from .statistics import Array

SETTINGS, RUNS = 60, 16
WITHIN = 0.15
PILOT_SAMPLES = 2000


@dataclass(frozen=True)
class Setting:
    """A linear regression with features N(0, H), and what a plan is asked for.

    The curvatures, H's eigenvalues, go from 1/κ to 1. Skewed data have a constant feature in place
    of the flattest, and exponential noise.
    """

    num_clients: int
    num_byzantine: int
    samples_per_client: int
    dim: int
    kappa: float
    skewed: bool
    num_batches: int | None

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Setting":
        """Draw one: m from 12 to 60, q up to 0.4m, d from 3 to 40, κ up to 30, n from 2d to 40d.

        In every other one k is the plan's, else a divisor of m.
        """
        m, d = int(rng.integers(12, 61)), int(rng.integers(3, 41))
        q = int(rng.integers(0, 0.4 * m + 1))
        divisors = [k for k in range(2 * q + 1, m + 1) if m % k == 0]
        return cls(
            num_clients=m,
            num_byzantine=q,
            samples_per_client=int(np.exp(rng.uniform(np.log(2 * d), np.log(40 * d)))),
            dim=d,
            kappa=float(np.exp(rng.uniform(0, np.log(30)))),
            skewed=bool(rng.integers(2)),
            num_batches=int(rng.choice(divisors)) if rng.integers(2) else None,
        )

    @property
    def curvatures(self) -> Array:
        """Those along the features."""
        found = np.geomspace(1 / self.kappa, 1, self.dim)
        return np.r_[1.0, found[1:]] if self.skewed else found

    def samples(self, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Draw features (count, d) and noise (count,)."""
        features = rng.normal(size=(count, self.dim)) * np.sqrt(self.curvatures)
        if not self.skewed:
            return features, rng.normal(size=count)
        features[:, 0] = 1
        return features, rng.exponential(size=count) - 1

    def plan(self, rng: np.random.Generator) -> theory.Plan:
        """Plan by gradients of pilot samples at d + 2 models near θ*."""
        features, noise = self.samples(PILOT_SAMPLES, rng)
        models = np.r_[np.zeros((1, self.dim)), 0.1 * rng.normal(size=(self.dim + 1, self.dim))]
        gradients = (models @ features.T - noise)[..., None] * features
        return theory.plan(
            num_clients=self.num_clients,
            num_byzantine=self.num_byzantine,
            samples_per_client=self.samples_per_client,
            dim=self.dim,
            num_batches=self.num_batches,
            statistics=theory.estimate_statistics(models, gradients),
        )

    def measure(self, num_batches: int, rng: np.random.Generator) -> float:
        """Return the root mean square error of trainings under the strongest attack known.

        In each round the adversary takes the q batches that gain it most, and pushes along
        H⁻¹(θ − θ*); of the two sides of θ* where the model can end that is the farther one.
        """
        d, shape = self.dim, (RUNS, num_batches)
        sizes = map(len, split_into_batches(range(self.num_clients), num_batches))
        drawn = [self.samples(b * self.samples_per_client, rng) for b in [*sizes] * RUNS]
        hessians = np.array([w.T @ w / len(w) for w, _ in drawn]).reshape(*shape, d, d)
        offsets = np.array([w.T @ noise / len(w) for w, noise in drawn]).reshape(*shape, d)
        start = 0.3 * rng.normal(size=(RUNS, d))
        follow = partial(
            descend,
            hessians=hessians,
            offsets=offsets,
            num_byzantine=self.num_byzantine,
            rounds=int(30 + 5 * self.kappa),
            step=1.4 / (1 + 1 / self.kappa),
            curvatures=self.curvatures,
        )
        ends = follow(start)[-1]
        across = follow(-ends)[-1]
        return sqrt(np.square([ends, across]).sum(axis=2).max(axis=0).mean())


def judge_planned(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Compare expected errors with measured ones, where the plan has doubts and where not."""
    sure, doubted = [], []
    for seed in range(SETTINGS):
        rng = np.random.default_rng([seed, SETTINGS])
        setting = Setting.draw(rng)
        made = setting.plan(rng)
        if np.isfinite(made.expected_error):
            pair = setting.measure(made.num_batches, rng), made.expected_error
            (doubted if made.doubts else sure).append(pair)
    axes = figure.subplots()
    for style, (pairs, label) in enumerate(((sure, "no doubts"), (doubted, "with doubts"))):
        look = {"color": LINES[style], "markersize": 5, "label": label}
        axes.plot(*np.transpose(pairs), MARKERS[style], **look)
    ends = [min(min(sure)), max(max(sure + doubted))]
    dashed(axes, ends, ends, "as measured")
    axes.fill_between(ends, *np.outer([1 - WITHIN, 1 + WITHIN], ends), color=GREY, alpha=0.15)
    axes.set(xscale="log", yscale="log", xlabel=f"measured {ERROR}", ylabel="expected by the plan")
    axes.legend()
    off, off_doubted = (np.divide(*np.transpose(pairs)[::-1]) - 1 for pairs in (sure, doubted))
    close = int((np.abs(off) <= WITHIN).sum())
    return [
        at_least(f"settings of {SETTINGS} on which the plan has no doubts", len(sure), 30),
        Number(
            f"of these expected within {WITHIN:.0%} of the measured error",
            str(close),
            str(len(sure)),
            close == len(sure),
        ),
        Number("off by", f"{off.min():+.0%} to {off.max():+.0%}, {np.mean(off):+.0%} on average"),
        Number(
            f"with doubts, and errors finite: within {WITHIN:.0%}",
            f"{(np.abs(off_doubted) <= WITHIN).sum()} of {len(doubted)}",
        ),
    ]
