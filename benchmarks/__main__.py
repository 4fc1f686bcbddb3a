"""Run the benchmarks: ``python -m benchmarks``. Resumes where an interrupted run stopped."""

import json
import logging
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flwr
import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from flwr_byz.aggregation import geometric_median
from flwr_byz.aggregation.threads import num_threads

from . import contestants, measure, report
from .contestants import OURS, ROOFLINE, Contestant, Replies

RESULTS = Path(__file__).parent / "results"
CLIENTS = (20, 50, 100, 1000)
DIMS = (10**4, 10**5, 10**6, 10**7)
LARGEST = 10**9  # numbers in all replies together
MEDIANS = ((25, 10**6), (100, 10**6), (10, 10**7), (50, 10**5))
SLOW = 5.0  # seconds: what is predicted to take longer is not run

Row = dict[str, Any]


def main(results: Path = RESULTS, quick: bool = False) -> None:
    """Time every rule in every cell, and write rows, a table and a picture.

    Parameters
    ----------
    results
        Folder for results.jsonl, README.md and speed.png.
    quick
        Only the cells of up to a million numbers, to see that all is well.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)
    results.mkdir(parents=True, exist_ok=True)
    path = results / "results.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    largest = 10**6 if quick else LARGEST
    cells = [(m, d) for d in DIMS for m in CLIENTS if m * d <= largest]
    points = [(n, d) for n, d in MEDIANS if n * d <= largest * 10]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(cells) + len(points))
        with path.open("a") as file:
            for kind, run, todo in (("round", _round, cells), ("median", _medians, points)):
                for m, d in todo:
                    progress.update(task, description=f"{kind}: {m} x {d:.0e}")
                    if not any((r["kind"], r["m"], r["d"]) == (kind, m, d) for r in rows):
                        new = list(run(m, d, rows))
                        file.writelines(json.dumps(row) + "\n" for row in new)
                        file.flush()
                        rows += new
                    progress.advance(task)
    report.write(rows, _machine(), results)
    print(f"{results / 'README.md'} and {results / 'speed.png'} written")


def _round(m: int, d: int, rows: list[Row]) -> Iterator[Row]:
    replies = Replies(m, d)
    batches = sorted({max(m * share // 100, 1) for share in (10, 20, 25, 50, 100)})
    entries, fresh, skipped = [], [], []
    for contestant, unused in zip(
        contestants.strategies(replies, batches),
        contestants.strategies(replies, batches),
        strict=True,
    ):
        if _predicted(contestant, m, d, rows) > SLOW:
            skipped.append(contestant)
        else:
            entries.append(contestant)
            fresh.append(unused)  # what a strategy keeps from round to round counts as memory, too
    seconds = measure.interleaved(entries)
    for contestant, times in zip(entries, seconds, strict=True):
        row = _row("round", contestant, m, d) | {"seconds": times}
        if d >= 10**6:
            row["extra_vectors"] = round(measure.peak_memory(fresh.pop(0)) / (4 * d), 2)
        if contestant.name.startswith(OURS):
            metrics = contestant.call(contestant.prepare())[1]
            row |= {"gap": metrics["byz-gap"], "iterations": metrics["byz-iterations"]}
        yield row
    for contestant in skipped:
        predicted = _predicted(contestant, m, d, rows)
        yield _row("round", contestant, m, d) | {"seconds": [], "predicted": predicted}


def _predicted(contestant: Contestant, m: int, d: int, rows: list[Row]) -> float:
    """Predict seconds from smaller cells, for what grows linearly in d and in m at least."""
    if contestant.name == ROOFLINE or contestant.name.startswith((OURS, "FedAvg")):
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
        place = np.asarray(contestant.call(contestant.prepare()), np.float64)
        lowest = best.objective / (1 + best.gap)
        yield _row("median", contestant, n, d) | {
            "seconds": times,
            "true_gap": measure.sum_of_distances(points, place) / lowest - 1,
        }


def _row(kind: str, contestant: Contestant, m: int, d: int) -> Row:
    return {"kind": kind, "name": contestant.name, "api": contestant.api, "m": m, "d": d}


def _machine() -> dict[str, str]:
    model = ""
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        lines = [x for x in cpu.read_text().splitlines() if x.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else ""
    return {
        "processor": model or platform.machine(),
        "threads": str(num_threads()),
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "Flower": flwr.__version__,
    }


if __name__ == "__main__":
    typer.run(main)
