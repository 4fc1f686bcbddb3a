import csv
import dataclasses
import itertools
import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from typer import Typer
from typer.testing import CliRunner

from clients.experiments import ATTACKS
from simulations.matrix import __main__ as command
from simulations.matrix import pictures, words
from simulations.matrix.declaration import load as load_declaration
from simulations.matrix.engine import Cell, Outcome
from simulations.matrix.findings import (
    ILL_FORMED,
    Option,
    Place,
    Study,
    Value,
    is_own,
    is_stock,
    place_of,
    studies,
    value_of,
)
from simulations.matrix.records import Failure, append, load
from simulations.matrix.report import write
from simulations.matrix.rules import STOCK, TITLES
from simulations.matrix.tables import write_tables

ROOT = Path(__file__).parents[2]
OURS, FEDAVG, MULTI_KRUM = Option("ours"), Option("fedavg"), Option("multi-krum")
MOMENTUM, REBUCKETED = Option("ours", 0.9), Option("ours-rebucketed")
MISSING = object()


def matrix(
    final,
    options=(FEDAVG, MULTI_KRUM, OURS),
    attacks=("sign-flip", "min-max", "malformed"),
    splits=("iid",),
    qs=(0, 4),
    seeds=3,
    problem="digits",
    rounds=2,
):
    """Make a study whose runs end as a function of option, split, q, attack and seed says."""
    cells, done = [], {}
    for seed, split, q in itertools.product(range(seeds), splits, qs):
        for attack, option in itertools.product(("none", *(attacks if q else ())), options):
            cell = Cell(problem, split, *option, attack, 20, q, rounds, seed)
            end = final(Place(option, split, q, attack), seed)
            cells.append(cell)
            if end is not MISSING:
                is_stopped = attack == "malformed" and option.rule in STOCK
                stopped = "round 1: KeyError: no <model>" if is_stopped else ""
                done[cell] = Outcome([1.0] * rounds + [end], 0.002 + 0.001 * seed, stopped)
    return Study(cells, done)


def digits(place, seed):
    """Ours loses 6 points in its worst case, Multi-Krum 5 unless it is stopped."""
    if place.attack == "malformed":
        return 0.0 if place.option.rule in STOCK else 0.89
    lost = {
        (MULTI_KRUM, "sign-flip"): 0.01,
        (MULTI_KRUM, "min-max"): 0.05,
        (FEDAVG, "sign-flip"): 0.8,
        (OURS, "sign-flip"): 0.06,
        (OURS, "min-max"): 0.02,
    }
    return 0.9 + 0.01 * seed - lost.get((place.option, place.attack), 0.0)


def sentences(study, failed=0):
    return [s for _, part in words.summary(study, failed) for s in part]


# Findings --------------------------------------------------------------------------------------


def test_the_worst_case_is_the_attack_of_the_worst_mean_with_its_own_spread():
    def final(place, seed):
        return {"sign-flip": (0.5, 0.9, 0.9), "min-max": (0.7, 0.7, 0.7)}.get(
            place.attack, (0.9,) * 3
        )[seed]

    study = matrix(final)
    worst = study.worst(OURS, "iid", 4, study.well_formed)
    assert worst.attack == "min-max"
    assert worst.value == Value(pytest.approx(70), pytest.approx(70), pytest.approx(70), 3)
    value = study.value(Place(OURS, "iid", 4, "sign-flip"))
    assert value == Value(pytest.approx(230 / 3), 50, 90, 3)


def test_the_lower_an_error_is_the_better():
    ends = {"none": 0.1, "sign-flip": 0.5, "min-max": 0.2, "malformed": 0.1}
    study = matrix(lambda place, seed: ends[place.attack], problem="regression")
    assert study.worst(OURS, "iid", 4, study.attacks).attack == "sign-flip"
    under = study.under_attack(OURS, "iid", 4, study.attacks)
    assert under.loss.mean == pytest.approx(0.4)
    assert under.gain.mean == pytest.approx(-0.4)
    assert study.is_better(under.base, under.new)


