"""Where a client has few data, and what other methods do there (the paper's section 1.3)."""

from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from clients.run import NO_ATTACK

from .adversary import ends_worse, shared
from .claim import Number, boundary, by, errors, paired
from .drawing import GREY, LINES, LOST, against, legend_below, points
from .floor import slope_number
from .statistics import rounds_until

DIM = 20
_AS_GOOD = 1.5  # times another method's error, at most
_IN_SIGHT = 20.0  # the largest error drawn


def judge_scarce(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Find from how many samples a client on training beats every client's own fit."""
    runs = runs.assign(final=runs.final.clip(upper=LOST))
    growing = runs[runs.name.str.endswith(": more clients")]
    own, trained = runs[runs.name.str.endswith(": own fit")], runs[~runs.name.str.contains(":")]
    alone = by(own, "n")
    left, right = figure.subplots(1, 2)
    numbers = []
    for style, (k, cell) in enumerate(by(trained, "k").items()):
        name = "k = m" if k == cell.num_clients.max() else f"k = {k}"
        cells = by(cell, "n")
        points(left, {n: each.final for n, each in cells.items()}, name, style)
        held = {
            n: not ends_worse(each).any() and bool(each.final.mean() < alone[n].final.mean())
            for n, each in reversed(cells.items())
        }
        label = f"{name}: n from which every run comes nearer, and nearer than a client alone"
        found = boundary(label, held, "from n = {} on", "n = d/2 or less")
        few = all(held[n] for n in cells if 2 * n >= DIM)
        numbers.append(replace(found, holds=few))
        left_over = {
            n: float((each.final / each["values"].str[0]).mean()) for n, each in cells.items()
        }
        numbers.append(
            Number(
                f"{name}: error at the end beside the start, n up to d",
                ", ".join(f"{left:.2f} at {n}" for n, left in left_over.items() if n <= DIM),
            )
        )
        gains = {n: paired(each, alone[n]) for n, each in cells.items() if n in (5, 20, 80)}
        numbers += [
            Number(f"{name}: error beside a client's own fit, n = {n}", str(gain))
            for n, gain in gains.items()
        ]
    seen = {n: cell.final.clip(upper=_IN_SIGHT) for n, cell in alone.items()}
    points(left, seen, "a client alone", 2)
    against(left, "samples n of a client, d = 20", list(alone))
    points(right, {N: cell.final for N, cell in by(growing, "N").items()}, "n = 10")
    against(right, "samples N of all clients", list(by(growing, "N")))
    legend_below(figure, left)
    right.set_title("n = 10, k = 8")
    falls = slope_number(growing, "N", -0.65, -0.35)
    return [*numbers, replace(falls, label=f"more clients at n = d/2: {falls.label}")]


def judge_baselines(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Compare one-shot aggregation and stochastic descent with descent, and under attack."""
    runs = runs.assign(final=runs.final.clip(upper=LOST))
    single = runs.rule.str.startswith("OneClient")
    one_shot = runs.problem.str.startswith("OneShot")
    clean, mean = runs.attack == NO_ATTACK, runs.rule == "FedAvg"
    descent, stochastic = runs[mean & clean & ~one_shot], runs[single & clean]
    robust = ~mean & ~single
    pairs = {
        "one-shot mean, no attack": (runs[mean & clean & one_shot], descent),
        "one-shot median, q = 4": (runs[robust & one_shot], runs[robust & ~one_shot]),
    }
    left, right = figure.subplots(1, 2)
    numbers = []
    for style, (name, cells) in enumerate(pairs.items()):
        by_size = [by(each, "n") for each in cells]
        for part, sizes in enumerate(by_size):
            label = name if part == 0 else ("gradient descent", "GMoM, q = 4")[style]
            drawn = {n: cell.final.clip(upper=_IN_SIGHT) for n, cell in sizes.items()}
            points(left, drawn, label, 2 * style + part)
        ratios = {n: paired(cell, by_size[1][n]) for n, cell in reversed(by_size[0].items())}
        held = {n: each.high <= _AS_GOOD for n, each in ratios.items()}
        label = f"{name}: n from which its error is at most {_AS_GOOD} times that of descent"
        found = boundary(label, held, "from n = {} on", f"only n > d = {DIM}")
        scarce = any(each for n, each in held.items() if n <= DIM)
        numbers.append(replace(found, holds=found.holds and not scarce))
        numbers += [Number(f"{name}: beside descent, n = {n}", str(r)) for n, r in ratios.items()]
    against(left, "samples n of a client, d = 20", list(by(descent, "n")))
    same = descent[descent.n == stochastic.n.max()]
    attacked = runs[single & ~clean]
    for label, cell, colour in (
        ("gradient descent", same, LINES[1]),
        ("one client a round", stochastic, LINES[4]),
        ("one client a round, q = 4", attacked, GREY),
    ):
        right.plot(np.median(errors(cell), axis=0), color=colour, label=label)
    right.set(yscale="log", xlabel="round t")
    right.set_ylim(top=2 * _IN_SIGHT)
    right.legend()
    legend_below(figure, left)
    level = 2 * float(same.final.mean())
    rounds = [float(np.median(rounds_until(errors(cell), level))) for cell in (stochastic, same)]
    ruined = runs[mean & ~clean]
    return [
        *numbers,
        Number(
            f"one client a round: rounds until {level:.2f}, twice the error that descent ends at",
            f"{rounds[0]:.0f}, of descent {rounds[1]:.0f}",
            "at least 3 times as many",
            rounds[0] >= 3 * rounds[1],
        ),
        shared(
            "one-shot mean, q = 1: {} that end further off than they began", ends_worse(ruined), 1
        ),
        shared("one client a round, q = 4: {} that do", ends_worse(attacked), 1),
    ]
