"""One self-contained HTML page to decide by, with its pictures beside it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from ..page import image, page, save
from ..picture import ATTACKS
from . import pictures
from .engine import Cell, Outcome
from .findings import ILL_FORMED, Option, Study, studies
from .records import Failure
from .tables import write_tables
from .words import (
    advice,
    attack_title,
    changes,
    counted,
    kinds,
    listed,
    problem_title,
    share,
    split_title,
    summary,
    thousands,
)

PAGE = "report.html"

_TITLE = "Which rule for which attack"
_LONGEST = 200  # characters of an error
_SHOW = Callable[[Figure, str, str], str]


def write(
    cells: Iterable[Cell],
    done: Mapping[Cell, Outcome],
    failed: Mapping[Cell, Failure],
    folder: Path,
) -> list[Study]:
    """Write report, pictures and tables on the runs that were asked for; return their studies.

    The same runs give the same bytes, in whichever order they were played.
    """
    found = studies(cells, done)
    folder.mkdir(parents=True, exist_ok=True)
    write_tables(found, folder)
    parts = "".join(_problem(study, failed, folder) for study in found)
    contents = listed(
        [f'<a href="#{study.name}">{escape(problem_title(study))}</a>' for study in found]
    )
    ill_formed = listed([attack_title(attack) for attack in ILL_FORMED])
    body = f"""<header><h1>{_TITLE}</h1>