def test_ill_formed_replies_are_known_attacks_and_in_one_of_the_two_worst_cases():
    assert set(ILL_FORMED) < set(ATTACKS)
    study = matrix(digits)
    assert study.well_formed == ["sign-flip", "min-max"]
    assert study.worst(MULTI_KRUM, "iid", 4, study.well_formed).value.mean == pytest.approx(86)
    assert study.worst(MULTI_KRUM, "iid", 4, study.attacks).attack == "malformed"


def test_a_difference_has_the_spread_of_the_differences_seed_by_seed():
    study = matrix(lambda place, seed: 0.5 + 0.1 * seed + 0.01 * (place.option == OURS) * seed)
    place = Place(OURS, "iid", 4, "none")
    comparison = study.compare(place, place._replace(option=FEDAVG))
    gain, loss = comparison.gain, comparison.loss
    assert (gain.mean, gain.least, gain.most) == pytest.approx((1, 0, 2))
    assert (loss.mean, loss.least, loss.most) == pytest.approx((-1, -2, 0))


def test_a_comparison_takes_the_seeds_that_both_have():
    study = matrix(lambda p, seed: MISSING if (p.option == OURS and seed == 2) else 0.1 * seed)
    place = Place(OURS, "iid", 4, "none")
    comparison = study.compare(place, place._replace(option=FEDAVG))
    assert comparison.base.number == comparison.gain.number == 2
    assert comparison.gain.mean == 0


@pytest.mark.parametrize(("qs", "expected"), [((0, 4), 5.0), ((4,), 15.0)])
def test_peace_costs_what_fedavg_set_for_no_attacker_has_more(qs, expected):
    def final(place, seed):
        return 0.85 if place.option == OURS else 0.9 if place.q == 0 else 1.0

    study = matrix(final, qs=qs)
    assert study.in_peace(OURS, "iid", 4).loss.mean == pytest.approx(expected)


def test_a_rule_that_lacks_a_run_is_in_no_ranking():
    def final(place, seed):
        is_missing = (place.option, place.attack, seed) == (OURS, "min-max", 1)
        return MISSING if is_missing else digits(place, seed)

    study = matrix(final)
    assert [option for option, _ in study.ranking("iid", 4, study.well_formed)] == [
        MULTI_KRUM,
        FEDAVG,
    ]
    assert "Runs are missing of ours:" in " ".join(sentences(study))
    assert study.value(Place(OURS, "iid", 4, "min-max")).number == 2


def test_models_that_are_lost_alike_are_as_good_and_one_that_is_not_is_better():
    ends = {FEDAVG: math.inf, MULTI_KRUM: math.inf, OURS: 0.3}
    study = matrix(lambda place, seed: ends[place.option], problem="regression")
    place = Place(OURS, "iid", 4, "none")
    lost, also = (study.value(place._replace(option=o)) for o in (FEDAVG, MULTI_KRUM))
    assert study.is_as_good(lost, also)
    both = study.compare(place._replace(option=FEDAVG), place._replace(option=MULTI_KRUM))
    assert both.gain == Value(0.0, 0.0, 0.0, 3)
    assert study.is_better(study.value(place), lost)
    assert study.compare(place, place._replace(option=FEDAVG)).gain.mean == math.inf
    assert math.isnan(value_of([math.inf, -math.inf]).mean)


@pytest.mark.parametrize(
    ("qs", "nearest"), [((0, 2, 4, 6), 4), ((0, 2, 8), 2), ((0,), 0), ((2, 6), 2)]
)
def test_the_number_of_byzantine_clients_looked_at_is_the_nearest_to_a_fifth(qs, nearest):
    assert matrix(digits, qs=qs).q == nearest


def test_the_least_alike_dirichlet_split_has_the_smallest_alpha():
    splits = ("sorted", "dirichlet-1.0", "dirichlet-0.05", "dirichlet-0.3")
    assert matrix(digits, splits=splits).close_splits == ["dirichlet-0.05"]
    assert matrix(digits, splits=("sorted",)).close_splits == []


