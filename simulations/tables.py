"""Runs grouped into tables: pure functions of a frame with a row for each run."""

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd

from clients.own_rules import OWN
from clients.rules import GMOM, RULES, title
from clients.run import NO_ATTACK

from .outcome import LOST

ILL_FORMED = "NonFinite", "Malformed", "Silent"
"""Attacks whose replies hold no model that a server could use."""

BROKEN = {"error": 10.0, "accuracy": 0.5}
"""Times what FedAvg reaches without attack: from there on, a rule is broken."""

UNDER = "without attack", "each in its worst well-formed case"
"""Where the effects of options are compared."""

STUDY = ["problem", "num_clients", "num_rounds", "latency"]
SETTING = ["split", "num_byzantine", "option"]
CASE = [*SETTING, "attack", "placement"]
MOST_LINES = 7  # in a picture
_TIMINGS = {
    "own": "",
    "fast": ", fast attackers",
    "last": ", last-minute attackers",
    "stale": ", stale attackers",
}
_SHARE = 0.2  # of Byzantine clients, where one number of them is looked at


@dataclass(frozen=True, eq=False)
class Study:
    """The runs of one problem, number of clients and of rounds, and latency, in `studies`' order.

    Some views look at several such studies joined to one.
    """

    runs: pd.DataFrame

    @property
    def name(self) -> str:
        """The problem, and how long clients take where that was simulated."""
        return ", ".join(filter(None, (self.runs.problem[0], self.runs.latency[0])))

    @property
    def num_rounds(self) -> str:
        """The number of rounds, or all of them in joined studies."""
        return ", ".join(map(str, sorted(set(self.runs.num_rounds))))

    @property
    def measure(self) -> str:
        """Either "accuracy", of which more is better, or "error", of which less is."""
        return str(self.runs.measure[0])

    @property
    def options(self) -> list[str]:
        """The rules, each with its clients' momentum and its attackers' timing."""
        return list(dict.fromkeys(self.runs.option))

    @property
    def splits(self) -> list[str]:
        """How data are spread, the most alike clients first."""
        return sorted(set(self.runs.split), key=_alikeness)

    @property
    def attacks(self) -> list[str]:
        """The attacks, ill-formed ones last."""
        return sorted(set(self.runs.attack) - {NO_ATTACK}, key=_place_of_attack)

    @property
    def well_formed(self) -> list[str]:
        """The attacks whose replies a server can use."""
        return [attack for attack in self.attacks if name_of(attack) not in ILL_FORMED]

    @property
    def num_byzantine(self) -> int:
        """The number of Byzantine clients that is the nearest to a fifth."""
        share = _SHARE * self.runs.num_clients[0]
        return int(min(self.runs.num_byzantine, key=lambda q: (q == 0, abs(q - share), q)))

    @cached_property
    def cells(self) -> pd.DataFrame:
        """Every case over its seeds: mean, least, most, bad (the higher, the worse), marks."""
        runs = self.runs.assign(stopped=self.runs.stopped != "")
        cells = runs.groupby(CASE, sort=False).agg(
            mean=("final", "mean"),
            least=("final", "min"),
            most=("final", "max"),
            seeds=("seed_done", "nunique"),
            stopped=("stopped", "sum"),
            rate=("rate", "mean"),
        )
        cells = cells.reset_index()
        other = (", " + cells.placement).where(cells.placement != "spread", "")
        cells["column"] = cells.option + other
        cells["bad"] = cells["mean"] if self.measure == "error" else -cells["mean"]
        cells["whole"] = cells.seeds == self.runs.seed.nunique()
        limit = BROKEN[self.measure] * self._reference(cells)
        cells["broken"] = cells["bad"] >= (limit if self.measure == "error" else -limit)
        return cells

    def _reference(self, cells: pd.DataFrame) -> pd.Series:
        """Return FedAvg's mean without attack on the same split, set for the same q."""
        clean = cells[(cells.option == title("FedAvg")) & (cells.attack == NO_ATTACK)]
        same = clean.drop_duplicates(SETTING[:2]).set_index(SETTING[:2])["mean"]
        places = zip(cells.split, cells.num_byzantine, strict=True)
        return pd.Series([same.get(place, math.nan) for place in places])

    def worst(self, attacks: Sequence[str]) -> pd.DataFrame:
        """Return the worst cell of each split, q and option; whole if all of its cells are."""
        cells = self.cells[self.cells.attack.isin(attacks)]
        placements = cells.groupby(SETTING).placement.transform("nunique")
        whole = cells.groupby(SETTING).whole.transform("sum")
        cells = cells.assign(whole=whole == placements * cells.attack.nunique())
        cells = cells.sort_values("bad", ascending=False, kind="stable")
        return cells.drop_duplicates(SETTING).sort_index()

    def runs_of(self, case: Any) -> pd.DataFrame:
        """Return the runs of a cell that did not fail."""
        runs = self.runs[self.runs.failed == ""]
        for name in CASE:
            runs = runs[runs[name] == getattr(case, name)]
        return runs

    def leaders(self, num_byzantine: int, splits: Sequence[str]) -> list[str]:
        """Return FedAvg, GeometricMedianOfMeans and the rules of the best worst cases."""
        known = [option for option in (title("FedAvg"), title(GMOM)) if option in self.options]
        worst = self.worst(self.well_formed or [NO_ATTACK])
        worst = worst[(worst.num_byzantine == num_byzantine) & worst.split.isin(splits)]
        ranks = worst.groupby("split").bad.rank().groupby(worst.option, sort=False).min()
        best = ranks.sort_values(kind="stable").index
        return list(dict.fromkeys([*known, *best]))[:MOST_LINES]


