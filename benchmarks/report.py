"""The tables and the picture of the benchmarks, from their rows."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console

from flwr_byz.pages import STYLE, Table, save

from .contestants import GMOM, ROOFLINE

PICTURED_CLIENTS = 100
TEXT = """# Benchmarks

Written by `python -m benchmarks` from `results.jsonl`. Whole calls of `aggregate_fit`
(classic) and `aggregate_train` (message) on the same float32 replies, interleaved in
one run; medians, quartiles in brackets. The first tenth of the clients sends -10 times
normal numbers. Roofline: every reply read once with all cores, one result written.

Machine: {machine}.

![Seconds of a call against the number of coordinates](speed.png)

## A round

{rounds}

## Cost of growth

{growth}

## The geometric median alone

True gap: objective in float64 over a certified lower bound, less one. *To the end* is
with `eps=1e-12, ftol=0`.

{medians}
"""


def write(rows: Sequence[Mapping[str, Any]], machine: Mapping[str, str], folder: Path) -> None:
    """Write README.md and the picture into the folder."""
    optional = ("extra_vectors", "gap", "iterations", "predicted", "true_gap")
    frame = pd.DataFrame(rows, columns=["kind", "name", "api", "m", "d", "seconds", *optional])
    quartiles = [np.percentile(s, [25, 50, 75]) if s else [np.nan] * 3 for s in frame.seconds]
    frame[["low", "median", "high"]] = quartiles
    frame["k"] = frame.name.str.extract(r"k=(\d+)").astype(float)
    rounds, medians = frame[frame.kind == "round"], frame[frame.kind == "median"]
    text = TEXT.format(
        machine=", ".join(f"{name} {value}" for name, value in machine.items()),
        rounds=_sections(rounds, "clients", _round_row),
        growth=_table(_growth(rounds)),
        medians=_sections(medians, "points", _median_row),
    )
    (folder / "README.md").write_text(text)
    save(_picture(rounds), folder / "speed")


def _sections(frame: pd.DataFrame, noun: str, row_of: Any) -> str:
    """Return a section with a table for each number of vectors and of coordinates."""
    return "\n\n".join(
        f"### {m} {noun} x {d:,} numbers\n\n"
        + _table(row_of(row, cell) for row in cell.itertuples())
        for (m, d), cell in frame.groupby(["m", "d"])
    )


def _table(rows: Iterable[Mapping[str, str]]) -> str:
    frame = pd.DataFrame(list(rows)).fillna("")
    lines = [frame.columns, ["---"] * len(frame.columns), *frame.to_numpy()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _round_row(row: Any, cell: pd.DataFrame) -> Mapping[str, str]:
    fedavg = cell[(cell.name == "FedAvg") & (cell.api == row.api)]["median"].max()
    roofline = cell[cell.name == ROOFLINE]["median"].max()
    numbers = {
        "/ FedAvg": f"{row.median / fedavg:.2f}",
        "/ roofline": f"{row.median / roofline:.1f}",
        "extra memory, vectors": f"{row.extra_vectors:.1f}",
        "gap": f"{row.gap:.0e}",
        "steps": f"{row.iterations:.0f}",
    }
    known = {name: "" if text == "nan" else text for name, text in numbers.items()}
    return {"rule": row.name, "API": row.api, "seconds": _spread(row), **known}


def _median_row(row: Any, cell: pd.DataFrame) -> Mapping[str, str]:
    certified = cell[cell.name == "geometric_median"]["median"].max()
    ratio, gap = f"{row.median / certified:.1f}", f"{row.true_gap:.0e}"
    seconds = _spread(row)
    return {"function": row.name, "seconds": seconds, "/ geometric_median": ratio, "true gap": gap}


def _spread(row: Any) -> str:
    if np.isnan(row.median):
        return f"not run: about {row.predicted:.0f} s"
    return f"{row.median:.3g} [{row.low:.3g}, {row.high:.3g}]"


def _growth(rounds: pd.DataFrame) -> Iterable[Mapping[str, str]]:
    """Fit the exponents of the time in d and in m, where a call takes long enough to tell."""
    known = rounds[(rounds.api == "classic") & rounds.k.notna() & (rounds.d >= 10**6)]
    for fixed, by in (("m", "d"), ("d", "m")):
        for (value, k), cells in known.groupby([fixed, "k"]):
            if len(cells) >= 2 and (fixed == "m" or k in (5, 10, 20)):
                slope = np.polyfit(np.log(cells[by]), np.log(cells["median"]), 1)[0]
                where = f"{fixed} = {value:,}, k = {k:.0f}"
                yield {"fixed": where, "varied": by, "exponent of the time": f"{slope:.2f}"}


def _picture(rounds: pd.DataFrame) -> Figure:
    m = PICTURED_CLIENTS
    shown = rounds[(rounds.m == m) & (rounds.k.isna() | rounds.k.isin([m // 5, m]))]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 4.5))
        panels = figure.subplots(1, 2, sharey=True)
        for panel, api in zip(panels, ("classic", "message"), strict=True):
            of_api = shown[shown.api.isin([api, ""])].dropna(subset="median")
            for name, line in of_api.groupby("name", sort=False):
                style = {"lw": 2.5} if name.startswith(GMOM) else {"lw": 1.2}
                style |= {"ls": "--", "color": "black"} if name == ROOFLINE else {}
                line = line.sort_values("d")
                panel.loglog(line.d, line["median"], marker="o", ms=4, label=name, **style)
            panel.set(title=f"{api} API, {m} clients", xlabel="coordinates of a reply")
        panels[0].set_ylabel("seconds of a whole call")
        panels[1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table to a file, and show it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
    console = Console()
    shown = table.astype(object).fillna("").astype(str)
    console.print(Table(list(shown), shown.to_numpy().tolist()).for_terminal())
    console.print(f"table: {path}", soft_wrap=True)
