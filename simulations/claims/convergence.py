"""How fast the error falls, round by round, and how many rounds it takes."""

from functools import cache, lru_cache
from math import sqrt

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from clients.problem import make_problem
from clients.regression import LinearRegression
from flwr_byz.aggregation import split_into_batches
from flwr_byz.theory import c_alpha, contraction, sharp_c_alpha, step_contraction
from simulations.monte_carlo import trainings

from .claim import Number, at_most, by, errors, with_radius
from .drawing import LINES, RATE, by_round, dashed, points, rate_line, title
from .floor import slope_number
from .statistics import Array, contractions, determination, estimate, mean, rounds_until

FACTOR = contraction(1.0, 1.0)
STEP = LinearRegression.server_learning_rate
FEW = 25, 30, 40, 60, 80, 100, 200, 400  # samples of a batch, for d = 20 and k = 16


def judge_convergence(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Compare every round of every run with the paper's bound, and with the data's own."""
    axes = figure.subplots()
    rounds = np.arange(runs.num_rounds.max() + 1)
    for (attack, cell), colour in zip(by(runs, "attack").items(), LINES, strict=False):
        values = errors(cell)
        axes.plot(rounds, np.median(values, axis=0), color=colour, label=title(str(attack)))
        spread = np.quantile(values, [0.05, 0.95], axis=0)
        axes.fill_between(rounds, *spread, color=colour, alpha=0.12, lw=0)
    bound = FACTOR**rounds * np.median(errors(runs)[:, 0])
    dashed(axes, rounds, bound, "(½ + √3/4)ᵗ ‖θ0 − θ*‖")
    rate_line(axes, runs)
    by_round(figure, axes)
    typical = estimate([contractions(errors(runs))], mean)
    return [
        *every_round(runs),
        *(
            Number(f"k = 16, q = {q}: no round breaks the factor from N/k", from_which(q))
            for q in (4, 6, 7)
        ),
        Number("mean contraction of a round", str(typical)),
        Number(f"largest final error beside {RATE}", f"{(runs.final / runs.rate).max():.2f}"),
    ]


def factors(values: Array, floor: Array) -> Array:
    """Return what is left of the error after each round, beside the error before it.

    Corollary 1 allows a factor f = ½ + √3/4 and leaves a constant open. With 1 for it, the bound is
    C_α√(dk/N) in the end, the `floor`, so that (1 − f) of that is taken off for each round.
    """
    return np.asarray((values[:, 1:] - (1 - FACTOR) * floor) / values[:, :-1])


def every_round(runs: pd.DataFrame) -> list[Number]:
    """Compare every round with the paper's factor, and with what the run's own data allow.

    That is (1 − η + ηξ2)·e + ηξ1 after an error of e: Lemma 4 with the sharper factors, where ξ1
    and ξ2 are `sharp_c_alpha` times the largest deviations of the run's batches.
    """
    runs, values = with_radius(runs), errors(runs)
    before, after = values[:, :-1], values[:, 1:]
    share = (runs.q / runs.k).to_numpy()[:, None]
    floor = np.vectorize(c_alpha)(share) * runs.rate.to_numpy()[:, None]
    far, most = before > 2 * floor, float(factors(values, floor).max())
    curvatures = [
        curvature_radius(*each) for each in runs[["problem", "num_clients", "k", "seed"]].values
    ]
    own = np.stack([runs.radius, curvatures])[..., None]
    xi_1, xi_2 = np.vectorize(sharp_c_alpha)(share) * own
    own_factors = step_contraction(STEP, 1.0, 1.0) + STEP * xi_2
    ratio = float((after / (own_factors * before + STEP * xi_1)).max())
    return [
        at_most(
            f"largest (e′ − floor's part)/e of {after.size} rounds, near the floor as well",
            most,
            FACTOR,
        ),
        Number(
            f"largest e′/e of {far.sum()} rounds from twice C_α {RATE} on",
            f"{(after / before)[far].max():.3f}",
        ),
        Number(
            "1 − η(L − ξ2), of each run's own data",
            f"{own_factors.min():.2f} to {own_factors.max():.2f}",
        ),
        at_most("largest e′ beside what the run's own data allow", ratio, 1, digits=2),
    ]


@cache
def from_which(num_byzantine: int) -> str:
    """Return from how many samples of a batch on no round of 100 trainings breaks the factor."""
    sizes = {"num_batches": 16, "num_byzantine": num_byzantine, "dim": 20, "step": STEP}
    holds = []
    for n in FEW:
        floor = np.array(c_alpha(num_byzantine / 16) * sqrt(20 / n))
        values = trainings(
            count=100, batch_samples=n, rounds=20, distance=sqrt(20), seed=0, **sizes
        )
        holds.append(bool((factors(values, floor) <= FACTOR).all()))
    held = [n for place, n in enumerate(FEW) if all(holds[place:])]
    return f"{held[0]}, of {FEW[0]} to {FEW[-1]} tried" if held else f"more than {FEW[-1]}"


@lru_cache(maxsize=1024)
def curvature_radius(problem: str, num_clients: int, num_batches: int, seed: int) -> float:
    """Return the largest ‖Ĥ − H‖ of a run's batches."""
    made = make_problem(problem, num_clients, seed)
    assert isinstance(made, LinearRegression)
    features = [made.data(client)[0] for client in range(num_clients)]
    excess = np.array([x.T @ x / len(x) - np.eye(made.dim) for x in features])
    batches = split_into_batches(range(num_clients), num_batches)
    return max(float(np.linalg.norm(excess[[*b]].mean(axis=0), ord=2)) for b in batches)


def judge_rounds(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Fit the rounds until twice the floor against log N."""
    cells = {
        at: rounds_until(errors(cell), 2 * cell.final.mean()) for at, cell in by(runs, "N").items()
    }
    along = np.log(list(cells))
    axes = figure.subplots()
    points(axes, cells, "until twice the floor")
    line = np.polyfit(along, [cell.mean() for cell in cells.values()], 1)
    dashed(axes, list(cells), np.polyval(line, along), "straight line in log N")
    axes.set(xscale="log", xlabel="samples N", ylabel="rounds")
    axes.legend()
    fit = estimate(list(cells.values()), determination(along))
    label = f"R² of rounds against log N, {fit.num_runs} runs"
    return [
        Number(label, fit.with_digits(4), "at least 0.98", fit.low >= 0.98),
        Number("rounds for ten times the samples", f"{line[0] * np.log(10):.2f}"),
        slope_number(runs, "N", -0.55, -0.45),
    ]
