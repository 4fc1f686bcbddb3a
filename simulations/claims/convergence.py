"""How fast the error falls, and the bound that it keeps."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from clients.summarized_regression import SummarizedRegression, summaries
from flwr_byz.pages import BLUE, COLOURS
from flwr_byz.theory import (
    Guarantee,
    c_alpha,
    contraction,
    error_bound,
    error_floor,
    linear_regression,
    theorem_5,
)

from .claim import Number, by, errors, largest_contraction
from .drawing import GREY, LINES, RATE, by_round, dashed, points, rate_line, title
from .floor import slope_number
from .statistics import contractions, determination, estimate, mean, rounds_until, share


def judge_convergence(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Compare every run's contraction with the paper's."""
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
        largest_contraction(runs),
        Number("mean contraction of a round", str(typical)),
        Number(f"largest final error beside {RATE}", f"{(runs.final / runs.rate).max():.2f}"),
    ]


DELTA = 0.02  # of Theorem 5


def alpha_of(q: int, k: int) -> float:
    """Return the α of Theorem 5, in the middle between q/k and ½."""
    return (q / k + 0.5) / 2


def guarantee(m: int, n: int, d: int, k: int, q: int) -> Guarantee:
    """Return what Theorem 5 guarantees, with r = 3."""
    batch_samples = m * n / k
    return theorem_5(
        num_batches=k,
        num_byzantine=q,
        batch_samples=batch_samples,
        dim=d,
        alpha=alpha_of(q, k),
        delta=DELTA,
        constants=linear_regression(batch_samples, d, DELTA),
        r=3.0,
    )


def measured_precision(m: int, n: int, d: int, k: int, q: int) -> tuple[float, float]:
    """Return ξ1 and ξ2 that a batch keeps with probability 1 − δ, from drawn batches.

    The paper bounds them (Theorem 3). Here they are C_α times the quantiles at 1 − δ/2 of what a
    batch strays by: ‖∇f̄(θ*)‖, and the norm of the difference of the Hessians.
    """
    batches = SummarizedRegression(num_clients=10_000, samples_per_client=m * n // k, dim=d)
    _, covariances, noises = summaries(batches)
    curvatures = np.abs(np.linalg.eigvalsh(covariances - np.eye(d))).max(axis=1)
    strays = np.linalg.norm(noises, axis=1), curvatures
    xi_1, xi_2 = (
        c_alpha(alpha_of(q, k)) * float(np.quantile(stray, 1 - DELTA / 2)) for stray in strays
    )
    return xi_1, xi_2


def judge_theorem(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Count the runs that leave the bound in any round."""
    sizes = [int(size) for size in runs.iloc[0][["num_clients", "n", "d", "k", "q"]]]
    stated, (xi_1, xi_2) = guarantee(*sizes), measured_precision(*sizes)
    measured = {"L": 1.0, "M": 1.0, "xi_1": xi_1, "xi_2": xi_2}
    bounds = {
        "bound of Theorem 5": (stated.error_after, stated.floor),
        "Theorem 2, measured ξ1, ξ2": (
            lambda t, start: error_bound(t, start, **measured),
            error_floor(**measured),
        ),
    }
    values = errors(runs)
    rounds = np.arange(values.shape[1])
    axes = figure.subplots()
    axes.plot(rounds, values.max(axis=0), color=BLUE, label="largest error of all runs")
    axes.plot(rounds, np.median(values, axis=0), color=COLOURS[2], label="median error")
    numbers = []
    failure = 1 - stated.success_probability
    for (name, (error_after, floor)), line in zip(bounds.items(), ("--", "-."), strict=True):
        from_one = np.array([error_after(int(t), 1.0) for t in rounds])
        bound = (from_one - floor) * values[:, :1] + floor
        axes.plot(rounds, np.median(bound, axis=0), line, color=GREY, label=name)
        failed = share((values > bound)[:, 1:].any(axis=1))
        numbers += [
            Number(
                f"{name}: share of {len(values)} runs that leave it in some round",
                str(failed),
                f"at most {failure:.3f}, the probability stated",
                failed.high <= failure,
            ),
            Number(
                f"{name}: its floor beside the largest final error",
                f"{floor / runs.final.max():.0f} times",
            ),
        ]
    rate_line(axes, runs)
    by_round(figure, axes)
    return numbers


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
