"""One page, with its pictures and tables beside it, of the views that a declaration asks for."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import rich.table

from clients.run import Run
from flwr_byz.pages import Cell, Table, write_page

from . import claims, insights, pictures, tables, waiting_times
from .look import Look, Part
from .tables import BROKEN, ILL_FORMED, NO_ATTACK, Study, at, laid_out, number
from .views import View

PAGE = "report.html"

GUIDE = f"""Numbers are means over seeds, with the least and the most where they differ. Accuracy \
is in percent. The best rule is in bold; gains are taken seed by seed, in bold where every seed \
gains, in red where every seed loses. Lines leave a picture, and colours end, at \
{pictures.IN_SIGHT} times the first error. Every number is computed from runs.jsonl; each picture \
and table is also a file beside this page.

A worst case is the attack and the placement of the Byzantine clients under which a rule ends \
worst on average. Well-formed attacks are all but {", ".join(ILL_FORMED)}, whose replies hold no \
model that a server can use. A rule is broken where it ends at {BROKEN["error"]:g} times the \
error of FedAvg without attack or more, or at {BROKEN["accuracy"]:g} times its accuracy or less.

✗ broken; † an error at the server ended runs; * incomplete: runs are missing or failed."""

_WIDEST = 9  # columns of a table beside a heat map
_RANKED = 12  # attacks
_NUMBERS = ["mean", "least", "most", "seeds", "stopped", "whole"]


def report(
    title: str, views: Sequence[View], frame: pd.DataFrame, folder: Path
) -> list[rich.table.Table]:
    """Write `PAGE` with its files from a row for each run; return the tables to be printed.

    The same runs give the same bytes, in whichever order they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    runs = frame.drop_duplicates([field.name for field in fields(Run)])
    sections, printed = [], []
    if judges := [view for view in views if view.kind == "claims"]:
        drawn = {name for view in judges for name in view.drawn}
        judged, verdicts = claims.sections(frame, folder, drawn)
        sections, printed = list(judged), [verdicts.for_terminal()]
        views = [view for view in views if view.kind != "claims"]
    studies = tables.studies(runs) if views else []
    parted = [view for view in views if view.kind not in _JOINED]
    pairs = [
        pair
        for kind, join in _JOINED.items()
        for pair in product(join(studies), [view for view in views if view.kind == kind])
    ]
    pairs += product(studies, parted)
    for study, view in pairs:
        for section, count in _PARTS[view.kind](Look.at(study, view, folder)):
            sections.append(section)
            for table in section.tables[:count]:
                heading = " – ".join(filter(None, (section.heading, table.title)))
                printed.append(replace(table, title=heading).for_terminal())
    failed, stopped = ((runs[name] != "").sum() for name in ("failed", "stopped"))
    summary = f"{len(runs)} runs: {stopped} ended by an error at the server, {failed} failed."
    guide = f"\n\n{GUIDE}" if views else ""
    write_page(folder / PAGE, title, summary + guide, sections)
    return printed


def _worst(look: Look) -> Iterable[Part]:
    study, clean = look.study, look.study.worst([NO_ATTACK])
    kinds = {"well-formed attacks": study.well_formed, "all attacks": study.attacks}
    for over, attacks in kinds.items():
        if not attacks or (over != "all attacks" and attacks == study.attacks):
            continue
        cells = pd.concat([clean[clean.num_byzantine == 0], study.worst(attacks)])
        cells = cells[cells.split.isin(look.splits)].sort_values("num_byzantine", kind="stable")
        look.table(cells[[*tables.SETTING, "attack", *_NUMBERS]], "worst", over)
        near = cells[cells.num_byzantine == look.q]
        near = laid_out(study, near, near.option, near.split, "column")
        shown, made = [], [_grid(near, study.options, look.splits, f"q = {look.q}")]
        for split in filter(set(cells.split).__contains__, look.splits):
            part = cells[cells.split == split]
            q = "q = " + part.num_byzantine.astype(str)
            part = laid_out(study, part, part.option, q, "column")
            shape = part, study.options, list(dict.fromkeys(q)), split
            shown.append(look.picture(pictures.heat_map(study, *shape), "worst", over, split))
            made.append(_grid(*shape))
        yield look.section(f"worst case over {over}", shown, made), 1


def _attacks(look: Look) -> Iterable[Part]:
    study, shown, made, printed = look.study, [], [], 0
    for split in look.splits:
        if (cells := at(study.cells, split, look.q)).empty:
            continue
        look.table(cells[["attack", "placement", "option", *_NUMBERS, "broken"]], "attacks", split)
        cells = laid_out(study, cells, cells.attack, cells.column, "row")
        rows = [attack for attack in (NO_ATTACK, *study.attacks) if attack in set(cells.row)]
        shape = cells, rows, list(dict.fromkeys(cells.column)), split
        shown.append(look.picture(pictures.heat_map(study, *shape), "attacks", split))
        if len(shape[2]) <= _WIDEST:
            made.append(_grid(*shape))
            printed += 2
        made.append(_broken(cells, split))
    yield look.section("every attack on every rule", shown, made), printed


def _broken(cells: pd.DataFrame, title: str) -> Table:
    """Return by which attacks each rule is broken."""
    rows = []
    for column, part in cells[cells.attack != NO_ATTACK].groupby("column", sort=False):
        names = list(part.attack[part.broken])
        count = Cell(f"{len(names)} of {len(part)}", "broken" if names else "")
        rows.append((column, count, ", ".join(names)))
    return Table(("rule", "broken by", "which"), rows, title)


