"""How results are shown: one style of pictures, one kind of table, one self-contained HTML page."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import rich.table
from rich.markup import escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
"""Eight colours that colour-blind readers tell apart, by Okabe and Ito."""
BLUE, VERMILION = COLOURS[5:7]

STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "flwr-byz",
}
"""Matplotlib's rcParams: draw in ``matplotlib.rc_context(STYLE)``, on a ``Figure`` of your own."""


class Cell(NamedTuple):
    """An entry of a table, in bold where it is the best, in red where it is broken."""

    text: str
    mark: Literal["", "best", "broken"] = ""


@dataclass(frozen=True)
class Table:
    """Columns and rows; an entry without a mark can be plain text."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    title: str = ""

    def for_terminal(self) -> rich.table.Table:
        """Return the same table as Rich prints it."""
        styles = {"": "none", "best": "bold", "broken": "bold red"}
        columns = [rich.table.Column(escape(name), overflow="fold") for name in self.columns]
        table = rich.table.Table(*columns, title=escape(self.title) or None)
        for row in self.rows:
            cells = (Cell(cell) if isinstance(cell, str) else cell for cell in row)
            table.add_row(*(f"[{styles[mark]}]{escape(text)}[/]" for text, mark in cells))
        return table


@dataclass(frozen=True)
class Picture:
    """An SVG, which becomes a part of the page, and what it shows in words."""

    svg: Path
    alt: str

    @property
    def data(self) -> str:
        """The picture as a URI."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.read_bytes()).decode()

    @property
    def width(self) -> int:
        """Its full width, in pixels."""
        found = re.search(r'<svg[^>]*? width="([\d.]+)pt"', self.svg.read_text(encoding="utf-8"))
        return round(float(found[1]) * 96 / 72) if found else 640


@dataclass(frozen=True)
class Section:
    """A part of a page; an empty line in its text begins a new paragraph."""

    heading: str
    text: str = ""
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()


def save(figure: "Figure", path: Path) -> tuple[Path, Path]:
    """Write a figure as PNG and SVG, the same bytes each time, at a path without an ending."""
    import matplotlib as mpl

    png, svg = (path.with_name(f"{path.name}.{ending}") for ending in ("png", "svg"))
    with mpl.rc_context(STYLE):
        figure.savefig(png, dpi=150)
        figure.savefig(svg, metadata={"Date": None})
    return png, svg


def write_page(
    path: Path, title: str, summary: str, sections: Sequence[Section], notes: Sequence[str] = ()
) -> None:
    """Write one HTML page that needs no other file; all text is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    folder = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = pages.get_template("page.html")
    page = template.render(title=title, summary=summary, sections=sections, notes=notes)
    path.write_text(page, encoding="utf-8")
