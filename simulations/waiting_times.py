"""How long training takes where nobody waits for all clients, beside rounds that wait."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from clients.own_rules import ASYNC
from clients.rules import FEDBUFF, GMOM, title
from clients.run import NO_ATTACK
from flwr_byz.pages import Cell, Table

from . import pictures
from .look import Look, Part
from .tables import MOST_LINES, Study, at, joined, number

SYNC = title(GMOM)
"""The rule that waits for all clients, whose runs set the targets."""

_MORE = 0.05
_PANELS = 3  # of attacks
_RUN = ["split", "num_byzantine", "attack", "placement", "seed"]
_CASE = ["split", "num_byzantine", "option", "attack", "placement"]

_WAITING = f"""What clients take is simulated. The target is the error with which {SYNC}, which \
waits for all clients in every round, ends under the same attack and seed, and {_MORE:.0%} more; \
where accuracy is measured, the error is what it lacks of 1. The time of a run is the first time \
at which its own curve is at the target, that of {SYNC} itself as well; a typical reply takes one \
unit. "× {SYNC}" is the ratio of the two for the same seed, the median over seeds: it is "never" \
where half of the seeds or more do not reach the target while they run. An attack under which \
{SYNC} ends no better than it begins sets no target. Final values are means over seeds. Fast \
attackers reply at once to every model; stale ones so late that the reply is as old as is still \
taken."""


def by_latency(studies: Sequence[Study]) -> list[Study]:
    """Join the studies of a problem and a latency, whatever their numbers of rounds."""
    timed = [study for study in studies if study.runs.latency[0]]
    return joined(timed, lambda run: (run.problem, run.num_clients, run.latency))


def waits(look: Look) -> Iterable[Part]:
    """Show how long each rule takes to where the one that waits ends."""
    study, shown, made = look.study, [], []
    for split in look.splits:
        cells = at(waiting_times(study), split, look.q)
        if SYNC not in set(cells.option):
            continue
        rules = summary(study.measure, cells)
        look.table(cells, "time", split, "cases")
        look.table(rules, "time", split)
        panels = {
            attack: at(study.cells[study.cells.attack == attack], split, look.q)
            for attack in (NO_ATTACK, *slowest(cells)[:_PANELS])
        }
        options = dict.fromkeys([*rules.option[: MOST_LINES - 1], rules.option.iloc[-1]])
        picture = pictures.over_time(study, panels, list(options))
        shown.append(look.picture(picture, "time", split))
        made.append(_rules(study.measure, rules, split))
        made.append(_attacks(study, cells, list(rules.option), split))
    if made:
        heading = f"time to where {SYNC} ends"
        yield look.section(heading, shown, made, _WAITING), len(made)


def waiting_times(study: Study) -> pd.DataFrame:
    """Return the time to the target in each case, medians over seeds, with the final value.

    `time` and `sync` are those of the rule and of `SYNC`, `ratio` that of the two for the same
    seed; `reached` says how many of the `seeds` with a target are ever there. Without a target,
    times are NaN.
    """
    runs = study.runs[(study.runs.failed == "") & study.runs.times.map(bool)]
    each = runs.to_dict("records")
    waited = {_key(run): run for run in each if run["option"] == SYNC}
    rows = [_times(study.measure, run, waited.get(_key(run))) for run in each]
    runs = runs.assign(**pd.DataFrame(rows, runs.index, ["time", "sync"], float))
    runs = runs.assign(ratio=runs.time / runs.sync, reached=runs.time < math.inf)
    cells = runs.groupby(_CASE, sort=False).agg(
        time=("time", "median"),
        sync=("sync", "median"),
        ratio=("ratio", "median"),
        reached=("reached", "sum"),
        seeds=("time", "count"),
        final=("final", "mean"),
    )
    return cells.reset_index()


def _key(run: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(run[name] for name in _RUN)


def _times(
    measure: str, run: Mapping[str, Any], waited: Mapping[str, Any] | None
) -> tuple[float, float]:
    """Return when a run and the one that waits are at the target; NaN without a target."""
    if waited is None:
        return math.nan, math.nan
    target = (1 + _MORE) * _error(measure, waited["values"][-1])
    time, sync = (
        next((t for v, t in steps if _error(measure, v) <= target), math.inf)
        for steps in (zip(each["values"], each["times"], strict=True) for each in (run, waited))
    )
    return (time, sync) if sync > 0 else (math.nan, math.nan)


def _error(measure: str, value: float) -> float:
    return value if measure == "error" else 1 - value


def summary(measure: str, cells: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each rule: `SYNC` first, FedBuff last.

    Columns are the clean `time`, its `ratio` to that of `SYNC` and `beside_fedbuff` to that of
    FedBuff; `longest`, the largest ratio over attacks under which the target is reached, and
    `never`, the number of the others, of `attacks` that have one; how many `runs` under attack have
    `reached` it; the final values, `clean` and `worst`, with the attack.
    """
    clean = cells[cells.attack == NO_ATTACK].drop_duplicates("option").set_index("option")
    rows = []
    for option, part in cells[cells.attack != NO_ATTACK].groupby("option", sort=False):
        timed = part[part.ratio.notna()]
        reached = timed[timed.ratio < math.inf].sort_values("ratio", kind="stable")
        worst = part.sort_values("final", ascending=measure == "accuracy", kind="stable")
        longest = reached.tail(1)
        rows.append(
            {
                "option": option,
                "longest": longest.ratio.max(),
                "longest_attack": "".join(longest.attack),
                "never": len(timed) - len(reached),
                "attacks": len(timed),
                "reached": timed.reached.sum(),
                "runs": timed.seeds.sum(),
                "worst": worst.final.iloc[0],
                "worst_attack": worst.attack.iloc[0],
            }
        )
    found = pd.DataFrame(rows)
    for name, of_clean in {"time": "time", "ratio": "ratio", "clean": "final"}.items():
        found[name] = found.option.map(clean[of_clean]).astype(float)
    fedbuff = clean.time.get(title(FEDBUFF), math.inf)
    found["beside_fedbuff"] = found.time / fedbuff if fedbuff < math.inf else math.nan
    place = {SYNC: 0, title(FEDBUFF): 2}
    return found.sort_values(
        "option", key=lambda names: names.map(lambda name: place.get(name, 1)), kind="stable"
    )