def _rounds(look: Look) -> Iterable[Part]:
    study, leaders, shown = look.study, look.study.leaders(look.q, look.splits), []
    for split in look.splits:
        cells = at(study.cells, split, look.q)
        panels = {name: cells[cells.attack == name] for name in (NO_ATTACK, *study.attacks)}
        shown.append(look.picture(pictures.rounds(study, panels, leaders), "rounds", split))
    yield look.section("round by round", shown, []), 0


def _worst_rounds(look: Look) -> Iterable[Part]:
    study, leaders = look.study, look.study.leaders(look.q, look.splits)
    kinds = {"no attack": [NO_ATTACK], "worst attack": study.well_formed}
    panels = {
        f"{split} {under}".strip(): at(study.worst(attacks), split, look.q)
        for split, (under, attacks) in product(look.splits, kinds.items())
    }
    shown = look.picture(pictures.rounds(study, panels, leaders), "worst-rounds")
    yield look.section("round by round in the worst well-formed case", [shown], []), 0


def _ranking(look: Look) -> Iterable[Part]:
    study, made = look.study, []
    for split in look.splits:
        cells = at(study.cells, split, look.q).sort_values("bad", ascending=False, kind="stable")
        look.table(cells[["attack", "placement", "option", *_NUMBERS, "rate"]], "ranking", split)
        shown = pd.concat([cells.head(_RANKED), cells[cells.attack == NO_ATTACK]])
        shown = laid_out(study, shown, "", "", "row")
        rows = [
            (case.attack, case.placement, case.option, case.text, f"{case.mean / case.rate:.3g}")
            for case in shown.itertuples()
        ]
        names = "attack", "placement", "rule", study.measure, "/ √(dk/N)"
        if cells.rate.isna().all():
            names, rows = names[:-1], [row[:-1] for row in rows]
        made.append(Table(names, rows, f"{split} {len(rows)} of {len(cells)}".strip()))
    yield look.section("the most harmful attacks and placements", [], made), len(made)


def _effects(look: Look) -> Iterable[Part]:
    changes = pd.concat([tables.effects(look.study, split, look.q) for split in look.splits])
    if len(changes):
        look.table(changes, "effects")
        rows = []
        for pair, part in changes.groupby(["split", "option", "base"], sort=False):
            gains = {change.under: _gain(look.study, change) for change in part.itertuples()}
            rows.append((*pair, *(gains.get(under, "") for under in tables.UNDER)))
        table = Table(("data", "rule", "beside", *tables.UNDER), rows)
        yield look.section("gain by options over the same rule without", [], [table]), 1


def _gain(study: Study, change: Any) -> Cell:
    values = change.gain, change.least, change.most
    mean, *ends = (("+" if value > 0 else "") + number(study.measure, value) for value in values)
    text = mean + (f" ({' to '.join(ends)})" if ends[0] != ends[1] else "")
    mark = "best" if change.least > 0 else "broken" if change.most < 0 else ""
    return Cell(text + ("" if change.whole else "*"), mark)


def _cost(look: Look) -> Iterable[Part]:
    costs = tables.costs(look.study, look.q, look.splits)
    if len(costs):
        look.table(costs, "cost")
        spread = [f"{c.mean:.3g} ({c.least:.3g}–{c.most:.3g})" for c in costs.itertuples()]
        rows = list(zip(costs.option, spread, costs.runs.astype(str), strict=True))
        table = Table(("rule", "milliseconds", "runs"), rows)
        yield look.section("processor time of a round at the server", [], [table]), 1


def _stopped(look: Look) -> Iterable[Part]:
    for kind, what in {"stopped": "runs ended at the server", "failed": "failed runs"}.items():
        errors = tables.errors(look.study, kind, look.splits)
        if len(errors):
            look.table(errors, kind)
            counts = errors[kind].astype(str) + " of " + errors.runs.astype(str)
            rows = list(zip(errors.option, errors.attack, counts, errors.error, strict=True))
            table = Table(("rule", "attack", "runs", "most frequent error"), rows)
            yield look.section(what, [], [table]), 1


def _grid(cells: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], title: str) -> Table:
    """Return cells by row and column, with the attack where it is not the row's."""
    found = {}
    for case in cells.itertuples():
        under = "" if case.attack in (case.row, NO_ATTACK) else f" {case.attack}"
        mark = "broken" if case.broken else "best" if case.best else ""
        found[case.row, case.column] = Cell(case.text + under, mark)
    made = [(row, *(found.get((row, column), "–") for column in columns)) for row in rows]
    return Table(("", *columns), made, title)


_PARTS: Mapping[str, Callable[[Look], Iterable[Part]]] = {
    "worst": _worst,
    "attacks": _attacks,
    "rounds": _rounds,
    "worst-rounds": _worst_rounds,
    "ranking": _ranking,
    "effects": _effects,
    "cost": _cost,
    "stopped": _stopped,
    "choice": insights.choice,
    "minority": insights.minority,
    "detection": insights.detection,
    "time": waiting_times.waits,
}
_JOINED: Mapping[str, Callable[[Sequence[Study]], list[Study]]] = {
    "choice": insights.families,
    "time": waiting_times.by_latency,
}
