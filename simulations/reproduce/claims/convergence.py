"""How fast the error falls, and the bound that it keeps."""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from matplotlib.figure import Figure

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

from ..engine import AWAY, NOBODY, Cell
from ..problems import SummarisedRegression, summaries
from ..statistics import contractions, determination, estimate, rounds_until, share
from .claim import BASE, REAL, SUMMARISED, Claim, Number, Plan, Runs, per_cell, slope_number
from .drawing import BLUE, COLOURS, GREY, SKY, by_round, dashed, points, title

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


CONVERGENCE = Claim(
    "convergence",
    "Convergence",
    "Corollary 1",
    "The error contracts by at most ½ + √3/4 a round, whoever attacks.",
    f"{REAL} m = 32, k = 16, q = 4, N/m = 200, d = 20.",
    plan_convergence,
    judge_convergence,
)


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


BOUND = Claim(
    "theorem",
    "The bound, constants and all",
    "Theorem 5",
    "Where its conditions hold, no more runs leave the bound than it states.",
    f"{SUMMARISED} The explicit constants ask for N/k = 10⁹: m = 32, k = 16, q = 4, "
    "d = 20, α = 3/8, δ = 0.02.",
    plan_theorem,
    judge_theorem,
)


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


ROUNDS = Claim(
    "rounds",
    "Rounds",
    "Theorem 1",
    "The floor is reached in a number of rounds linear in log N.",
    f"{SUMMARISED} m = 32, k = 8, q = 2, d = 20.",
    lambda: per_cell(ROUNDS_SWEEP, 150),
    judge_rounds,
)
