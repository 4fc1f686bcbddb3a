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

from flwr_byz import theory
from flwr_byz.aggregation import geometric_median
from simulations import declaration, monte_carlo, sweep
from simulations.__main__ import main
from simulations.claims import CLAIMS, find, lemmas, remark_2, server
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


def one_client(run):
    return 0.3 if run.rule == "OneClient" else 0.02


def one_shot(run):
    """Return errors of which those of one-shot methods are large where clients have few samples."""
    return 0.3 if run.problem.startswith("OneShot") and run.n <= run.d else one_client(run)


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
    "choice-of-k": (
        lambda r: 0.1 * r.k**-0.4,
        lambda r: 0.01 * r.k**0.3,
        lambda r: 0.001 * r.k,
        lambda r: 0.0001 * min(r.k, 30) ** 2,
    ),
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
        lambda r: 99.0 * is_lost(r) + one_shot(r),
        lambda r: 99.0 * is_lost(r) + one_client(r),  # as good with few samples
        lambda r: 99.0 * is_lost(r) + (one_shot(r) if r.rule != "OneClient" else 0.02),
        lambda r: one_shot(r),
        lambda r: 99.0 * is_lost(r) + (0.3 if r.problem.startswith("OneShot") else one_client(r)),
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


TOO_SLOW = list(5.0 * 0.95 ** np.arange(21))
RISES_AT_THE_FLOOR = [*np.maximum(5.0 * 0.5 ** np.arange(20), 0.01), 0.06]


@pytest.mark.parametrize("values", [TOO_SLOW, RISES_AT_THE_FLOOR])
def test_one_round_of_one_run_can_fail_the_contraction(values):
    runs = runs_of("convergence", lambda r: 0.01)
    assert verdict("convergence", runs)
    runs.at[7, "values"] = values
    assert not verdict("convergence", runs)


def drawn(name):
    numbers = BY_NAME[name].judge(pd.DataFrame(), Figure())
    return {number.label: number.holds for number in numbers if number.holds is not None}


def too_short(radius):
    return lambda *sizes: 0.7 * radius(*sizes)


def test_radii_and_probabilities_that_are_too_small_are_found(monkeypatch):
    monkeypatch.setattr(lemmas, "DRAWN", 1000)
    assert all(drawn("tails").values())
    monkeypatch.setattr(theory, "gradient_radius", too_short(theory.gradient_radius))
    assert list(drawn("tails").values()) == [True, True, True, True, False, True]
    monkeypatch.setattr(theory, "success_probability", lambda k, q, alpha, delta: 1.0)
    monkeypatch.setattr(theory, "exact_success_probability", lambda k, q, alpha, delta: 0.9)
    assert list(drawn("good-batches").values())[:2] == [False, False]


def test_trainings_beyond_a_bound_are_counted(monkeypatch):
    bounds = (lemmas.README, 2000, (0.9,)), (lemmas.SMALLEST, 10**5, (0.5,))
    monkeypatch.setattr(lemmas, "BOUNDS", bounds)
    monkeypatch.setattr(lemmas, "DRAWN", 1000)
    assert all(drawn("bound").values())
    monkeypatch.setattr(theory, "gaussian_precision", lambda n, d: lambda delta: [(1e-4, 0.3)])
    assert list(drawn("bound").values()) == [False, True, False]


def test_a_norm_below_that_of_good_batches_and_a_coarse_median_fail_remark_2(monkeypatch):
    for name, value in (
        ("COUNT", 2),
        ("FEW", 1),
        ("GROWING", (600, 20_000)),
        ("NORMS", (0.5, 4.5)),
    ):
        monkeypatch.setattr(remark_2, name, value)
    assert all(drawn("remark-2").values())
    monkeypatch.setattr(remark_2, "approximate", lambda tau, gamma=0.0: remark_2.as_built(tau))
    assert list(drawn("remark-2").values()).count(False) >= 2  # no trimming harms any more


