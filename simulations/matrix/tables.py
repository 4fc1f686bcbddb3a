"""The numbers of a matrix as CSV: accuracy in percent, errors as they are."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from .findings import Place, Study, Value

_VALUE = ("mean", "least", "most", "seeds")
_PLACE = ("problem", "m", "rounds", "split", "q", "rule", "momentum")


def write_tables(studies: Sequence[Study], folder: Path) -> None:
    """Write cells.csv, worst.csv, effects.csv and server.csv."""
    _write(folder / "cells.csv", (*_PLACE, "attack", *_VALUE, "stopped"), _cells(studies))
    worst = (*_PLACE, "over", "attack", *_VALUE, "complete")
    _write(folder / "worst.csv", worst, _worst(studies))
    effects = (*_PLACE, "remedy", "against", "where", *_VALUE)
    _write(folder / "effects.csv", effects, _effects(studies))
    server = ("problem", "rule", "momentum", "q", "mean_ms", "least_ms", "most_ms", "runs")
    _write(folder / "server.csv", server, _server(studies))


def _cells(studies: Iterable[Study]) -> Iterable[Sequence[object]]:
    for study in studies:
        for place in study.places:
            stopped = sum(bool(o.stopped) for o in study.outcomes.get(place, {}).values())
            yield [*_at(study, place), place.attack, *_numbers(study.value(place)), stopped]


def _worst(studies: Iterable[Study]) -> Iterable[Sequence[object]]:
    for study in studies:
        kinds = (("well-formed", study.well_formed), ("all", study.attacks))
        for place in study.places:
            if place.attack != "none" or not place.q:
                continue
            for kind, attacks in kinds:
                option, split, q, _ = place
                if worst := study.worst(option, split, q, attacks):
                    is_whole = study.is_whole(option, split, q, attacks)
                    told = (*_numbers(worst.value), is_whole)
                    yield [*_at(study, place), kind, worst.attack, *told]


def _effects(studies: Iterable[Study]) -> Iterable[Sequence[object]]:
    for study in studies:
        for split in study.splits:
            for effect in study.effects(split, study.q):
                place = Place(effect.option, split, study.q, "none")
                for where, change in (("peace", effect.peace), ("worst", effect.worst)):
                    told = _numbers(change.gain if change else None)
                    names = (effect.remedy, effect.base.title, where)
                    yield [*_at(study, place), *names, *told]


def _server(studies: Iterable[Study]) -> Iterable[Sequence[object]]:
    for study in studies:
        for option in study.options:
            told = _numbers(study.server_ms(option))
            yield [study.problem, option.rule, option.momentum, study.q, *told]


def _at(study: Study, place: Place) -> Sequence[object]:
    option, split, q, _ = place
    return study.problem, study.m, study.rounds, split, q, option.rule, option.momentum


def _numbers(value: Value | None) -> Sequence[object]:
    if value is None:
        return "", "", "", 0
    return *(f"{number:.6g}" for number in (value.mean, value.least, value.most)), value.number


def _write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows(rows)