def studies(frame: pd.DataFrame) -> list[Study]:
    """Part runs by problem, number of clients and of rounds, and latency, whatever their order."""
    runs = pd.DataFrame(sorted(frame.to_dict("records"), key=_order), columns=frame.columns)
    runs["option"] = [_option(*each) for each in _variants(runs)]
    lost = runs.final.astype(float).fillna(runs.measure.map(LOST))
    runs["final"] = lost.where(runs.failed == "")
    runs["seed_done"] = runs.seed.where(runs.failed == "")
    return [Study(part.reset_index(drop=True)) for _, part in runs.groupby(STUDY)]


def joined(studies: Sequence[Study], key: Callable[[Any], Hashable]) -> list[Study]:
    """Join the studies whose first runs have the same key."""
    found: dict[Hashable, list[pd.DataFrame]] = {}
    for study in studies:
        found.setdefault(key(study.runs.loc[0]), []).append(study.runs)
    return [Study(pd.concat(runs, ignore_index=True)) for runs in found.values()]


def at(cells: pd.DataFrame, split: str, num_byzantine: int) -> pd.DataFrame:
    """Return the cells of one split and number of Byzantine clients."""
    return cells[(cells.split == split) & (cells.num_byzantine == num_byzantine)]


def laid_out(study: Study, cells: pd.DataFrame, row: Any, column: Any, among: str) -> pd.DataFrame:
    """Add what a table shows of cells: row, column, text (brief and spread), and the best.

    The best are those that read as the best of their "row" or "column" does, and are whole.
    """
    cells = cells.assign(row=row, column=column)
    able = cells.whole & ~cells.broken
    cells["bar"] = cells.bad.where(able).groupby(cells[among]).transform("min")
    mean, least, most, bad, bar = (
        cells[name].map(partial(number, study.measure)).astype(str)
        for name in ("mean", "least", "most", "bad", "bar")
    )
    marks = np.where(cells.broken, "✗", "") + np.where(cells.stopped > 0, "†", "")
    brief = mean + marks + np.where(cells.whole, "", "*")
    spread = (least + "–" + most).where(least != most, "")
    text = brief + (" (" + spread + ")").where(spread != "", "")
    return cells.assign(best=able & (bad == bar), brief=brief, spread=spread, text=text)


def effects(study: Study, split: str, num_byzantine: int) -> pd.DataFrame:
    """Return by how much options are better than the same rule without, seed by seed."""
    rows = []
    for under, attacks in zip(UNDER, ([NO_ATTACK], study.well_formed), strict=True):
        worst = at(study.worst(attacks), split, num_byzantine)
        cases = {case.option: case for case in worst.itertuples()}
        for option, base in _pairs(study):
            if option in cases and base in cases:
                new, old = cases[option], cases[base]
                gain = _gain(study, new, old)
                ends = new.attack, new.mean, old.attack, old.mean
                spread = gain.mean(), gain.min(), gain.max(), len(gain)
                rows.append((option, base, under, *ends, *spread, new.whole and old.whole))
    names = "option base under attack mean base_attack base_mean gain least most seeds whole"
    return pd.DataFrame(rows, columns=names.split()).assign(split=split)


