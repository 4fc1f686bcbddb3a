"""What the paper claims, judged by runs: a figure, numbers and a verdict each.

Nothing here is judged by eye: a verdict follows from the numbers, these from the runs.
"""

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from clients.run import Run
from flwr_byz.pages import STYLE, Cell, Picture, Section, Table, save

from . import (
    adversary,
    baselines,
    convergence,
    fidelity,
    floor,
    lemmas,
    planned,
    remark_2,
    server,
)
from .claim import Claim, Judge, Number, joint_verdict, with_sizes

_JUDGES: Mapping[str, Judge] = {
    "convergence": convergence.judge_convergence,
    "tails": lemmas.judge_tails,
    "good-batches": lemmas.judge_good_batches,
    "bound": lemmas.judge_bound,
    "planned": planned.judge_planned,
    "remark-2": remark_2.judge_remark_2,
    "server": server.judge_server,
    "floor-n": floor.judge_floor_in_n,
    "floor-d": floor.judge_floor_in_d,
    "floor-q": floor.judge_floor_in_q,
    "choice-of-k": floor.judge_choice_of_k,
    "rounds": convergence.judge_rounds,
    "mean": adversary.judge_mean,
    "moving": adversary.judge_moving,
    "corrupted-data": adversary.judge_corrupted,
    "uneven": floor.judge_uneven,
    "breakdown": adversary.judge_breakdown,
    "selection": adversary.judge_selection,
    "logistic": floor.judge_logistic,
    "scarce": baselines.judge_scarce,
    "baselines": baselines.judge_baselines,
    "attacks": adversary.judge_attacks,
    "engine": fidelity.judge_engine,
}
_TEXTS = tomllib.loads(Path(__file__).with_name("claims.toml").read_text(encoding="utf-8"))
CLAIMS = tuple(Claim(name=name, judge=_JUDGES[name], **texts) for name, texts in _TEXTS.items())

GUIDE = """Chen, Su and Xu (2017) prove bounds and show no experiments; here they are. Every \
number is computed from the runs; brackets are 95 % intervals. A claim holds where each number \
with a bound lies within it, with its interval where it has one; where it does not over all of the \
range tried, the verdict names the boundary."""

_OVERVIEW = "floor-n", "floor-q", "choice-of-k", "moving", "breakdown", "selection"
_RUN = [field.name for field in fields(Run)]
_CELL = [name for name in _RUN if name != "seed"]


@dataclass(frozen=True)
class Finding:
    """A claim with what its runs show."""

    claim: Claim
    numbers: Sequence[Number]
    num_runs: int
    picture: Picture

    @property
    def verdict(self) -> str:
        """Whether, and where, the claim holds; part by part of one in parts."""
        if not self.claim.in_parts:
            return joint_verdict(self.numbers)
        parts: dict[str, list[Number]] = {}
        for number in self.numbers:
            if number.holds is not None:
                parts.setdefault(number.label.partition(":")[0], []).append(number)
        return "; ".join(f"{part}: {joint_verdict(numbers)}" for part, numbers in parts.items())


def sections(
    frame: pd.DataFrame, folder: Path, drawn: Collection[str] = ()
) -> tuple[list[Section], Table]:
    """Judge claims by their runs in a frame, or `drawn`, by none; write figures and CSV files.

    Returns
    -------
    list of Section
        The verdicts, and one for each claim.
    Table
        The verdicts.
    """
    runs = frame[(frame.failed == "") & frame.name.str.partition(":")[0].isin(_JUDGES)]
    runs = with_sizes(runs).sort_values(["name", *_RUN], ignore_index=True)
    findings = [
        find(claim, part, folder)
        for claim in CLAIMS
        if len(part := claim.runs(runs)) or claim.name in drawn
    ]
    with mpl.rc_context(STYLE):
        draw_overview(runs, folder / "overview.png")
    rows = [
        (finding.claim.name, finding.verdict, n.label, n.value, n.wanted, n.verdict)
        for finding in findings
        for n in finding.numbers
    ]
    names = ["claim", "verdict", "measured", "value", "should be", "judged"]
    pd.DataFrame(rows, columns=names).to_csv(folder / "numbers.csv", index=False)
    cells = runs.drop_duplicates(_RUN).groupby(_CELL, sort=False).final
    ends = cells.agg(runs="size", least="min", median="median", mean="mean", most="max")
    ends.reset_index().to_csv(folder / "cells.csv", index=False, float_format="%.6g")
    summary = [(f.claim.title, _verdict(f), f.claim.says, f.claim.source) for f in findings]
    verdicts = Table(("claim", "verdict", "", "source"), summary)
    opening = Section("Verdicts", GUIDE, [], [verdicts])
    return [opening, *(_section(finding) for finding in findings)], verdicts


@mpl.rc_context(STYLE)
def find(claim: Claim, runs: pd.DataFrame, folder: Path) -> Finding:
    """Judge a claim by its runs; write its figure as PNG and SVG."""
    figure = Figure((5.6, 3.8))
    numbers = claim.judge(runs, figure)
    _, svg = save(figure, folder / claim.name)
    return Finding(claim, numbers, len(runs), Picture(svg, f"{claim.title}: {claim.says}"))


def draw_overview(runs: pd.DataFrame, path: Path) -> None:
    """Draw the figures of a few claims into one picture, in rows of three."""
    shown = [claim for claim in CLAIMS if claim.name in _OVERVIEW and len(claim.runs(runs))]
    figure = Figure((13.5, 3.8 * max(1, -(-len(shown) // 3))))
    panels = figure.subfigures(max(1, -(-len(shown) // 3)), 3, hspace=0.04, wspace=0.02).flat
    for claim, panel in zip(shown, panels, strict=False):
        claim.judge(claim.runs(runs), panel)
        panel.suptitle(claim.title, fontsize=11)
    figure.savefig(path, dpi=110)


def _section(finding: Finding) -> Section:
    claim = finding.claim
    rows = [
        (n.label, Cell(n.value, "broken" if n.holds is False else ""), n.wanted)
        for n in finding.numbers
    ]
    runs = f" {finding.num_runs} runs." if finding.num_runs else ""
    text = f"{claim.says} ({claim.source})\n\n{claim.setting}{runs}"
    table = Table(("measured", "", "should be"), rows)
    heading = claim.title if claim.in_parts else f"{claim.title}: {finding.verdict}"
    return Section(heading, text, [finding.picture], [table])


def _verdict(finding: Finding) -> Cell:
    return Cell(finding.verdict, "broken" if finding.verdict == "does not hold" else "")
