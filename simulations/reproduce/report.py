"""One self-contained HTML page: claim, figure, numbers and verdict side by side."""

import csv
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from html import escape
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from ..page import image, page, save
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
    figure = plt.figure(figsize=(5.0, 3.8), layout="constrained")
    numbers = claim.judge(runs, figure)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    svg = save(figure, folder, claim.name)
    num_runs = sum(len(runs[cell]) for cell in claim.plan())
    return Finding(claim, numbers, num_runs, svg)


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
    body = f"""<header><h1>{_TITLE}</h1>
<p>Chen, Su and Xu (2017) prove bounds and show no experiments. Here they are:
{held} of {len(claims)} claims hold,
in {num_runs} training runs. Every number below is computed from
<code>runs.jsonl</code> beside this page; brackets are 95 % intervals. A verdict is “holds” where
each number with a bound lies within it, interval and all.</p></header>
<table class="summary"><thead><tr><th>claim</th><th>verdict</th></tr></thead>
<tbody>{rows}</tbody></table>
{"".join(_section(finding) for finding in findings)}"""
    path.write_text(page(_TITLE, body, _STYLE), encoding="utf-8")


def _section(finding: Finding) -> str:
    claim = finding.claim
    rows = "".join(
        f"<tr><td>{escape(n.label)}</td><td class='value'>{escape(n.value)}</td>"
        f"<td>{escape(n.wanted)}</td><td>{_mark(n.holds)}</td></tr>"
        for n in finding.numbers
    )
    return f"""<section id="{claim.name}">
<h2>{escape(claim.title)} {_verdict(finding)}</h2>
<p class="says">{escape(claim.says)} <span class="source">{escape(claim.source)}</span></p>
<div class="pair">{image(finding.svg, claim.title)}
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


_TITLE = "Byzantine gradient descent, reproduced"
_STYLE = """
.pair { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 1.5rem;
  align-items: start; }
@media (max-width: 760px) { .pair { grid-template-columns: minmax(0, 1fr); } }
td.value { font-variant-numeric: tabular-nums; }
@media (min-width: 761px) { td.value, .numbers th { white-space: nowrap; } }
.says { margin: 0 0 .8rem; } .source, .setting { color: var(--soft); font-size: .9rem; }
.verdict { font-size: .85rem; font-weight: 600; white-space: nowrap; padding: .1rem .5rem;
  border-radius: 1rem; color: #fff; vertical-align: middle; }
.verdict.holds { background: var(--good); } .verdict.fails { background: var(--bad); }
.verdict.answers { background: var(--soft); white-space: normal; border-radius: .6rem; }
b.holds { color: var(--good); } b.fails { color: var(--bad); }
.verdict.answers { display: inline-block; }
.summary td:last-child { width: 9rem; }
"""
