"""What a claim is: where it stands, the runs that try it, and its judge."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from ..engine import AWAY, Cell, Placement
from ..records import Errors
from ..statistics import estimate, slope

Plan = dict[Cell, int]
Runs = Mapping[Cell, Errors]


@dataclass(frozen=True)
class Number:
    """A measured number, what it should be, and whether it is (None: for information)."""

    label: str
    value: str
    wanted: str = ""
    holds: bool | None = None


@dataclass(frozen=True)
class Claim:
    """One claim: where it stands, the runs of it, and its judge, who draws and measures.

    Attributes
    ----------
    name, title, source, says, setting : str
    plan : callable
        Returns the number of runs of each cell.
    judge : callable
        Draws into the figure and returns the numbers.
    is_question : bool, default False
        Whether the paper leaves it open, so that each number is an answer of its own.
    """

    name: str
    title: str
    source: str
    says: str
    setting: str
    plan: Callable[[], Plan]
    judge: Callable[[Runs, Figure], list[Number]]
    is_question: bool = False


REAL = "Real clients and data, in process."
SUMMARISED = "Data drawn as sufficient statistics, in process."

BASE = Cell("linear regression", m=32, k=16, q=4, n=200, d=20, attack=AWAY, rounds=20)
PLACEMENTS: tuple[Placement, ...] = ("one per batch", "packed", "fresh each round", "rotating")


def ends(runs: Runs, cells: Sequence[Cell]) -> list[Errors]:
    """Return the final errors of each cell's runs."""
    return [runs[cell][:, -1] for cell in cells]


def per_cell(cells: Sequence[Cell], num_runs: int) -> Plan:
    """Plan as many runs of each cell."""
    return dict.fromkeys(cells, num_runs)


def slope_number(
    runs: Runs, cells: Sequence[Cell], along: Sequence[float], low: float, high: float, of: str
) -> Number:
    """Fit the slope of the floor and compare its interval with what the paper allows."""
    fitted = estimate(ends(runs, cells), slope(along))
    wanted = f"between {low:g} and {high:g}".replace("-", "−")
    label = f"slope of the floor in {of}, {fitted.num_runs} runs"
    return Number(label, str(fitted), wanted, fitted.within(low, high))
