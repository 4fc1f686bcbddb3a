"""Run the benchmarks: ``python -m benchmarks``. Resumes where an interrupted run stopped."""

import logging
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flwr
import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from flwr_byz import json_lines
from flwr_byz.aggregation import geometric_median
from flwr_byz.aggregation.threads import num_threads

from . import contestants, measure, report
from .contestants import GMOM, ROOFLINE, Contestant, Replies

RESULTS = Path(__file__).parent / "results"
CLIENTS = (20, 50, 100, 1000)
DIMS = (10**4, 10**5, 10**6, 10**7)
LARGEST = 10**9  # numbers in all replies together
MEDIANS = ((25, 10**6), (100, 10**6), (10, 10**7), (50, 10**5))
SLOW = 5.0  # seconds: what is predicted to take longer is not run

Row = dict[str, Any]


def main(results: Path = RESULTS, quick: bool = False) -> None:
    """Time every rule in every cell; the folder gets results.jsonl, README.md and speed.png.

    With --quick only in cells of up to a million numbers, to see that all is well.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)
    results.mkdir(parents=True, exist_ok=True)
    path = results / "results.jsonl"
    rows = list(json_lines.read(path))
    largest = 10**6 if quick else LARGEST
    cells = [(m, d) for d in DIMS for m in CLIENTS if m * d <= largest]
    points = [(n, d) for n, d in MEDIANS if n * d <= largest * 10]
    todo = [(_round, "round", *cell) for cell in cells] + [(_medians, "median", *p) for p in points]
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(todo))
        for run, kind, m, d in todo:
            progress.update(task, description=f"{kind}: {m} x {d:.0e}")
            if not any((row["kind"], row["m"], row["d"]) == (kind, m, d) for row in rows):
                new = list(run(m, d, rows))
                json_lines.append(path, new)
                rows += new
            progress.advance(task)
    report.write(rows, _machine(), results)
    print(f"{results / 'README.md'} and {results / 'speed.png'} written")


def _round(m: int, d: int, rows: list[Row]) -> Iterator[Row]:
    replies = Replies(m, d)
    batches = sorted({max(m * share // 100, 1) for share in (10, 20, 25, 50, 100)})
    entries, skipped = [], []
    for contestant in contestants.strategies(replies, batches):
        is_slow = _predicted(contestant, m, d, rows) > SLOW
        (skipped if is_slow else entries).append(contestant)
    seconds = measure.interleaved(entries)
    # Of strategies made anew: what one keeps from round to round counts as memory, too.
    fresh = {(each.name, each.api): each for each in contestants.strategies(replies, batches)}
    for contestant, times in zip(entries, seconds, strict=True):
        row = _row("round", contestant, m, d) | {"seconds": times}
        if d >= 10**6:
            unused = fresh.pop((contestant.name, contestant.api))
            row["extra_vectors"] = round(measure.peak_memory(unused) / (4 * d), 2)
        if contestant.name.startswith(GMOM):
            metrics = contestant.call(contestant.prepare())[1]
            row |= {"gap": metrics["byz-gap"], "iterations": metrics["byz-iterations"]}
        yield row
    for contestant in skipped:
        predicted = _predicted(contestant, m, d, rows)
        yield _row("round", contestant, m, d) | {"seconds": [], "predicted": predicted}


def _predicted(contestant: Contestant, m: int, d: int, rows: list[Row]) -> float:
    """Predict seconds from smaller cells, for what grows linearly in d and in m at least."""
    if contestant.name == ROOFLINE or contestant.name.startswith((GMOM, "FedAvg")):
        return 0.0
    known = [
        (row.get("predicted") or float(np.median(row["seconds"]))) * (m / row["m"]) * (d / row["d"])
        for row in rows
        if (row["kind"], row["name"], row["api"]) == ("round", contestant.name, contestant.api)
        and row["m"] <= m
        and row["d"] <= d
    ]
    return known[-1] if known else 0.0


def _medians(n: int, d: int, rows: list[Row]) -> Iterator[Row]:
    points = np.random.default_rng(0).standard_normal((n, d), dtype=np.float32)
    points[: n // 10] *= -10
    entries = list(contestants.medians(points))
    seconds = measure.interleaved(entries)
    best = geometric_median(points, gamma=1e-13)
    for contestant, times in zip(entries, seconds, strict=True):
        center = np.asarray(contestant.call(contestant.prepare()), np.float64)
        objective = float(sum(np.linalg.norm(point - center) for point in points))
        gap = objective / best.objective * (1 + best.gap) - 1
        yield _row("median", contestant, n, d) | {"seconds": times, "true_gap": gap}


def _row(kind: str, contestant: Contestant, m: int, d: int) -> Row:
    return {"kind": kind, "name": contestant.name, "api": contestant.api, "m": m, "d": d}


def _machine() -> dict[str, str]:
    cpu = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)", cpu.read_text(), re.M) if cpu.exists() else None
    return {
        "processor": found[1] if found else platform.machine(),
        "threads": str(num_threads()),
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "Flower": flwr.__version__,
    }


if __name__ == "__main__":
    typer.run(main)