def test_a_remedy_is_compared_to_the_same_rule_without_it_each_in_its_worst_case():
    def final(place, seed):
        if place.option == MOMENTUM:
            return {"none": 0.8, "sign-flip": 0.79, "min-max": 0.78}.get(place.attack, 0.8)
        return {"none": 0.9, "sign-flip": 0.5, "min-max": 0.9}.get(place.attack, 0.9)

    (effect,) = matrix(final, options=(OURS, MOMENTUM, REBUCKETED._replace(momentum=0.5))).effects(
        "iid", 4
    )
    assert (effect.option, effect.base) == (MOMENTUM, OURS)
    assert effect.peace.gain.mean == pytest.approx(-10)
    assert effect.worst.gain.mean == pytest.approx(28)
    both = matrix(final, options=(OURS, REBUCKETED)).effects("iid", 4)
    assert [(e.remedy, e.option, e.base) for e in both] == [("re-bucketing", REBUCKETED, OURS)]


def test_the_server_s_time_is_that_of_peace():
    study = matrix(digits, splits=("iid", "sorted"))
    ms = study.server_ms(OURS)
    assert (ms.mean, ms.least, ms.most, ms.number) == pytest.approx((3, 2, 4, 6))


def test_a_problem_played_twice_makes_two_studies():
    short, long = matrix(digits), matrix(digits, rounds=5)
    found = studies([*short.cells, *long.cells, *short.cells], {})
    assert [(study.name, len(study.cells)) for study in found] == [
        ("digits-2", len(short.cells)),
        ("digits-5", len(long.cells)),
    ]


# Words -----------------------------------------------------------------------------------------


def test_a_stock_rule_that_does_better_is_named_with_numbers_and_what_stops_it():
    told = " ".join(sentences(matrix(digits)))
    assert (
        "One rule of Flower's does better than ours under well-formed attacks: Multi-Krum with "
        "86.0\xa0% (85.0–87.0) under “Min-Max”, better by 1.0 points (1.0 to 1.0) "
        "(its server is stopped by “No model”)." in told
    )
    assert "No rule of Flower's does better than ours under all attacks" in told
    assert "as good, so it costs nothing in peace" in told
    assert "worse than itself with nobody attacking by 6.0 points (6.0 to 6.0); worse than" in told


def test_all_stock_rules_that_do_better_are_named_the_best_first():
    def final(place, seed):
        return {"krum": 0.92, "bulyan": 0.95, "ours": 0.9}[place.option.rule]

    study = matrix(final, options=(Option("krum"), Option("bulyan"), OURS), attacks=("min-max",))
    told = " ".join(sentences(study))
    assert re.search(
        "2 rules of Flower's do better than ours under all attacks: Bulyan with .*better by 5.0 "
        "points.*; Krum with .*better by 2.0 points",
        told,
    )


def test_a_tie_is_no_win():
    told = " ".join(sentences(matrix(lambda place, seed: 0.9)))
    assert "as good as itself with nobody attacking; as good as FedAvg with nobody" in told
    assert "the best of them is FedAvg with 90.0\xa0%" in told
    assert "1 other is as good" in told
    assert "better by" not in told
    study = matrix(lambda place, seed: 0.9)
    best, after = words.advice(study, "iid", study.attacks)
    assert [part.split(":")[0] for part in best.split("; ")] == ["FedAvg", "Multi-Krum", "ours"]
    assert after == "–"


def test_the_best_worst_case_and_the_runner_up_are_told_with_what_stops_them():
    study = matrix(digits)
    best, after = words.advice(study, "iid", study.well_formed)
    assert best.startswith("Multi-Krum: 86.0")
    assert best.endswith("(its server is stopped by “No model”)")
    assert after.startswith("ours: 85.0")
    best, after = words.advice(study, "iid", study.attacks)
    assert best.startswith("ours: 85.0")