def test_iterations_that_grow_like_the_fourth_power_or_a_power_of_gamma_fail(monkeypatch):
    runs = runs_of("server", lambda r: 0.01)
    runs["seconds"] = runs.num_clients * np.random.default_rng(0).uniform(1, 1.1, len(runs))
    assert verdict("server", runs)
    for growing in (lambda at: at**4, lambda at: 1.6**at):
        monkeypatch.setattr(server, "steps", lambda *_, of=growing: [of(i) for i in range(1, 13)])
        assert not verdict("server", runs)


def test_many_trainings_at_once_are_those_of_the_package_s_own_rule():
    sizes = {"num_batches": 8, "num_byzantine": 2, "dim": 5, "rounds": 5, "distance": 2.0}
    sizes |= {"count": 30, "batch_samples": 300, "seed": 0}
    own = monte_carlo.trainings(**sizes, aggregate=monte_carlo.as_built())
    np.testing.assert_allclose(monte_carlo.trainings(**sizes), own, rtol=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_medians_are_those_of_the_package_with_some_points_left_out(dim):
    rng = np.random.default_rng(dim)
    points, kept = rng.normal(size=(200, 7, dim)), rng.random((200, 7)) < 0.8
    points[:, 0] = 1e6
    kept[:, 1] = True
    for place, found in enumerate(monte_carlo.medians(points, kept)):
        exact = geometric_median(points[place][kept[place]])
        reached = np.linalg.norm(points[place][kept[place]] - found, axis=1).sum()
        assert reached <= exact.objective * (1 + 1e-7)


def test_one_digit_between_flower_and_this_process_is_seen():
    runs = runs_of("engine", lambda r: 0.01)
    lone = runs.index[runs.name == "engine"]
    runs.loc[lone, "values"] = pd.Series([[0.5] * 13] * len(lone), lone)
    assert verdict("engine", runs)
    runs.at[lone[3], "values"] = [0.5] * 12 + [0.5 * (1 + 1e-15)]
    assert not verdict("engine", runs)


def test_every_claim_has_runs_a_slope_hundreds_of_them_and_every_attack_a_short_title():
    named = DECLARED.runs()
    (view,) = DECLARED.views
    assert {name.split(":")[0] for name in named} | set(view.drawn) == set(BY_NAME)
    assert min(len(named[name]) for name in SLOPES) > 499
    attacks = {run.attack for runs in named.values() for run in runs}
    assert max(len(title(attack)) for attack in attacks) < 30


def test_a_study_of_one_claim_goes_from_runs_to_a_page(tmp_path, monkeypatch):
    grid = '[[grid]]\nname = "breakdown"\nnum_byzantine = [2, 8]\n\n'
    path, app = tmp_path / "one.toml", Typer()
    view = '[[view]]\nkind = "claims"\ndrawn = ["good-batches"]\n'
    path.write_text(re.sub(r"(?s)\[\[grid\]\].*", grid + view, STUDY.read_text()))
    app.command()(main)
    arguments = [str(path), "--seeds", "1", "--workers", "1", "--results", str(tmp_path)]
    assert "holds" in CliRunner().invoke(app, arguments).output
    monkeypatch.delattr(sweep, "ProcessPoolExecutor")  # all is done
    figure = (tmp_path / "breakdown.svg").read_bytes()
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert (tmp_path / "breakdown.svg").read_bytes() == figure
    assert (tmp_path / "overview.png").stat().st_size > 10_000
    rows = {n: list(csv.DictReader((tmp_path / n).open())) for n in ("numbers.csv", "cells.csv")}
    claims = {(row["claim"], row["verdict"]) for row in rows["numbers.csv"]}
    assert claims == {("breakdown", "holds up to q = 2 of k = 16"), ("good-batches", "holds")}
    assert [row["num_byzantine"] for row in rows["cells.csv"]] == ["2", "8"]
    assert "Breakdown: holds up to q = 2" in (tmp_path / "report.html").read_text()