<p>Rules of Flower's and of this package under the same attacks, on data that are more and less
alike from client to client: {contents}. Every number is computed from <code>runs.jsonl</code>
beside this page.</p>
<p class="soft">A worst case is the attack under which a rule ends worst on average over seeds.
Well-formed attacks are all but {ill_formed}, whose replies hold no model that a server could use.
In heat maps {pictures.STOPPED} marks runs that an error ended at the server, and {pictures.PARTIAL}
a value that lacks runs.</p></header>
{parts}"""
    (folder / PAGE).write_text(page(_TITLE, body, _STYLE), encoding="utf-8")
    return found


def _problem(study: Study, failed: Mapping[Cell, Failure], folder: Path) -> str:
    failures = {cell: failed[cell] for cell in study.cells if cell in failed}

    def show(figure: Figure, name: str, alt: str) -> str:
        width = round(100 * figure.get_figwidth())
        with mpl.rc_context({"svg.fonttype": "none"}):
            picture = image(save(figure, folder, f"{study.name}-{name}"), alt)
        return f'<div class="wide"><div style="width:{width}px">{picture}</div></div>'

    sections = [_told(study, len(failures)), _changes(study), _advice(study)]
    if study.attacks:
        sections += [_worst_cases(study, show), _attacks_by_rules(study, show)]
    sections += [_rounds(study, show), _effects(study, show), _server_times(study, show)]
    sections.append(_errors(study, failures))
    better = "higher is better" if study.measure == "accuracy" else "lower is better"
    return (
        f'<article id="{study.name}"><h2>{escape(problem_title(study))} '
        f'<span class="soft">({better})</span></h2>{"".join(sections)}</article>'
    )


def _told(study: Study, num_failed: int) -> str:
    return "".join(
        _section(heading, "<ul>" + "".join(f"<li>{escape(s)}</li>" for s in sentences) + "</ul>")
        for heading, sentences in summary(study, num_failed)
    )


def _changes(study: Study) -> str:
    rows = [
        [split_title(split), *told]
        for split in study.close_splits
        for told in changes(study, split)
    ]
    if not rows:
        return ""
    columns = [
        "data",
        "rule",
        "against",
        "with nobody attacking",
        "in the worst well-formed attack",
    ]
    heading = f"What client momentum and re-bucketing change, {share(study)}"
    return _section(heading, _table(columns, rows))


def _advice(study: Study) -> str:
    if not study.attacks:
        return ""
    rows = [
        [split_title(split), kind, *advice(study, split, attacks)]
        for split in study.splits
        for kind, attacks in kinds(study)
    ]
    columns = ["data", "worst case over", "best", "runner-up"]
    return _section(f"What should I run? {share(study)}", _table(columns, rows))


def _worst_cases(study: Study, show: _SHOW) -> str:
    parts = [
        _section(
            f"Worst case over {kind}",
            _grid(
                show(
                    pictures.worst_cases(study, split, attacks),
                    f"worst-{kind.split()[0]}-{split}",
                    f"Heat map: worst case over {kind} by rule and q, {split_title(split)}",
                )
                for split in study.splits
            ),
            f"Each rule is set for q, and q clients attack. {_legend(study)}",
        )
        for kind, attacks in kinds(study)
    ]
    return "".join(parts)


def _attacks_by_rules(study: Study, show: _SHOW) -> str:
    shown = "".join(
        show(
            pictures.attacks_by_rules(study, split),
            f"attacks-{split}",
            f"Heat map: attacks by rules, {split_title(split)}",
        )
        for split in study.splits
    )
    return _section(f"Every attack on every rule, {share(study)}", shown, _legend(study))


def _rounds(study: Study, show: _SHOW) -> str:
    shown = _charts(
        show(
            pictures.rounds(study, split),
            f"rounds-{split}",
            f"Lines over rounds, in peace and under attack, {split_title(split)}",
        )
        for split in study.close_splits
    )
    if not shown:
        return ""
    caption = (
        "FedAvg, the best of Flower's rules, ours and the best of ours, as far as they were "
        "played, each under its own worst well-formed attack; dots mark momentum. "
        + _spread(study, "Lines are means over", ", bands go from the least to the most")
    )
    if study.measure == "error":
        times = f"{pictures.IN_SIGHT} times what training begins with"
        caption += f" A line that leaves the picture has an error of more than {times}."
    return _section(f"Round by round, {share(study)}", shown, caption)


def _effects(study: Study, show: _SHOW) -> str:
    if not study.effects(study.splits[0], study.q):
        return ""
    shown = _charts(
        show(
            pictures.effects(study, split),
            f"effects-{split}",
            f"Gains by client momentum and re-bucketing, {split_title(split)}",
        )
        for split in study.splits
    )
    caption = (
        "By how much each is better than the same without. "
        + _spread(
            study, "Dots are means over", ", lines go from the least to the most seed by seed"
        )
        + " Gains and losses without bound are left out."
    )
    return _section(f"Client momentum and re-bucketing, {share(study)}", shown, caption)


def _server_times(study: Study, show: _SHOW) -> str:
    runs = [ms.number for option in study.options if (ms := study.server_ms(option))]
    if not runs:
        return ""
    least, most = min(runs), max(runs)
    over = counted(most, "run") if least == most else f"{least} to {counted(most, 'run')}"
    caption = (
        f"{'' if most == 1 else 'Mean, least and most over '}{over} of each rule with nobody "
        f"attacking, set for q = {study.q}. "
        "Measured in the process that trains, among other workers: to compare rules, not machines."
    )
    alt = "Bars: the server's milliseconds for a round"
    shown = show(pictures.server_times(study), "server-times", alt)
    return _section("Cost of a round at the server", _charts([shown]), caption)


def _errors(study: Study, failures: Mapping[Cell, Failure]) -> str:
    stopped = [
        [
            rule.title,
            ATTACKS[attack],
            f"{thousands(len(errors))} of {counted(runs, 'run')}",
            _most_common(errors),
        ]
        for rule, attack, errors, runs in study.stopped()
    ]
    parts = []
    if stopped:
        columns = ["rule", "attack", "stopped", "error"]
        parts.append(_section("Runs ended by an error at the server", _table(columns, stopped)))
    if failures:
        rows = [
            [
                Option(cell.rule, cell.momentum).title,
                split_title(cell.split),
                ATTACKS[cell.attack],
                str(cell.q),
                str(cell.seed),
                _short((failure.error.strip().splitlines() or ["no text"])[-1]),
            ]
            for cell, failure in failures.items()
        ]
        columns = ["rule", "data", "attack", "q", "seed", "error"]
        parts.append(
            _section(
                "Runs that failed to be carried out",
                _table(columns, rows),
                "They are in no number, and are tried again by the next call.",
            )
        )
    return "".join(parts)


def _most_common(errors: Sequence[str]) -> str:
    """Return the commonest error, the first in order of equals, without its round."""
    texts = [error.split(": ", 1)[-1] for error in errors]
    kinds = sorted(set(texts), key=lambda text: (-texts.count(text), text))
    others = len(kinds) - 1
    more = f" (and {counted(others, 'other error')})" if others else ""
    return _short(kinds[0]) + more


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1].rstrip() + "…"


def _legend(study: Study) -> str:
    what = "Accuracy in %" if study.measure == "accuracy" else "Error, colours on a log scale"
    spread = _spread(study, "Means over", ", and below them the least and the most")
    return f"{what}. {spread} The lighter, the better."


def _spread(study: Study, means: str, ends: str) -> str:
    """Say how many seeds there are, and where their spread is shown."""
    seeds = counted(len(study.seeds), "seed")
    return f"{means} {seeds}{ends}." if len(study.seeds) > 1 else "One seed."


def _section(heading: str, body: str, caption: str = "") -> str:
    told = f'<p class="soft">{escape(caption)}</p>' if caption else ""
    return f"<section><h3>{escape(heading)}</h3>{told}{body}</section>\n"


def _charts(items: Iterable[str]) -> str:
    """Return pictures that shrink to the screen; a heat map scrolls, for its numbers to be read."""
    shown = "".join(items)
    return f'<div class="grid charts">{shown}</div>' if shown else ""


def _grid(items: Iterable[str]) -> str:
    return f'<div class="grid">{"".join(items)}</div>'


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(entry)}</td>" for entry in row) + "</tr>" for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


_STYLE = """
body { max-width: 1360px; }
h2 { margin-top: 2.5rem; font-size: 1.6rem; } h3 { margin: 0 0 .4rem; font-size: 1.15rem; }
p, ul { max-width: 56rem; } ul { padding-left: 1.2rem; } li { margin: .35rem 0; }
.soft { color: var(--soft); font-weight: 400; font-size: .92rem; }
.wide { overflow-x: auto; } .wide img { display: block; } .wide table { min-width: 48rem; }
td { overflow-wrap: break-word; } td:first-child { white-space: nowrap; padding-right: 1rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 600px), 1fr));
  gap: 1.5rem; }
.grid > * { min-width: 0; } .charts > .wide > div { max-width: 100%; }
.wide + .wide { margin-top: 1.5rem; } .grid > .wide + .wide { margin-top: 0; }
"""
