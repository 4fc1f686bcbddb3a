"""How a red-team trial is shown: a table, a picture and a page."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from .outcome import OURS, PEACE, Outcome
from .verdict import Row, Standard, distance

# Two colours that colour-blind readers tell apart (Okabe and Ito).
_OWN_COLOUR, _OUR_COLOUR = "#D55E00", "#0072B2"


def cell(outcome: Outcome, standard: Standard) -> str:
    """Say in a few words what came of a play."""
    if outcome.end == "not attacked":
        return "attack not carried out"
    failure, value = standard.failure(outcome), standard.final(outcome)
    if failure in ("crashed", "hung", "not finite"):
        return f"broken: {failure}"
    text = "–" if value is None else standard.text(value)
    if standard.measure is not None and outcome.moved is not None:
        text += f" (moved {distance(outcome.moved)})"
    return f"broken: {text}" if failure else text


def table(rows: Sequence[Row], standard: Standard) -> Table:
    """Return the plays as a table for a terminal."""
    made = Table(caption=standard.definition, caption_justify="left")
    made.add_column("attack", overflow="fold")
    made.add_column(f"{rows[0].own.strategy} (yours)", justify="right")
    made.add_column(OURS, justify="right")
    for row in rows:
        cells = [
            Text(cell(outcome, standard), style="red" if standard.failure(outcome) else "")
            for outcome in (row.own, row.ours)
        ]
        made.add_row(row.attack, *cells, end_section=row.attack == PEACE)
    return made


def notes(rows: Sequence[Row]) -> list[str]:
    """Say what is not carried over, and why plays ended that did not finish."""
    said = dict.fromkeys(note for row in rows for note in row.ours.notes)
    for row in rows:
        for name, outcome in ((row.own.strategy or "your own", row.own), (OURS, row.ours)):
            if outcome.reason:
                said[f"{row.attack}, {name}: {outcome.end}: {outcome.reason}"] = None
    return list(said)


def draw(rows: Sequence[Row], standard: Standard, title: str, path: Path) -> list[Path]:
    """Draw what came of each attack; return the PNG and the SVG written.

    Parameters
    ----------
    rows : sequence of Row
    standard : Standard
    title : str
    path : Path
        Of the picture, without an ending.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 1.9 + 0.48 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    low, high, bad, to_bad = _limits(rows, standard)
    axes.set_xlim(low, high)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    limit = 0.5 if standard.measure is None else standard.threshold
    edge = low if bad == "left" else high
    axes.axvspan(edge, limit, color="#999999", alpha=0.18, linewidth=0)
    axes.text(
        (edge + limit) / 2, -0.42, "broken", color="#555555", ha="center", va="top", fontsize=9
    )
    for number, row in enumerate(rows):
        axes.axhline(number, color="#dddddd", linewidth=0.8, zorder=0)
        for outcome, colour, marker, offset in (
            (row.own, _OWN_COLOUR, "s", -0.14),
            (row.ours, _OUR_COLOUR, "o", 0.14),
        ):
            if outcome.end == "not attacked":
                continue
            _mark(axes, number + offset, outcome, standard, colour, marker, to_bad)
    axes.set_yticks(range(len(rows)), [row.attack for row in rows])
    axes.tick_params(axis="y", length=0)
    if standard.measure is None:
        axes.set_xlabel("how far the final model has moved away (1: as far as training took it)")
    else:
        axes.set_xlabel(str(standard.measure))
        if standard.measure.is_share:
            axes.xaxis.set_major_formatter(mpl.ticker.PercentFormatter(1.0))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title(title, fontsize=11)
    figure.legend(
        handles=[
            axes.plot([], [], "s", color=_OWN_COLOUR, label=f"{rows[0].own.strategy} (yours)")[0],
            axes.plot([], [], "o", color=_OUR_COLOUR, label=OURS)[0],
        ],
        loc="outside lower center",
        ncol=2,
        frameon=False,
    )
    paths = [path.with_suffix(ending) for ending in (".png", ".svg")]
    with mpl.rc_context({"svg.hashsalt": "flwr-byz", "svg.fonttype": "none"}):
        for picture in paths:
            undated = {"Date": None} if picture.suffix == ".svg" else {}
            figure.savefig(picture, dpi=150, metadata=undated)
    return paths