def test_with_one_seed_no_spread_is_told():
    told = sentences(matrix(digits, seeds=1))
    assert any("With one seed there is no spread" in s for s in told)
    assert not any(re.search(r"\d\.\d(–| to )", s) for s in told)


def test_a_change_of_sign_from_seed_to_seed_is_told():
    study = matrix(lambda place, seed: 0.5 + (place.option == OURS) * (0.1, 0.1, -0.05)[seed])
    place = Place(OURS, "iid", 4, "none")
    comparison = study.compare(place, place._replace(option=FEDAVG))
    assert words.verdict(study, comparison) == (
        "better by 5.0 points (−5.0 to 10.0), though not with every seed"
    )


@pytest.mark.parametrize(
    ("measure", "value", "text"),
    [
        ("accuracy", -0.04, "0.0"),
        ("accuracy", -0.06, "−0.1"),
        ("error", math.inf, "∞"),
        ("error", 0.12345, "0.123"),
        ("error", 3.2e12, "3.2e12"),
        ("error", 1e-9, "1e−9"),
        ("error", -1e10, "−1.0e10"),
        ("error", math.nan, "undefined"),
    ],
)
def test_a_number_is_rounded_for_readers(measure, value, text):
    assert words.number(measure, value) == text


def test_words_are_listed():
    assert [words.listed(list("abc"[:n])) for n in range(4)] == ["", "a", "a and b", "a, b and c"]


def random_study(seed):
    """Make a matrix of few values, for ties, with parts, runs and models that are lost."""
    draw = random.Random(seed)
    some = lambda things, least=1: draw.sample(things, draw.randint(least, len(things)))  # noqa: E731
    problem = draw.choice(["digits", "regression"])
    ends = [0.0, 0.9, 0.9, 0.9004, 0.91] if problem == "digits" else [math.inf, 0.1, 0.1002, 3e11]
    gaps = draw.choice([0.0, 0.0, 0.03])
    return matrix(
        lambda place, seed: MISSING if draw.random() < gaps else draw.choice(ends),
        options=some([Option(rule, beta) for rule in TITLES for beta in (0.0, 0.9)]),
        attacks=some(["sign-flip", "min-max", "malformed", "silent"], 0),
        splits=some(["iid", "dirichlet-0.3", "dirichlet-1.0", "sorted"]),
        qs=some([0, 2, 4, 8]),
        seeds=draw.choice([1, 3]),
        problem=problem,
    )


@pytest.mark.parametrize("seed", range(80))
def test_sentences_are_right_whatever_was_played(seed):
    study = random_study(seed)
    told = sentences(study)
    rows = [row for split in study.splits for row in words.changes(study, split)]
    if study.attacks:
        for split in study.splits:
            rows += [words.advice(study, split, attacks) for _, attacks in words.kinds(study)]
    for text in (*told, *itertools.chain(*rows)):
        assert not re.search(r"nan|inf\b|None|undefined|  |\(\)|by 0\.0 |by 0 |by −|\bby ∞", text)
        assert text.count("“") == text.count("”")
    for sentence in told:
        assert sentence.endswith(".")
    if "iid" in study.splits and study.attacks and OURS in study.options:
        for kind, attacks in words.kinds(study):
            assert_fair(study, kind, attacks, " ".join(told))


def assert_fair(study, kind, attacks, told):
    """Compute again, plainly, whether a stock rule does better than ours."""

    def worst(option):
        cases = []
        for attack in attacks:
            ends = [
                study.done[cell].final
                for cell in study.cells
                if place_of(cell) == Place(option, "iid", study.q, attack) and cell in study.done
            ]
            if len(ends) < len(study.seeds):
                return None
            cases.append(np.mean(ends))
        return min(cases) if study.measure == "accuracy" else max(cases)

    ours = worst(OURS)
    stock = [w for option in study.options if is_stock(option) and (w := worst(option)) is not None]
    if ours is None:
        assert f"Over {kind}, runs of “ours” are missing." in told
        return
    sign = 1 if study.measure == "accuracy" else -1
    near = 0.0005 if study.measure == "accuracy" else 0.005 * ours
    better = [w for w in stock if w != ours and sign * (w - ours) >= near]
    if not stock:
        assert f"No rule of Flower's was played in full under {kind}." in told
    elif better:
        count = "One rule" if len(better) == 1 else f"{len(better)} rules"
        assert (
            f"{count} of Flower's do{'es' * (len(better) == 1)} better than ours under {kind}"
            in told
        )
    else:
        assert f"No rule of Flower's does better than ours under {kind}" in told


