"""The error that stays: how it goes with N, d, q and k."""

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from flwr_byz.theory import c_alpha

from ..engine import AWAY, NOBODY, Cell
from ..statistics import Estimate, contractions, determination, estimate, ratio, slope
from .claim import BASE, REAL, SUMMARISED, Claim, Number, Runs, ends, per_cell, slope_number
from .drawing import against, dashed, fitted_line, legend_above, points

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


FLOOR_IN_N = Claim(
    "floor-n",
    "Floor against N",
    "Corollary 1",
    "The error that stays falls as 1/√N.",
    f"{REAL} m = 32, k = 16, q = 4, d = 20.",
    lambda: per_cell(N_SWEEP, 208),
    judge_floor_in_n,
)


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


FLOOR_IN_D = Claim(
    "floor-d",
    "Floor against d",
    "Corollary 1",
    "The error that stays grows as √d.",
    f"{REAL} m = 32, k = 8, q = 2, N/m = 1000.",
    lambda: per_cell(D_SWEEP, 150),
    judge_floor_in_d,
)


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


FLOOR_IN_Q = Claim(
    "floor-q",
    "Floor against q",
    "Remark 1",
    "The error that stays grows no faster than √q.",
    f"{REAL} m = 64, k = 4q, N/m = 400, d = 20.",
    lambda: per_cell(Q_SWEEP, 208),
    judge_floor_in_q,
)


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
        Number("does the floor grow with k?", _grows(fitted)),
        Number("k of the smallest floor", str(best.k)),
        Number("floor at k = m beside the smallest", str(last)),
        Number(
            "where nobody attacks: floor at k = m beside k = 10",
            str(estimate(ends(runs, [K_CALM[-1], K_CALM[0]]), ratio)),
        ),
    ]


def _grows(fitted: Estimate) -> str:
    if fitted.low <= 0 <= fitted.high:
        return "cannot be told"
    return "yes" if fitted.low > 0 else "no, it falls"


CHOICE_OF_K = Claim(
    "choice-of-k",
    "The choice of k",
    "Remark 1",
    "At fixed q the error grows no faster than √k. Whether it grows at all, the paper leaves open.",
    f"{REAL} m = 64, q = 4, N/m = 200, d = 20.",
    lambda: per_cell(K_SWEEP, 150) | per_cell(K_CALM, 30),
    judge_choice_of_k,
)


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


UNEVEN_DATA = Claim(
    "uneven",
    "Uneven data",
    "section 1.2",
    "The results extend to clients with amounts of data of the same order.",
    f"{SUMMARISED} Client sizes from n/2 to 3n/2; m = 32, k = 16, q = 4, d = 20.",
    lambda: per_cell(UNEVEN_SWEEP, 208) | per_cell([UNEVEN_SWEEP[2], EVEN], 500),
    judge_uneven,
)


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


LOGISTIC = Claim(
    "logistic",
    "Logistic regression",
    "Theorem 1",
    "The same rate where no constant is known.",
    f"{REAL} ‖θ*‖ = 1, m = 32, k = 8, q = 2, d = 10; η = L/(2M²), L at θ*, M = ¼.",
    lambda: per_cell(LOGISTIC_SWEEP, 208),
    judge_logistic,
)