def _pairs(study: Study) -> list[tuple[str, str]]:
    """Pair each option with the same without momentum, and with the same rule without options."""
    known = dict.fromkeys(_variants(study.runs))
    return [
        (_option(rule, momentum, timing), _option(*base))
        for rule, momentum, timing in known
        for base in ((rule, 0.0, timing), (name_of(rule), momentum, timing))
        if base in known and base != (rule, momentum, timing)
    ]


def _gain(study: Study, case: Any, base: Any) -> pd.Series:
    """Return by how much a cell ends better than another, by the seeds that both have."""
    ends = [study.runs_of(each).groupby("seed").final.mean() for each in (case, base)]
    new, old = ends[0].align(ends[1], join="inner")
    gain = old - new if study.measure == "error" else new - old
    return gain.where(new != old, 0.0)


def costs(study: Study, num_byzantine: int, splits: Sequence[str]) -> pd.DataFrame:
    """Return the server's milliseconds for a round without attack, by option."""
    runs = study.runs[(study.runs.failed == "") & (study.runs.attack == NO_ATTACK)]
    runs = runs[runs.split.isin(splits) & (runs.num_byzantine == num_byzantine)]
    runs = runs[runs.seconds.notna()]
    milliseconds = (1e3 * runs.seconds).groupby(runs.option, sort=False)
    return milliseconds.agg(mean="mean", least="min", most="max", runs="size").reset_index()


def errors(study: Study, kind: str, splits: Sequence[str]) -> pd.DataFrame:
    """Return how many runs are "stopped" or "failed" by option and attack, and the error."""
    runs = study.runs[study.runs.split.isin(splits)]
    texts = runs[kind].str.strip().str.replace(r"^round \d+: ", "", regex=True)
    rows = []
    for (option, attack), part in texts.groupby([runs.option, runs.attack], sort=False):
        if len(counts := part[part != ""].value_counts()):
            commonest = min(counts.index, key=lambda text: (-counts[text], text))
            rows.append((option, attack, counts.sum(), len(part), commonest))
    return pd.DataFrame(rows, columns=["option", "attack", kind, "runs", "error"])


def number(measure: str, value: float) -> str:
    """Write a measure down for readers, accuracy in percent."""
    text = f"{100 * value:.1f}" if measure == "accuracy" else f"{value:.3g}"
    for old, new in (("e+0", "e"), ("e+", "e"), ("e-0", "e-"), ("inf", "∞"), ("nan", "–")):
        text = text.replace(old, new)
    return text.removeprefix("-") if text in ("-0.0", "-0") else text.replace("-", "−")


def name_of(call: str) -> str:
    """Return the name of a rule or attack, without its options."""
    return call.partition("(")[0]


def _variants(runs: pd.DataFrame) -> Iterator[tuple[str, float, str]]:
    """Yield what makes the option of each run."""
    return zip(runs.rule, runs.momentum, runs.timing, strict=True)


def _option(rule: str, momentum: float, timing: str) -> str:
    return title(rule) + (f" + momentum {momentum:g}" if momentum else "") + _TIMINGS[timing]


def _order(run: dict[str, Any]) -> tuple[Any, ...]:
    rule = [*RULES, *OWN].index(name_of(run["rule"])), run["rule"], run["momentum"]
    data = _alikeness(run["split"]), run["num_byzantine"], _place_of_attack(run["attack"])
    timing = list(_TIMINGS).index(run["timing"])
    rest = ("placement", "seed", "api", "through", "latency")
    place = run["placement"] != "spread", *(run[name] for name in rest)
    return *rule, timing, *data, *place


def _alikeness(split: str) -> tuple[float, str]:
    """Return a key that puts data that are alike first: iid, Dirichlet by α, others."""
    if split in ("", "iid"):
        return -math.inf, split
    kind, _, alpha = split.partition("-")
    return (-float(alpha) if kind == "dirichlet" else 0.0), split


def _place_of_attack(attack: str) -> tuple[bool, bool, str]:
    return attack != NO_ATTACK, name_of(attack) in ILL_FORMED, attack