def _mark(
    axes: Any,
    height: float,
    outcome: Outcome,
    standard: Standard,
    colour: str,
    marker: str,
    to_bad: tuple[float, str],
) -> None:
    """Mark what came of a play: in words where it is no number within the axes."""
    failure, value = standard.failure(outcome), standard.final(outcome)
    low, high = axes.get_xlim()
    edge, side = to_bad
    words = failure if failure in ("crashed", "hung", "not finite") else ""
    if not words and value is not None and not low <= value <= high:
        words = standard.text(value)
    if words or value is None:
        axes.plot(edge, height, "x", color=colour, markersize=8, markeredgewidth=2, clip_on=False)
        axes.annotate(
            words or "no value",
            (edge, height),
            xytext=(9 if side == "left" else -9, 0),
            textcoords="offset points",
            color=colour,
            ha=side,
            va="center",
            fontsize=9,
        )
    else:
        axes.plot(value, height, marker, color=colour, markersize=8, clip_on=False)


def _limits(rows: Sequence[Row], standard: Standard) -> tuple[float, float, str, tuple[float, str]]:
    """Return the ends of the axis, and the side and the place of what is bad."""
    if standard.measure is None:
        return 0.0, 2.0, "right", (1.96, "right")
    start, peace = standard.start, standard.peace
    values = [standard.final(outcome) for row in rows for outcome in (row.own, row.ours)]
    reach = abs(peace - start)
    near = [v for v in values if v is not None and abs(v - peace) <= 1.6 * reach]
    low, high = min([start, peace, *near]), max([start, peace, *near])
    margin = 0.05 * (high - low)
    low, high = low - margin, high + margin
    if standard.measure.higher_is_better:
        return low, high, "left", (low + margin / 2, "left")
    return low, high, "right", (high - margin / 2, "right")


def write_page(
    path: Path, title: str, said: str, rows: Sequence[Row], standard: Standard, picture: Path
) -> None:
    """Write a page that needs no other file.

    Parameters
    ----------
    path : Path
    title, said : str
        What was tried, and the verdict.
    rows : sequence of Row
    standard : Standard
    picture : Path
        An SVG, which goes into the page.
    """
    svg = picture.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]
    lines = "".join(
        f"<tr><td>{html.escape(row.attack)}</td>"
        + "".join(
            f"<td{' class=broken' if standard.failure(outcome) else ''}>"
            f"{html.escape(cell(outcome, standard))}</td>"
            for outcome in (row.own, row.ours)
        )
        + "</tr>\n"
        for row in rows
    )
    remarks = "".join(f"<li>{html.escape(note)}</li>\n" for note in notes(rows))
    path.write_text(
        f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 54rem; margin: 2rem auto }}
table {{ border-collapse: collapse }}
td, th {{ padding: .3rem .8rem; border-bottom: 1px solid #ddd }}
td + td, th + th {{ text-align: right }} .broken {{ color: #b02000; font-weight: 600 }}
svg {{ max-width: 100%; height: auto }}
</style>
<h1>{html.escape(title)}</h1>
<p><strong>{html.escape(said)}</strong></p>
{svg}
<table><tr><th>attack</th><th>{html.escape(rows[0].own.strategy)} (yours)</th><th>{OURS}</th></tr>
{lines}</table>
<p>{html.escape(standard.definition)} "Moved" is how far a final model lies from the one of
your own strategy where nobody attacks, in units of how far training took that one. Byzantine
clients lie in training only; they evaluate honestly.</p>
<ul>
{remarks}</ul>
<p>Every number of every round: plays.jsonl. What each play printed: plays/*/log.txt.</p>
</html>
""",
        encoding="utf-8",
    )
