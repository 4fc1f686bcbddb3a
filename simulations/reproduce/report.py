"""One self-contained HTML page: claim, figure, numbers and verdict side by side."""

import base64
import csv
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from html import escape
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt

from .claims.claim import Claim, Number, Runs
from .engine import Cell


@dataclass(frozen=True)
class Finding:
    """A claim with what the runs say of it.

    Attributes
    ----------
    claim : Claim
    numbers : list of Number
    num_runs : int
    svg : str
        The figure.
    """

    claim: Claim
    numbers: list[Number]
    num_runs: int
    svg: str

    @property
    def holds(self) -> bool:
        """Whether every number is what it should be."""
        return all(number.holds for number in self._judged)

    @property
    def verdict(self) -> str:
        """Say in words what the numbers come to."""
        if self.claim.is_question:
            answers = ((n.label.split(":")[0], "yes" if n.holds else "no") for n in self._judged)
            return ", ".join(f"{subject}: {answer}" for subject, answer in answers)
        return "holds" if self.holds else "does not hold"

    @property
    def _judged(self) -> list[Number]:
        return [number for number in self.numbers if number.holds is not None]


def find(claim: Claim, runs: Runs, folder: Path) -> Finding:
    """Judge a claim by its runs; write its figure as PNG and SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    figure = plt.figure(figsize=(5.0, 3.8), layout="constrained")
    numbers = claim.judge(runs, figure)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / f"{claim.name}.png", dpi=150)
    drawn = BytesIO()
    with mpl.rc_context({"svg.hashsalt": claim.name}):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    plt.close(figure)
    (folder / f"{claim.name}.svg").write_bytes(drawn.getvalue())
    num_runs = sum(len(runs[cell]) for cell in claim.plan())
    return Finding(claim, numbers, num_runs, drawn.getvalue().decode())


def draw_overview(claims: Sequence[Claim], runs: Runs, path: Path) -> None:
    """Draw the figures of a few claims into one picture, two rows of three."""
    figure = plt.figure(figsize=(13.5, 7.6), layout="constrained")
    panels = figure.subfigures(2, 3, hspace=0.04, wspace=0.02).flat
    for claim, panel in zip(claims, panels, strict=True):
        claim.judge(runs, panel)
        panel.suptitle(claim.title, fontsize=11)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write_tables(findings: Sequence[Finding], runs: Runs, folder: Path) -> None:
    """Write every number as numbers.csv, and the final errors of every cell as cells.csv."""
    with (folder / "numbers.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["claim", "verdict", "measured", "value", "should be", "holds"])
        for finding in findings:
            for n in finding.numbers:
                holds = "" if n.holds is None else n.holds
                rows.writerow(
                    [finding.claim.name, finding.verdict, n.label, n.value, n.wanted, holds]
                )
    with (folder / "cells.csv").open("w", newline="", encoding="utf-8") as file:
        columns = [field.name for field in fields(Cell)]
        rows = csv.writer(file)
        rows.writerow([*columns, "runs", "least", "median", "mean", "most"])
        for cell, errors in runs.items():
            ends = errors[:, -1]
            told = (ends.min(), np.median(ends), ends.mean(), ends.max())
            rows.writerow([*astuple(cell), len(ends), *(f"{value:.6g}" for value in told)])


def write(findings: Sequence[Finding], path: Path) -> None:
    """Write the report."""
    claims = [finding for finding in findings if not finding.claim.is_question]
    held = sum(finding.holds for finding in claims)
    num_runs = f"{sum(finding.num_runs for finding in findings):,}".replace(",", " ")
    rows = "".join(
        f'<tr><td><a href="#{f.claim.name}">{escape(f.claim.title)}</a><br>'
        f"{escape(f.claim.says)}</td><td>{_verdict(f)}</td></tr>"
        for f in findings
    )
    path.write_text(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Byzantine gradient descent, reproduced</title>
<style>{_STYLE}</style></head><body>
<header><h1>Byzantine gradient descent, reproduced</h1>
<p>Chen, Su and Xu (2017) prove bounds and show no experiments. Here they are:
{held} of {len(claims)} claims hold,
in {num_runs} training runs. Every number below is computed from
<code>runs.jsonl</code> beside this page; brackets are 95 % intervals. A verdict is “holds” where
each number with a bound lies within it, interval and all.</p></header>
<table class="summary"><thead><tr><th>claim</th><th>verdict</th></tr></thead>
<tbody>{rows}</tbody></table>
{"".join(_section(finding) for finding in findings)}
</body></html>
""",
        encoding="utf-8",
    )


def _section(finding: Finding) -> str:
    claim = finding.claim
    rows = "".join(
        f"<tr><td>{escape(n.label)}</td><td class='value'>{escape(n.value)}</td>"
        f"<td>{escape(n.wanted)}</td><td>{_mark(n.holds)}</td></tr>"
        for n in finding.numbers
    )
    picture = base64.b64encode(finding.svg.encode()).decode()
    return f"""<section id="{claim.name}">
<h2>{escape(claim.title)} {_verdict(finding)}</h2>
<p class="says">{escape(claim.says)} <span class="source">{escape(claim.source)}</span></p>
<div class="pair"><img alt="{escape(claim.title)}" src="data:image/svg+xml;base64,{picture}">
<div><table class="numbers"><thead><tr><th>measured</th><th></th><th>should be</th><th></th></tr>
</thead><tbody>{rows}</tbody></table>
<p class="setting">{escape(claim.setting)}</p></div></div>
</section>
"""


def _verdict(finding: Finding) -> str:
    kind = "holds" if finding.holds else "fails"
    if finding.claim.is_question:
        kind = "answers"
    return f'<span class="verdict {kind}">{escape(finding.verdict)}</span>'


def _mark(holds: bool | None) -> str:
    return {None: "", True: "<b class='holds'>✓</b>", False: "<b class='fails'>✗</b>"}[holds]


_STYLE = """
:root { color-scheme: light; --ink: #1b1b1b; --soft: #5a5a5a; --line: #d9d9d9;
  --good: #005a8c; --bad: #b34700; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: #fff;
  max-width: 1120px; margin: 0 auto; padding: 1rem; }
h1 { line-height: 1.2; } h2 { margin: 0 0 .3rem; font-size: 1.3rem; }
section { border-top: 1px solid var(--line); padding: 1.5rem 0; }
.pair { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 1.5rem;
  align-items: start; }
@media (max-width: 760px) { .pair { grid-template-columns: minmax(0, 1fr); } }
img { width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th { text-align: left; font-weight: 600; color: var(--soft); }
th, td { padding: .35rem .5rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td.value { font-variant-numeric: tabular-nums; }
@media (min-width: 761px) { td.value, .numbers th { white-space: nowrap; } }
.says { margin: 0 0 .8rem; } .source, .setting { color: var(--soft); font-size: .9rem; }
.verdict { font-size: .85rem; font-weight: 600; white-space: nowrap; padding: .1rem .5rem;
  border-radius: 1rem; color: #fff; vertical-align: middle; }
.verdict.holds { background: var(--good); } .verdict.fails { background: var(--bad); }
.verdict.answers { background: var(--soft); white-space: normal; border-radius: .6rem; }
b.holds { color: var(--good); } b.fails { color: var(--bad); }
a { color: inherit; font-weight: 600; }
.verdict.answers { display: inline-block; }
.summary td:last-child { width: 9rem; }
"""
