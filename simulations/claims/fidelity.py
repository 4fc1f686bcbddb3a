"""Whether runs in this process are those of Flower's simulation."""

import pandas as pd
from matplotlib.figure import Figure

from .claim import Number, beside, by
from .drawing import LINES, MARKERS, by_round, title


def judge_engine(runs: pd.DataFrame, figure: Figure) -> list[Number]:
    """Compare errors number by number, and drawn summaries with real data on average."""
    drawn = runs.name.str.contains(":")
    pairs = runs[~drawn].set_index(["attack", "seed", "through"])["values"].unstack()
    axes = figure.subplots()
    for place, ((attack, _), pair) in enumerate(pairs.iterrows()):
        colour, marker = LINES[place % len(LINES)], MARKERS[place % len(MARKERS)]
        axes.plot(pair.flower, marker, color=colour, markersize=5, label=title(attack))
        axes.plot(pair.process, "-", color=colour, linewidth=1)
    by_round(figure, axes, "round t (points: through Flower, lines: in process)")
    same = int((pairs.flower == pairs.process).sum())
    errors = int(pairs.flower.str.len().sum())
    numbers = [
        Number(
            f"runs of {len(pairs)} through Flower that equal those in process in all digits "
            f"({errors} errors)",
            str(same),
            str(len(pairs)),
            same == len(pairs),
        )
    ]
    for n, cell in by(runs[drawn], "n").items():
        summaries = cell.problem.str.startswith("Summarized")
        found = beside(cell[summaries], cell[~summaries])
        label = f"drawn summaries beside real samples, n = {n}: floor, {found.num_runs} runs"
        wanted = "within 0.98 and 1.02"
        numbers.append(Number(label, str(found), wanted, found.within(0.98, 1.02)))
    return numbers
