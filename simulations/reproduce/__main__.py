"""The paper's experiments, resumably: ``python -m simulations.reproduce``."""

import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from .claims import CLAIMS
from .claims.claim import Claim, Plan
from .records import as_arrays, load
from .report import Finding, draw_overview, find, write, write_tables
from .sweep import carry_out

_QUICK = 3  # runs of each cell
_OVERVIEW = ("floor-n", "floor-d", "floor-q", "rounds", "mean", "breakdown")


def planned(claims: Sequence[Claim], quick: bool) -> Plan:
    """Return the number of runs of each cell, the largest that any of the claims asks for."""
    plan: Plan = {}
    for claim in claims:
        for cell, number in claim.plan().items():
            plan[cell] = max(plan.get(cell, 0), min(number, _QUICK) if quick else number)
    return plan


def main(
    results: Annotated[Path, typer.Option(help="Folder for raw runs, figures, report.")] = Path(
        "results/reproduce"
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help=f"Only {_QUICK} runs of each cell: to look, not judge.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this claim (can be given again).")
    ] = None,
) -> None:
    """Run what is missing, draw every figure from the raw runs, and write the report."""
    names = [claim.name for claim in CLAIMS]
    if unknown := set(only or ()).difference(names):
        raise typer.BadParameter(
            f"only must be one of {', '.join(names)}, got {', '.join(sorted(unknown))}"
        )
    claims = [claim for claim in CLAIMS if only is None or claim.name in only]
    console = Console()
    path = results / "runs.jsonl"
    plan, done = planned(claims, quick), load(path)
    since = time.monotonic()
    carry_out(plan, done, path, console)
    runs = as_arrays(plan, done)
    findings = [
        find(claim, {cell: runs[cell][:number] for cell, number in claim.plan().items()}, results)
        for claim in claims
    ]
    write(findings, results / "report.html")
    write_tables(findings, runs, results)
    if len(claims) == len(CLAIMS):
        shown = [claim for claim in CLAIMS if claim.name in _OVERVIEW]
        draw_overview(shown, runs, results / "overview.png")
    console.print(_table(findings))
    console.print(
        f"{time.monotonic() - since:.0f} s, {_processor_seconds():.0f} s of processor time",
        highlight=False,
    )
    console.print(f"raw runs: {path.resolve()}", soft_wrap=True)
    console.print(f"report: {(results / 'report.html').resolve()}", soft_wrap=True)


def _processor_seconds() -> float:
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _table(findings: Sequence[Finding]) -> Table:
    table = Table()
    for column in ("claim", "measured", "should be", "verdict"):
        table.add_column(column)
    for finding in findings:
        colour = "green" if finding.holds else "red"
        table.add_row(f"[bold]{finding.claim.title}[/]", "", "", f"[{colour}]{finding.verdict}[/]")
        for number in finding.numbers:
            table.add_row(f"  {number.label}", number.value.replace("[", r"\["), number.wanted, "")
    return table


if __name__ == "__main__":
    typer.run(main)