def slowest(cells: pd.DataFrame) -> list[str]:
    """Return the attacks in the order of how long the asynchronous rule takes, at its own pace."""
    part = cells[(cells.option == title(ASYNC)) & (cells.attack != NO_ATTACK)]
    return list(part.sort_values("ratio", ascending=False, kind="stable").attack)


def _rules(measure: str, rules: pd.DataFrame, split: str) -> Table:
    rows = [
        (
            row.option,
            _short(row.time),
            _short(row.ratio),
            _short(row.beside_fedbuff),
            f"{_short(row.longest)} {row.longest_attack}",
            Cell(f"{row.never} of {row.attacks}", "broken" if row.never else ""),
            f"{row.reached} of {row.runs}",
            number(measure, row.clean),
            f"{number(measure, row.worst)} {row.worst_attack}",
        )
        for row in rules.itertuples()
    ]
    names = "rule", "time, no attack", f"× {SYNC}", f"× {title(FEDBUFF)}", "longest under attack"
    names += "never", "runs that reach it", f"{measure}, no attack", "worst"
    return Table(names, rows, split)


def _attacks(study: Study, cells: pd.DataFrame, options: Sequence[str], split: str) -> Table:
    """Return the ratio and the final value, attack by attack and rule by rule."""
    found = {(c.attack, c.option): c for c in cells.itertuples()}
    rows = []
    for attack in (NO_ATTACK, *study.attacks):
        row = [found.get((attack, option)) for option in options]
        if any(row):
            rows.append((attack, *(_entry(study.measure, cell) for cell in row)))
    return Table((f"time × {SYNC} (final {study.measure})", *options), rows, split)


def _entry(measure: str, cell: Any) -> Cell:
    if cell is None:
        return Cell("–")
    mark = "broken" if cell.ratio == math.inf else ""
    return Cell(f"{_short(cell.ratio)} ({number(measure, cell.final)})", mark)


def _short(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "never" if value == math.inf else f"{value:.0f}" if value >= 10 else f"{value:.2g}"
