"""How a red-team trial is shown: a table, a picture and a page."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Column, Table

from .runs import NO_ATTACK, ROBUST, RunResult
from .verdict import NO_NUMBER, Row, Standard

# Colour (two that colour-blind readers tell apart, by Okabe and Ito), marker, offset.
_STYLES = ("#D55E00", "s", -0.14), ("#0072B2", "o", 0.14)


def table(rows: Sequence[Row], standard: Standard) -> Table:
    """Return the results as a table for a terminal."""
    columns = [Column(name, justify="right") for name in _names(rows)]
    attack = Column("attack", overflow="fold")
    made = Table(attack, *columns, caption=standard.definition, caption_justify="left")
    for row in rows:
        cells = (f"[red]{text}" if broken else text for text, broken in _cells(row, standard))
        made.add_row(row.attack, *cells, end_section=row.attack == NO_ATTACK)
    return made


def notes(rows: Sequence[Row]) -> list[str]:
    """Return what is not carried over, and the reasons of runs that did not finish."""
    made = dict.fromkeys(note for row in rows for note in row.robust.notes)
    for row in rows:
        for name, result in zip((row.own.strategy or "yours", ROBUST), row, strict=True):
            if result.reason:
                made[f"{row.attack}, {name}: {result.end}: {result.reason}"] = None
    return list(made)


def draw(rows: Sequence[Row], standard: Standard, title: str, path: Path) -> tuple[Path, Path]:
    """Draw the results; return the PNG and the SVG written, at a path without an ending."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 1.9 + 0.48 * len(rows)), layout="constrained")
    axes = figure.subplots()
    start, clean = standard.start, standard.clean
    values = [standard.measure.final(result) for row in rows for result in row]
    near = [v for v in values if v is not None and abs(v - clean) <= 1.6 * abs(clean - start)]
    low, high = min([start, clean, *near]), max([start, clean, *near])
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    axes.set(xlim=(low, high), ylim=(len(rows) - 0.5, -0.5), xlabel=standard.measure)
    broken = low if standard.measure.higher_is_better else high, standard.threshold
    axes.axvspan(*broken, color="#999999", alpha=0.18, linewidth=0)
    axes.text(sum(broken) / 2, -0.42, "broken", color="#555555", ha="center", va="top", fontsize=9)
    for number, row in enumerate(rows):
        axes.axhline(number, color="#dddddd", linewidth=0.8, zorder=0)
        for result, (colour, marker, offset) in zip(row, _STYLES, strict=True):
            if result.end != "not attacked":
                _mark(axes, number + offset, result, standard, colour, marker)
    axes.set_yticks(range(len(rows)), [row.attack for row in rows])
    axes.tick_params(axis="y", length=0)
    if standard.measure.is_share:
        axes.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title(title, fontsize=11)
    for name, (colour, marker, _) in zip(_names(rows), _STYLES, strict=True):
        axes.plot([], [], marker, color=colour, label=name)
    figure.legend(loc="outside lower center", ncol=2, frameon=False)
    png, svg = path.with_suffix(".png"), path.with_suffix(".svg")
    figure.savefig(png, dpi=150)
    with mpl.rc_context({"svg.hashsalt": "flwr-byz", "svg.fonttype": "none"}):
        figure.savefig(svg, metadata={"Date": None})
    return png, svg


def _mark(
    axes: Any, height: float, result: RunResult, standard: Standard, colour: str, marker: str
) -> None:
    """Mark a result: in words, at the bad side, where it is no number within the axes."""
    failure, value = standard.failure(result), standard.measure.final(result)
    low, high = axes.get_xlim()
    if failure not in NO_NUMBER and value is not None and low <= value <= high:
        axes.plot(value, height, marker, color=colour, markersize=8, clip_on=False)
        return
    words = "no value" if value is None else standard.measure.text(value)
    words = failure if failure in NO_NUMBER else words
    share, side = (0.022, "left") if standard.measure.higher_is_better else (0.978, "right")
    edge = low + share * (high - low)
    axes.plot(edge, height, "x", color=colour, markersize=8, markeredgewidth=2, clip_on=False)
    axes.text(edge, height, f"   {words}   ", color=colour, ha=side, va="center", fontsize=9)


def _names(rows: Sequence[Row]) -> tuple[str, str]:
    return f"{rows[0].own.strategy} (yours)", ROBUST


def _cells(row: Row, standard: Standard) -> list[tuple[str, bool]]:
    """Return the text for each strategy, and whether it is broken."""
    return [(standard.describe(result), bool(standard.failure(result))) for result in row]


def write_page(
    path: Path, title: str, conclusion: str, rows: Sequence[Row], standard: Standard, picture: Path
) -> None:
    """Write a page that needs no other file: the SVG of the picture goes into it."""
    svg = picture.read_text(encoding="utf-8")
    lines = ""
    for row in rows:
        lines += f"<tr><td>{html.escape(row.attack)}</td>"
        for text, broken in _cells(row, standard):
            lines += f"<td{' class=broken' if broken else ''}>{html.escape(text)}</td>"
        lines += "</tr>\n"
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    page = template.format(
        title=html.escape(title),
        conclusion=html.escape(conclusion),
        svg=svg[svg.index("<svg") :],
        names="".join(f"<th>{html.escape(name)}</th>" for name in _names(rows)),
        lines=lines,
        definition=html.escape(standard.definition),
        remarks="".join(f"<li>{html.escape(note)}</li>\n" for note in notes(rows)),
    )
    path.write_text(page, encoding="utf-8")
