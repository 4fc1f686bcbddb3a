"""What a round costs the server: the median's iterations, and time."""

from itertools import product

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import linregress

from flwr_byz.aggregation import geometric_median

from .claim import Number, at_most, by
from .drawing import LINES, MARKERS
from .statistics import estimate, slope

SIZES = tuple(product((20, 80), (20, 1000)))  # k and d
SHARES = 0.0, 0.25, 0.45  # of the points, at one point
REACHES = 10.0, 1e6  # of which it is so far off
TOLERANCES = 10.0 ** -np.arange(1, 13)
_LATE = 5  # from here on a power of 1/γ is steeper than any of its logarithm


def steps(num_points: int, dim: int, share: float, reach: float) -> list[int]:
    """Return the solver's iterations for each γ."""
    points = np.random.default_rng([num_points, dim]).normal(size=(num_points, dim))
    points[: int(share * num_points)] = reach * np.eye(dim)[0]
    return [geometric_median(points, gamma=gamma).iterations for gamma in TOLERANCES]


def judge_server(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Fit the solver's iterations against log(1/γ), and the server's time against m, k and d."""
    left, right = figure.subplots(1, 2)
    along = np.log(1 / TOLERANCES)
    taken = {
        sizes: np.array([steps(*sizes, *each) for each in product(SHARES, REACHES)])
        for sizes in SIZES
    }
    for style, ((k, d), each) in enumerate(taken.items()):
        look = {"color": LINES[style], "markersize": 4, "label": f"k = {k}, d = {d}"}
        left.plot(along, each.max(axis=0), MARKERS[style] + "-", **look)
    left.set(xlabel="log(1/γ)", ylabel="iterations", yscale="log")
    left.legend()
    every = np.concatenate(list(taken.values()))
    powers = [linregress(np.log(along), np.log(each)).slope for each in every]
    late = np.log(every[:, -1] / every[:, _LATE]) / np.log(along[-1] / along[_LATE])
    label = f"iterations as a power of log(1/γ), largest of {len(every)} settings"
    numbers = [
        at_most(label, max(powers), 3, digits=2),
        at_most(f"the same from γ = {TOLERANCES[_LATE]:.0e} on", late.max(), 3, digits=2),
        Number("largest number of iterations, γ from 0.1 to 1e-12", str(every.max())),
    ]
    runs = runs.assign(m=runs.num_clients)
    for style, column in enumerate("dmk"):
        times = by(runs[runs.name == f"server: {column}"], column)
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