# Pictures --------------------------------------------------------------------------------------


def test_rules_that_are_drawn_as_lines_together_differ_in_colour():
    assert set(pictures.COLOURS) == set(TITLES)
    drawn = [rule for rule in TITLES if is_stock(Option(rule)) or is_own(Option(rule))]
    assert len({pictures.COLOURS[rule] for rule in drawn}) == len(drawn)


def test_lines_are_of_fedavg_the_best_of_flower_s_ours_and_the_best_of_ours():
    options = (FEDAVG, MULTI_KRUM, Option("krum"), OURS, MOMENTUM)
    study = matrix(digits, options=options)
    assert pictures.lines_of(study, "iid") == [FEDAVG, Option("krum"), OURS, MOMENTUM]


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_a_heat_map_shows_mean_spread_stops_and_what_is_missing():
    def final(place, seed):
        return MISSING if (place.option, place.attack, seed) == (OURS, "malformed", 0) else 0.5

    study = matrix(final, options=(MULTI_KRUM, OURS))
    shown = texts(pictures.attacks_by_rules(study, "iid"))
    assert shown[:2] == ["50.0", "50.0–50.0"]
    assert shown.count("50.0†") == shown.count("50.0*") == 1
    nothing = texts(pictures.worst_cases(matrix(lambda p, s: MISSING), "iid", ["min-max"]))
    assert set(nothing) == {"–"}
    plt.close("all")


@pytest.mark.parametrize(
    "ends", [(0.1, 0.5, 1e8), (math.inf,) * 3, (0.2, 0.2, 0.2), (0.0, 0.1, 50)]
)
def test_a_model_that_is_lost_takes_no_colours_from_the_others(ends):
    by_attack = dict(zip(("none", "sign-flip", "min-max"), ends, strict=True))
    study = matrix(lambda p, s: by_attack[p.attack], problem="regression", attacks=[*by_attack][1:])
    scale = pictures._scale(study)
    assert 0 < scale.vmin < scale.vmax <= 20
    if ends[1] == 0.5:
        assert (scale.vmin, scale.vmax) == pytest.approx((0.1, 0.5))


# Report ----------------------------------------------------------------------------------------


def save_runs(study, path, seed=None, failed=()):
    cells = list(study.done)
    if seed is not None:
        random.Random(seed).shuffle(cells)
    for cell, text in failed:
        append(path, cell, Failure(text))
    for cell in cells:
        append(path, cell, study.done[cell])


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Write a report on a matrix that lacks a run, and give the study and the folder."""
    folder = tmp_path_factory.mktemp("reported")

    def final(place, seed):
        is_missing = (place.option, place.q, place.attack, seed) == (OURS, 4, "min-max", 1)
        return MISSING if is_missing else digits(place, seed)

    study = matrix(final, options=(MULTI_KRUM, OURS, MOMENTUM), splits=("dirichlet-0.3",))
    missing = next(cell for cell in study.cells if cell not in study.done)
    path = folder / "runs.jsonl"
    save_runs(study, path, failed=[(missing, "Traceback\n  File\nOSError: <disk> full\n")])
    write(study.cells, *load(path), folder)
    return study, folder, missing


def test_the_page_needs_nothing_besides_itself(reported):
    _, folder, _ = reported
    page = (folder / "report.html").read_text()
    sources = re.findall(r"""(?:src|href)=["']?([^"'>]*)""", page)
    assert sources
    assert all(source.startswith(("data:image/svg+xml;base64,", "#")) for source in sources)
    assert "<script" not in page
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    assert "width=device-width" in page
    assert page.count("<img ") == len(list(folder.glob("*.svg"))) == len(list(folder.glob("*.png")))


def test_what_failed_and_what_was_stopped_is_on_the_page(reported):
    _, folder, _ = reported
    page = (folder / "report.html").read_text()
    assert "1 failed to be carried out" in page
    assert "<td>OSError: &lt;disk&gt; full</td>" in page
    assert "<td>3 of 3 runs</td><td>KeyError: no &lt;model&gt;</td>" in page


def test_the_same_runs_in_another_order_give_the_same_bytes(reported, tmp_path):
    study, folder, missing = reported
    path = tmp_path / "runs.jsonl"
    texts = ("Traceback\n  File\nOSError: <disk> full\n", "ValueError: told later")
    save_runs(study, path, seed=1, failed=[(missing, text) for text in texts])
    for cell in list(study.done)[:5]:
        append(path, cell, dataclasses.replace(study.done[cell], seconds=9.0))
    write(study.cells, *load(path), tmp_path)
    made = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "runs.jsonl"}
    again = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.name != "runs.jsonl"}
    assert made.keys() == again.keys()
    assert [name for name in made if made[name] != again[name]] == []


