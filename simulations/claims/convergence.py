"""How fast the error falls, round by round, and how many rounds it takes."""

from functools import lru_cache

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from clients.problem import make_problem
from clients.regression import LinearRegression
from flwr_byz.aggregation import split_into_batches
from flwr_byz.theory import c_alpha, contraction, sharp_c_alpha, step_contraction

from .claim import Number, by, errors
from .drawing import LINES, RATE, by_round, dashed, points, rate_line, title
from .floor import slope_number
from .statistics import contractions, determination, estimate, mean, rounds_until


def judge_convergence(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Compare every round of every run with the paper's bound, and with the data's own."""
    axes = figure.subplots()
    rounds = np.arange(runs.num_rounds.max() + 1)
    for (attack, cell), colour in zip(by(runs, "attack").items(), LINES, strict=False):
        values = errors(cell)
        axes.plot(rounds, np.median(values, axis=0), color=colour, label=title(str(attack)))
        spread = np.quantile(values, [0.05, 0.95], axis=0)
        axes.fill_between(rounds, *spread, color=colour, alpha=0.12, lw=0)
    bound = contraction(1.0, 1.0) ** rounds * np.median(errors(runs)[:, 0])
    dashed(axes, rounds, bound, "(½ + √3/4)ᵗ ‖θ0 − θ*‖")
    rate_line(axes, runs)
    by_round(figure, axes)
    typical = estimate([contractions(errors(runs))], mean)
    return [
        *every_round(runs),
        Number("mean contraction of a round", str(typical)),
        Number(f"largest final error beside {RATE}", f"{(runs.final / runs.rate).max():.2f}"),
    ]


def every_round(runs: pd.DataFrame) -> list[Number]:
    """Compare the errors before and after each round.

    Corollary 1 allows a factor f = ½ + √3/4 and leaves a constant open. With 1 for it, so that
    f·e + (1 − f)·C_α√(dk/N) is allowed after e, its bound is C_α√(dk/N) in the end. What Lemma 4
    and sharper factors allow follows from each run's own data: (1 − η + ηξ2)·e + ηξ1.
    """
    values, factor = errors(runs), contraction(1.0, 1.0)
    before, after = values[:, :-1], values[:, 1:]
    share = (runs.q / runs.k).to_numpy()[:, None]
    floor = np.vectorize(c_alpha)(share) * runs.rate.to_numpy()[:, None]
    most = float(((after - (1 - factor) * floor) / before).max())
    far = before > 2 * floor
    own = [strays(*each) for each in runs[["problem", "num_clients", "k", "seed"]].values]
    xi_1, xi_2 = np.vectorize(sharp_c_alpha)(share) * np.transpose(own)[..., None]
    step = LinearRegression.server_learning_rate
    allowed = (step_contraction(step, 1.0, 1.0) + step * xi_2) * before + step * xi_1
    ratio = after / allowed
    return [
        Number(
            f"largest (e′ − floor's part)/e of {after.size} rounds, near the floor as well",
            f"{most:.3f}",
            f"at most {factor:.3f}",
            most <= factor,
        ),
        Number(
            f"largest e′/e of {far.sum()} rounds from twice C_α {RATE}",
            f"{(after / before)[far].max():.3f}",
        ),
        Number(
            "1 − η(L − ξ2) of the runs' own data",
            f"{(1 - step + step * xi_2).min():.2f} to {(1 - step + step * xi_2).max():.2f}",
        ),
        Number(
            f"largest error after one of {ratio.size} rounds beside what these data allow",
            f"{ratio.max():.2f}",
            "at most 1",
            bool(ratio.max() <= 1),
        ),
    ]


@lru_cache(maxsize=1024)
def strays(problem: str, num_clients: int, num_batches: int, seed: int) -> tuple[float, float]:
    """Return the largest ‖∇f̄(θ*)‖ and ‖Ĥ − H‖ of a run's batches."""
    made = make_problem(problem, num_clients, seed)
    assert isinstance(made, LinearRegression)
    data = [made.data(client) for client in range(num_clients)]
    noises = [x.T @ (y - x @ made.optimum()) / len(y) for x, y in data]
    excess = [x.T @ x / len(x) - np.eye(made.dim) for x, _ in data]
    batches = split_into_batches(range(num_clients), num_batches)
    first = max(np.linalg.norm(np.mean([noises[c] for c in batch], axis=0)) for batch in batches)
    second = max(
        np.linalg.norm(np.mean([excess[c] for c in batch], axis=0), ord=2) for batch in batches
    )
    return float(first), float(second)


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
