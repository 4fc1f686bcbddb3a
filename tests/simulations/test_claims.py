"""Claims: statistics, verdicts from runs, and a study from its declaration to the page."""

import csv
import math
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from typer import Typer
from typer.testing import CliRunner

from simulations import declaration, sweep
from simulations.__main__ import main
from simulations.claims import CLAIMS, find
from simulations.claims import statistics as stats
from simulations.claims.claim import AWAY, Number, boundary, joint_verdict, with_sizes
from simulations.claims.drawing import title
from simulations.frame import as_frame
from simulations.outcome import Outcome

STUDY = declaration.STUDIES / "reproduce.toml"
BY_NAME = {claim.name: claim for claim in CLAIMS}
DECLARED = declaration.load(STUDY)


def test_a_slope_is_found_with_an_interval_that_holds_it_nineteen_times_in_twenty():
    x, held = np.array([1.0, 2.0, 4.0, 8.0]), 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        samples = [5 * v**-0.5 * rng.lognormal(0, 0.3, size=60) for v in x]
        found = stats.estimate(samples, stats.slope(x))
        held += found.low <= -0.5 <= found.high
    assert 26 <= held < 30
    assert found.num_runs == 240


def test_an_interval_is_within_a_band_only_as_a_whole():
    found = stats.estimate([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]], stats.ratio)
    assert found.within(found.low, found.high)
    assert not found.within(found.low + 1e-9, found.high)
    assert not found.within(found.low, found.high - 1e-9)
    alone = stats.estimate([[4.0], [2.0, 2.0]], stats.ratio)
    assert not alone.within(-math.inf, math.inf)  # one run of a cell gives no interval


def test_a_verdict_names_the_boundary_up_to_which_it_holds():
    wide, narrow, none = (
        boundary("", dict(zip((1, 2, 3), held, strict=True)), "up to q = {}")
        for held in ((True, True, True), (True, False, True), (False, True, True))
    )
    assert [n.verdict for n in (wide, narrow, none)] == [
        "holds",
        "holds up to q = 1",
        "does not hold",
    ]
    assert joint_verdict([wide, Number("", "0.3")]) == "holds"
    assert joint_verdict([wide, narrow, narrow]) == "holds up to q = 1"
    assert joint_verdict([narrow, none]) == "does not hold"


def test_a_contraction_is_that_of_the_rounds_until_the_descent_ends():
    errors = np.array([[8.0, 4.0, 2.0, 1.0, 1.0], [8.0, 8.0, 8.0, 8.0, 8.0]])
    assert stats.contractions(errors).tolist() == [0.5, 1.0]


def runs_of(name, floor):
    """Return a claim's declared runs, which halve their error until a floor, with some noise."""
    named = {key: runs for key, runs in DECLARED.runs(12).items() if key.split(":")[0] == name}
    done = {run: Outcome([5.0]) for runs in named.values() for run in runs}
    frame, rng = with_sizes(as_frame(named, done)), np.random.default_rng(0)
    falling = [
        [
            5.0,
            *np.maximum(
                (run.num_rounds > 1) * 5.0 * 0.5 ** np.arange(1, run.num_rounds + 1), floor(run)
            ),
        ]
        for run in frame.itertuples()
    ]
    frame["values"] = [list(rng.lognormal(0, 0.02) * np.array(each)) for each in falling]
    return frame.assign(final=frame["values"].str[-1])


def verdict(name, frame):
    numbers = BY_NAME[name].judge(frame, Figure())
    return all(number.holds for number in numbers if number.holds is not None)


def is_away(run):
    return run.attack == AWAY and run.placement == "one per batch"


def is_lost(run):
    """Return whether a run is one of section 1.3 that a Byzantine client ruins."""
    return run.attack == AWAY and run.rule in ("OneClient", "FedAvg")