def test_tables_have_every_cell(tmp_path):
    study = matrix(digits, options=(FEDAVG, OURS, MOMENTUM))
    write_tables([study], tmp_path)
    rows = list(csv.DictReader((tmp_path / "cells.csv").open()))
    assert len(rows) == len(study.places)
    (row,) = [r for r in rows if (r["rule"], r["attack"]) == ("fedavg", "sign-flip")]
    told = [row[column] for column in ("mean", "least", "most", "seeds")]
    assert told == ["11", "10", "12", "3"]
    worst = list(csv.DictReader((tmp_path / "worst.csv").open()))
    assert {(r["over"], r["rule"], r["momentum"]): r["attack"] for r in worst}[
        "all", "fedavg", "0.0"
    ] == "malformed"
    assert len(list(csv.DictReader((tmp_path / "effects.csv").open()))) == 2
    server = list(csv.DictReader((tmp_path / "server.csv").open()))
    assert [r["mean_ms"] for r in server] == ["3"] * 3


def test_the_command_reports_what_the_declaration_asks_for_and_no_more(tmp_path):
    declaration = tmp_path / "small.toml"
    declaration.write_text(
        'clients = 20\nbyzantine = [0.2]\nsplits = ["sorted"]\nattacks = ["min-max"]\n'
        'problems = [{ name = "regression", rounds = 2, seeds = 1 }]\n'
        'rules = [{ name = "krum" }, { name = "ours" }]\n'
    )
    cells = load_declaration(declaration).cells()
    path = tmp_path / "runs.jsonl"
    for cell in (*cells, dataclasses.replace(cells[0], rule="bulyan")):
        append(path, cell, Outcome([3.0, 1.0, math.inf], 0.001))
    append(path, dataclasses.replace(cells[0], rule="fedavg"), Failure("OSError"))
    before = path.read_text()
    app = Typer()
    app.command()(command.main)
    ran = CliRunner().invoke(app, [str(declaration), "--results", str(tmp_path)])
    assert ran.exit_code == 0, ran.output
    assert path.read_text() == before
    assert "Krum" in ran.output
    assert str(tmp_path / "report.html") in ran.output.replace("\n", "")
    page = (tmp_path / "report.html").read_text()
    assert "Bulyan" not in page
    assert "4 runs of 4 are in this report; 0 failed" in page
    assert "OSError" not in page


def test_matrices_that_are_shipped_are_summed_up_even_before_a_run_is_done():
    for name in ("full.toml", "quick.toml"):
        cells = load_declaration(ROOT / "simulations" / "matrix" / name).cells()
        for study in studies(cells, {}):
            assert any("0 runs of" in sentence for sentence in sentences(study))
            assert words.advice(study, "iid", study.attacks)[1] == "–"
