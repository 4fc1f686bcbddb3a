"""The table and the picture of the benchmarks, from their rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from .contestants import OURS, ROOFLINE

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Row = Mapping[str, Any]

PICTURED_CLIENTS = 100


def write(rows: Sequence[Row], machine: Mapping[str, str], folder: Path) -> None:
    """Write README.md and speed.png into the folder."""
    (folder / "README.md").write_text(_text(rows, machine))
    _picture(rows, folder / "speed.png")


def seconds(row: Row) -> float:
    """Median time of a row; nan where it was not run."""
    return float(np.median(row["seconds"])) if row["seconds"] else float("nan")


def _text(rows: Sequence[Row], machine: Mapping[str, str]) -> str:
    lines = [
        "# Benchmarks",
        "",
        "Written by `python -m benchmarks` from `results.jsonl`. Whole calls of `aggregate_fit`",
        "(classic) and `aggregate_train` (message) on the same float32 replies, interleaved in",
        "one run; medians, quartiles in brackets. The first tenth of the clients sends -10 times",
        "normal numbers. Roofline: every reply read once with all cores, one result written.",
        "",
        "Machine: " + ", ".join(f"{name} {value}" for name, value in machine.items()) + ".",
        "",
        "![Seconds of a call against the number of coordinates](speed.png)",
        "",
        "## A round",
        "",
    ]
    rounds = [row for row in rows if row["kind"] == "round"]
    for m, d in sorted({(row["m"], row["d"]) for row in rounds}):
        cell = [row for row in rounds if (row["m"], row["d"]) == (m, d)]
        lines += [f"### {m} clients x {d:,} numbers", "", *_round_table(cell), ""]
    lines += ["## Cost of growth", "", *_growth(rounds), ""]
    lines += ["## The geometric median alone", ""]
    lines += [
        "True gap: objective in float64 over a certified lower bound, less one. *To the end* is",
        "with `eps=1e-12, ftol=0`.",
        "",
    ]
    medians = [row for row in rows if row["kind"] == "median"]
    for n, d in sorted({(row["m"], row["d"]) for row in medians}):
        cell = [row for row in medians if (row["m"], row["d"]) == (n, d)]
        ours = seconds(next(row for row in cell if row["name"] == "geometric_median"))
        lines += [f"### {n} points x {d:,} numbers", ""]
        lines += ["| function | seconds | times ours | true gap |", "|---|---|---|---|"]
        lines += [
            f"| {row['name']} | {_spread(row)} | {seconds(row) / ours:.1f} | "
            f"{row['true_gap']:.0e} |"
            for row in cell
        ]
        lines += [""]
    return "\n".join(lines).rstrip() + "\n"


def _round_table(cell: Sequence[Row]) -> list[str]:
    roofline = seconds(next(row for row in cell if row["name"] == ROOFLINE))
    lines = [
        "| rule | API | seconds | / FedAvg | / roofline | extra memory, vectors | gap | steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in cell:
        if not row["seconds"]:
            lines.append(
                f"| {row['name']} | {row['api']} | not run: about {row['predicted']:.0f} s "
                "| | | | | |"
            )
            continue
        fedavg = [r for r in cell if r["name"] == "FedAvg" and r["api"] == row["api"]]
        ratio = f"{seconds(row) / seconds(fedavg[0]):.2f}" if fedavg else ""
        memory = f"{row['extra_vectors']:.1f}" if "extra_vectors" in row else ""
        gap = f"{row['gap']:.0e}" if "gap" in row else ""
        lines.append(
            f"| {row['name']} | {row['api']} | {_spread(row)} | {ratio} | "
            f"{seconds(row) / roofline:.1f} | {memory} | {gap} | {row.get('iterations', '')} |"
        )
    return lines


def _spread(row: Row) -> str:
    low, high = np.percentile(row["seconds"], [25, 75])
    return f"{seconds(row):.3g} [{low:.3g}, {high:.3g}]"


def _growth(rounds: Sequence[Row]) -> list[str]:
    """Fit the exponents of the time in d and in m, where a call takes long enough to tell."""
    ours = [row for row in rounds if row["name"].startswith(OURS) and row["api"] == "classic"]
    lines = ["| fixed | varied | exponent of the time |", "|---|---|---|"]
    for m in sorted({row["m"] for row in ours}):
        for k in sorted({_batches(row) for row in ours if row["m"] == m}):
            cells = [
                row for row in ours if (row["m"], _batches(row)) == (m, k) and row["d"] >= 10**6
            ]
            if len(cells) >= 2:
                lines.append(f"| m = {m}, k = {k} | d | {_exponent(cells, 'd'):.2f} |")
    for d in sorted({row["d"] for row in ours}):
        for k in (5, 10, 20):
            cells = [row for row in ours if (row["d"], _batches(row)) == (d, k) and d >= 10**6]
            if len(cells) >= 2:
                lines.append(f"| d = {d:,}, k = {k} | m | {_exponent(cells, 'm'):.2f} |")
    return lines


def _batches(row: Row) -> int:
    return int(row["name"].partition("=")[2].rstrip(")"))


def _exponent(cells: Sequence[Row], by: str) -> float:
    sizes = np.log([row[by] for row in cells])
    return float(np.polyfit(sizes, np.log([seconds(row) for row in cells]), 1)[0])


def _picture(rows: Sequence[Row], path: Path) -> None:
    m = PICTURED_CLIENTS
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    for panel, api in zip(panels, ("classic", "message"), strict=True):
        cells = [r for r in rows if r["kind"] == "round" and r["m"] == m and r["seconds"]]
        shown = [r for r in cells if r["api"] == api or r["name"] == ROOFLINE]
        for name in dict.fromkeys(r["name"] for r in shown):
            if name.startswith(OURS) and _batches({"name": name}) not in (m // 5, m):
                continue
            line = sorted((r["d"], seconds(r)) for r in shown if r["name"] == name)
            style: dict[str, Any] = {"lw": 2.5} if name.startswith(OURS) else {"lw": 1.2}
            if name == ROOFLINE:
                style = {"lw": 1.2, "ls": "--", "color": "black"}
            panel.loglog(*zip(*line, strict=True), marker="o", ms=4, label=name, **style)
        panel.set_title(f"{api} API, {m} clients")
        panel.set_xlabel("coordinates of a reply")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("seconds of a whole call")
    panels[1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(path, dpi=120)
    plt.close(figure)
