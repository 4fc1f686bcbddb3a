"""How a red-team trial is shown: a table, a picture and a page."""

from typing import Any

from rich.console import Console
from rich.text import Text

from ..pages import BLUE, STYLE, VERMILION, Cell, Picture, Section, Table, save, write_page
from .runs import NO_ATTACK, ROBUST, RunResult
from .verdict import MOVED, Rows, Standard, verdict

_MARKS = (VERMILION, "s", -0.14), (BLUE, "o", 0.14)  # colour, marker, offset
_MOVED = """"Moved" is the distance of a final model from that of your own strategy's clean run, in
units of the distance which training covered there. Byzantine clients attack in training only; they
evaluate honestly.

Every number of every round: runs/*/events.jsonl. The output of each run: runs/*/log.txt."""


def report(rows: Rows, standard: Standard, console: Console) -> None:
    """Print the results, and write a picture and a page beside the folders of the runs."""
    run, conclusion, remarks = rows[NO_ATTACK][0].run, verdict(rows, standard), notes(rows)
    byzantine = f"{run.num_byzantine} Byzantine among {run.num_nodes} clients"
    title = f"{run.app.folder.name} with {byzantine}"
    lines = [[Cell(attack), *(_cell(each, standard) for each in rows[attack])] for attack in rows]
    table = Table(["attack", *_names(rows)], lines)
    png, svg = save(draw(rows, standard), run.results / "redteam")
    picture = Picture(svg, f"The table as a picture: {standard.measure}")
    text = f"{standard.definition} {_MOVED}"
    page = run.results / "redteam.html"
    write_page(page, title, conclusion, [Section("Attacks", text, [picture], [table])], remarks)
    console.print(Text(f"\n{title}", "bold"))
    console.print(table.for_terminal())
    console.print(Text("\n- ".join([standard.definition, *remarks])))
    console.print(Text(f"\n{conclusion}\n", "bold"))
    console.print(Text(f"{page}\n{png}\n{run.results / 'runs'}"))


def notes(rows: Rows) -> list[str]:
    """Return what is not carried over, and the reasons of runs that did not finish."""
    made = [note for _, robust in rows.values() for note in robust.notes]
    for attack, row in rows.items():
        for name, result in zip(_names(rows), row, strict=True):
            if result.reason:
                made.append(f"{attack}, {name}: {result.end}: {result.reason}")
    return list(dict.fromkeys(made))


def draw(rows: Rows, standard: Standard) -> Any:
    """Draw the results, an attack a line; what is broken lies in a grey area."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    measure, start, clean = standard.measure, standard.start, standard.clean
    values = [measure.final(result) for row in rows.values() for result in row]
    near = [v for v in values if v is not None and abs(v - clean) <= 1.6 * abs(clean - start)]
    low, high = min([start, clean, *near]), max([start, clean, *near])
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    broken = low if measure.higher_is_better else high, standard.threshold
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.5, 1.9 + 0.48 * len(rows)))
        axes = figure.subplots()
        axes.set(xlim=(low, high), ylim=(len(rows) - 0.5, -0.5), xlabel=measure)
        axes.set_yticks(range(len(rows)), rows)
        axes.axvspan(*broken, color="#999999", alpha=0.18, linewidth=0)
        axes.text(sum(broken) / 2, -0.42, "broken", color="#555555", ha="center", va="top")
        for number, row in enumerate(rows.values()):
            for result, (*style, offset) in zip(row, _MARKS, strict=True):
                if result.end != "not attacked":
                    _mark(axes, number + offset, result, standard, *style)
        if measure.is_share:
            axes.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
        for name, (colour, marker, _) in zip(_names(rows), _MARKS, strict=True):
            axes.plot([], [], marker, color=colour, label=name)
        figure.legend(loc="outside lower center", ncol=2)
    return figure


def _mark(
    axes: Any, height: float, result: RunResult, standard: Standard, colour: str, marker: str
) -> None:
    """Mark a result: in words, at the bad side, where it is no number within the axes."""
    measure, value, (low, high) = standard.measure, standard.value(result), axes.get_xlim()
    if value is not None and low <= value <= high:
        axes.plot(value, height, marker, color=colour, markersize=8, clip_on=False)
        return
    words = measure.text(value) if value is not None else standard.failure(result) or "no value"
    share, side = (0.022, "left") if measure.higher_is_better else (0.978, "right")
    style = {"color": colour, "transform": axes.get_yaxis_transform()}
    axes.plot(share, height, "x", markersize=8, markeredgewidth=2, clip_on=False, **style)
    axes.text(share, height, f"   {words}   ", ha=side, va="center", **style)


def _cell(result: RunResult, standard: Standard) -> Cell:
    text = standard.describe(result)
    if result.end == "finished" and result.moved is not None and standard.measure != MOVED:
        text += f" (moved {result.moved:,.3g})"
    return Cell(text, "broken" if standard.failure(result) else "")


def _names(rows: Rows) -> tuple[str, str]:
    return f"{rows[NO_ATTACK][0].strategy} (yours)", ROBUST
