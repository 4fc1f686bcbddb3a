"""Whether runs in this process are those of Flower's simulation."""

from dataclasses import replace
from importlib.metadata import version

from matplotlib.figure import Figure

from flwr_byz import attacks

from ..engine import NOBODY, Cell
from ..statistics import estimate, ratio
from .claim import BASE, Claim, Number, Plan, Runs, ends, per_cell
from .drawing import COLOURS, GREY, MARKERS, by_round, title

FLOWER = [
    Cell(
        "linear regression",
        m=40,
        k=20,
        q=5,
        n=50,
        d=20,
        attack=attack,
        rounds=12,
        trimmed=True,
        through="flower",
    )
    for attack in (
        NOBODY,
        repr(attacks.SignFlip(10.0)),
        repr(attacks.GaussianNoise(200.0)),
        repr(attacks.InnerProductManipulation(10.0)),
        repr(attacks.ALittleIsEnough()),
        repr(attacks.FangTrimmedMean()),
        repr(attacks.BatchTakeover()),
        repr(attacks.Adaptive()),
    )
]
DRAWN = [replace(BASE, n=n, problem="summarised regression") for n in (200, 800)]


def plan_engine() -> Plan:
    """Plan runs through Flower and the same ones without; drawn summaries beside real data."""
    alone = [replace(cell, through="engine") for cell in FLOWER]
    real = [replace(cell, problem="linear regression") for cell in DRAWN]
    return per_cell([*FLOWER, *alone], 1) | per_cell([*DRAWN, *real], 500)


def judge_engine(runs: Runs, figure: Figure) -> list[Number]:
    """Compare errors number by number, and drawn summaries with real data on average."""
    axes = figure.subplots()
    same = 0
    for cell, colour, marker in zip(FLOWER, [*COLOURS, GREY], MARKERS + "P", strict=True):
        flower, alone = runs[cell][0], runs[replace(cell, through="engine")][0]
        same += bool((flower == alone).all())
        axes.plot(flower, marker, color=colour, markersize=5, label=title(cell.attack))
        axes.plot(alone, "-", color=colour, linewidth=1)
    by_round(figure, axes)
    axes.set_xlabel("round t (points: through Flower, lines: engine)")
    rounds = len(FLOWER) * (FLOWER[0].rounds + 1)
    numbers = [
        Number(
            f"runs of {len(FLOWER)} through Flower that equal the engine's in all digits "
            f"({rounds} errors)",
            str(same),
            str(len(FLOWER)),
            same == len(FLOWER),
        )
    ]
    for cell in DRAWN:
        real = replace(cell, problem="linear regression")
        beside = estimate(ends(runs, [cell, real]), ratio)
        numbers.append(
            Number(
                f"drawn summaries beside real samples, n = {cell.n}: floor, {beside.num_runs} runs",
                str(beside),
                "1 in the interval",
                beside.low <= 1 <= beside.high,
            )
        )
    return numbers


ENGINE = Claim(
    "engine",
    "The engine",
    "this repository",
    "Runs in process are those of Flower's simulation, to the last bit.",
    "m = 40, k = 20, q = 5, N/m = 50, d = 20, "
    f"through Flower {version('flwr')} and Ray, and without.",
    plan_engine,
    judge_engine,
)