AWAY_IS_WORST = lambda r: 0.01 + 0.01 * is_away(r), lambda r: 0.02 - 0.01 * is_away(r)
SLOPES = {
    "floor-n": (lambda r: r.n**-0.5, lambda r: r.n**-0.4),
    "floor-d": (lambda r: 0.01 * r.d**0.5, lambda r: 0.01 * r.d**0.6),
    "floor-q": (lambda r: 0.01 * r.q**0.4, lambda r: 0.01 * r.q**0.6),
    "uneven": (lambda r: r.n**-0.5, lambda r: r.n**-0.4),
    "logistic": (lambda r: r.n**-0.5, lambda r: r.n**-0.6),
    "rounds": (lambda r: r.n**-0.5, lambda r: 50 * 2.0 ** -(math.log10(r.n) ** 2.5)),
}
VERDICTS = SLOPES | {
    "choice-of-k": (lambda r: 0.1 * r.k**-0.4, lambda r: 0.01 * r.k**0.3, lambda r: 0.001 * r.k),
    "breakdown": (
        lambda r: 99.0 * (2 * r.q >= r.k) + 0.02,
        lambda r: 0.02,
        lambda r: 99.0,
        lambda r: 99.0 * (r.q > 5) + 0.02,
    ),
    "mean": (lambda r: 99.0 if r.k == 1 else 0.02, lambda r: 0.02),
    "selection": (lambda r: 0.02, lambda r: 99.0 if r.rule == "RandomSubset" else 0.02),
    "scarce": (
        lambda r: 4.0 if r.rule == "OneClient" else r.N**-0.5,
        lambda r: 4.0 if r.rule == "OneClient" else 0.02,
        lambda r: 0.001 if r.rule == "OneClient" else r.N**-0.5,
    ),
    "baselines": (
        lambda r: 99.0 * is_lost(r) + (0.3 if r.rule == "OneClient" else 0.02),
        lambda r: 99.0 * is_lost(r) + 0.02,
        lambda r: 0.3 if r.rule == "OneClient" else 0.02,
        lambda r: 99.0 * is_lost(r) + (0.3 if r.problem.startswith("OneShot") else 0.02),
    ),
    **dict.fromkeys(("moving", "corrupted-data"), AWAY_IS_WORST),
    "attacks": (
        lambda r: 0.01 + 0.01 * (r.attack == AWAY),
        lambda r: 0.01 + 0.01 * (r.attack == "Adaptive"),
    ),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_a_verdict_follows_from_the_runs(name):
    right, *wrong = VERDICTS[name]
    assert verdict(name, runs_of(name, right))
    for floor in wrong:
        assert not verdict(name, runs_of(name, floor))


BOUNDARIES = [
    (
        "selection",
        lambda r: 99.0 if 9 < r.q < 16 and r.rule != "RandomSubset" else 0.02,
        "up to q = 9",
    ),
    ("moving", lambda r: 0.02 * is_away(r) + 9.0 * (r.q > 5), "bound: holds up to q = 5 of k = 16"),
    ("scarce", lambda r: 4.0 if r.rule == "OneClient" or r.n < 5 else r.N**-0.5, "from n = 5 on"),
    ("choice-of-k", lambda r: 0.1 * r.k ** (0.3 * (r.n < 10) - 0.1), "data: holds from n = 10 on"),
]


@pytest.mark.parametrize(("name", "floor", "boundary"), BOUNDARIES)
def test_a_verdict_says_where_a_claim_stops_to_hold(name, floor, boundary, tmp_path):
    assert boundary in find(BY_NAME[name], runs_of(name, floor), tmp_path).verdict


CONTRARY = [
    ("convergence", 0.01, [7], list(5.0 * 0.95 ** np.arange(21))),  # one contracts too slowly
    ("theorem", 1e-4, range(4), [5.0] * 41),  # more leave the bound than the 12.5 % that may
]


@pytest.mark.parametrize(("name", "floor", "numbers", "values"), CONTRARY)
def test_a_few_runs_that_contradict_a_claim_fail_it(name, floor, numbers, values):
    runs = runs_of(name, lambda r: floor)
    assert verdict(name, runs)
    for number in numbers:
        runs.at[number, "values"] = values
    assert not verdict(name, runs)


def test_one_digit_between_flower_and_this_process_is_seen():
    runs = runs_of("engine", lambda r: 0.01)
    lone = runs.index[runs.name == "engine"]
    runs.loc[lone, "values"] = pd.Series([[0.5] * 13] * len(lone), lone)
    assert verdict("engine", runs)
    runs.at[lone[3], "values"] = [0.5] * 12 + [0.5 * (1 + 1e-15)]
    assert not verdict("engine", runs)


def test_every_claim_has_runs_a_slope_a_thousand_of_them_and_every_attack_a_short_title():
    named = DECLARED.runs()
    assert {name.split(":")[0] for name in named} == set(BY_NAME)
    assert min(len(named[name]) for name in SLOPES) > 999
    attacks = {run.attack for runs in named.values() for run in runs}
    assert max(len(title(attack)) for attack in attacks) < 30


def test_a_study_of_one_claim_goes_from_runs_to_a_page(tmp_path, monkeypatch):
    grid = '[[grid]]\nname = "breakdown"\nnum_byzantine = [2, 8]\n\n'
    path, app = tmp_path / "one.toml", Typer()
    path.write_text(re.sub(r"(?s)\[\[grid\]\].*(?=\[\[view\]\])", grid, STUDY.read_text()))
    app.command()(main)
    arguments = [str(path), "--seeds", "1", "--workers", "1", "--results", str(tmp_path)]
    assert "holds" in CliRunner().invoke(app, arguments).output
    monkeypatch.delattr(sweep, "ProcessPoolExecutor")  # all is done
    figure = (tmp_path / "breakdown.svg").read_bytes()
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert (tmp_path / "breakdown.svg").read_bytes() == figure
    assert (tmp_path / "overview.png").stat().st_size > 10_000
    rows = {n: list(csv.DictReader((tmp_path / n).open())) for n in ("numbers.csv", "cells.csv")}
    assert [row["verdict"] for row in rows["numbers.csv"]] == ["holds up to q = 2 of k = 16"] * 4
    assert [row["num_byzantine"] for row in rows["cells.csv"]] == ["2", "8"]
    assert "Breakdown: holds up to q = 2" in (tmp_path / "report.html").read_text()
