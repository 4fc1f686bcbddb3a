"""What reports have in common: drawn figures and self-contained HTML pages."""

import base64
from html import escape
from io import BytesIO
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write a figure as PNG and SVG, the same bytes each time; close it and return the SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", dpi=150)
    drawn = BytesIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    plt.close(figure)
    (folder / f"{name}.svg").write_bytes(drawn.getvalue())
    return drawn.getvalue().decode()


def image(svg: str, alt: str) -> str:
    """Return an SVG as an image within a page."""
    data = base64.b64encode(svg.encode()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/svg+xml;base64,{data}">'


def page(title: str, body: str, style: str = "") -> str:
    """Return an HTML page that needs nothing besides itself.

    Parameters
    ----------
    title : str
        Plain text.
    body : str
        HTML.
    style : str
        CSS on top of what every page has.
    """
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}{style}</style></head><body>
{body}
</body></html>
"""


_STYLE = """
:root { color-scheme: light; --ink: #1b1b1b; --soft: #5a5a5a; --line: #d9d9d9;
  --good: #005a8c; --bad: #b34700; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff;
  max-width: 1120px; margin: 0 auto; padding: 1rem; }
h1 { line-height: 1.2; } h2 { margin: 0 0 .3rem; font-size: 1.3rem; }
section { border-top: 1px solid var(--line); padding: 1.5rem 0; }
img { width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th { text-align: left; font-weight: 600; color: var(--soft); }
th, td { padding: .35rem .5rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
a { color: inherit; font-weight: 600; }
"""
