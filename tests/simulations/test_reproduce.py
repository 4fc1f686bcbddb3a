"""The paper's experiments: engine, problems, numbers, verdicts, resuming, report."""

import csv
import json
import math
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clients.linear_regression import LinearRegression, _client_data
from matplotlib.figure import Figure
from scipy.optimize import approx_fprime
from simulations.selection import mean_of_smallest_norms
from typer import Typer
from typer.testing import CliRunner

from flwr_byz import attacks
from flwr_byz.attacks import Knowledge
from simulations import workers
from simulations.reproduce import __main__ as command
from simulations.reproduce import engine
from simulations.reproduce.away import AwayAmongShort, AwayFromTruth
from simulations.reproduce.claims import CLAIMS as ALL_CLAIMS
from simulations.reproduce.claims.drawing import title
from simulations.reproduce.claims.fidelity import DRAWN, FLOWER
from simulations.reproduce.engine import AWAY, NOBODY, Cell, play
from simulations.reproduce.problems import (
    LogisticRegression,
    SummarisedRegression,
    logistic_curvature,
    summaries,
    summarised_gradient,
)
from simulations.reproduce.records import append, as_arrays, load, missing
from simulations.reproduce.report import draw_overview, find
from simulations.reproduce.statistics import (
    contractions,
    determination,
    estimate,
    ratio,
    rounds_until,
    share,
    slope,
)
from simulations.reproduce.through_flower import play_through_flower

ROOT = Path(__file__).parents[2]
SMALL = Cell("linear regression", m=8, k=4, q=1, n=50, d=20, attack=NOBODY, rounds=4)
CLAIMS = {claim.name: claim for claim in ALL_CLAIMS}


# The engine ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_engine_gives_the_very_errors_of_flower_s_simulation():
    cell = replace(SMALL, trimmed=True)
    names = (
        attacks.BatchTakeover(),
        attacks.GaussianNoise(200.0),
        attacks.FangTrimmedMean(),
        attacks.Adaptive(),
    )
    cells = [replace(cell, attack=a) for a in (NOBODY, *map(repr, names))]
    heard = {}
    play_through_flower(cells, 3, heard.__setitem__)
    alone = {cell: play(cell, 3) for cell in cells}
    assert heard == alone
    assert len({tuple(errors) for errors in alone.values()}) == len(cells)


def test_flower_is_not_asked_for_what_its_simulation_does_not_play():
    with pytest.raises(ValueError, match="does not play"):
        play_through_flower([replace(SMALL, trimmed=True, d=3)], 0, lambda cell, errors: None)


@pytest.mark.parametrize(
    "problem",
    [
        "linear regression",
        "summarised regression",
        "uneven regression",
        "logistic regression",
    ],
)
def test_every_problem_is_learned_through_the_strongest_attack(problem):
    cell = replace(SMALL, problem=problem, attack=AWAY, n=400, d=4, rounds=12)
    errors = play(cell, 0)
    assert len(errors) == 13
    assert errors[-1] < errors[0] / 4
    assert errors == play(cell, 0)
    assert errors != play(cell, 1)


def test_a_mean_under_attack_loses_the_model_and_the_rest_of_the_run_is_infinite():
    cell = replace(SMALL, k=1, rounds=60, attack=repr(attacks.InnerProductManipulation(100.0)))
    errors = play(cell, 0)
    assert errors[-1] == math.inf
    assert len(errors) == 61


def test_away_from_truth_is_sent_far_off_along_the_way_back():
    knowledge = Knowledge(np.zeros(2), 4, 1, np.random.default_rng(0), model=np.array([3.0, 0.0]))
    sent = AwayFromTruth((1.0, 0.0))(knowledge)
    assert sent[0] < -1e5
    assert sent[1] == 0.0


def test_the_short_lie_is_as_long_as_a_selection_of_the_shortest_takes():
    honest = np.diag([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    knowledge = Knowledge(
        np.zeros(6), 8, 2, np.random.default_rng(0), model=np.ones(6), honest=honest
    )
    sent = AwayAmongShort((0.0,) * 6)(knowledge)

    def selects(lie):
        everyone = np.vstack([honest, lie, lie])
        both = (2 * lie + honest[:4].sum(axis=0)) / 6
        return mean_of_smallest_norms(everyone, 6) == pytest.approx(both)

    assert selects(sent)
    assert not selects(1.0001 * sent)


@pytest.mark.parametrize("wrong", [{"attack": "magic"}, {"problem": "poetry"}, {"rule": "krum"}])
def test_a_cell_of_something_unknown_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(SMALL, **wrong)


# The problems ----------------------------------------------------------------------------------


def test_a_gradient_from_summaries_is_the_real_client_s_to_float32_rounding():
    problem = LinearRegression(3, 50, 20, 0)
    theta = np.random.default_rng(1).normal(size=20).astype(np.float32)
    for client in range(3):
        features, targets = _client_data(problem, client)
        noise = features.T @ (targets - features @ problem.optimum()) / 50
        made = summarised_gradient(
            features.T @ features / 50, noise, theta - problem.optimum()
        ).astype(np.float32)
        (real,) = problem.reply(client, [theta], 1)[0]
        np.testing.assert_allclose(made, real, rtol=1e-5, atol=1e-6)


def test_summaries_are_drawn_from_their_distribution():
    m, n, d = 20_000, 12, 3
    sizes, covariances, noises = summaries(SummarisedRegression(m, n, d, 0))
    assert set(sizes) == {n}
    rng = np.random.default_rng(0)
    features = rng.normal(size=(m, n, d))
    real = np.einsum("mni,mnj->mij", features, features) / n
    real_noises = np.einsum("mni,mn->mi", features, rng.normal(size=(m, n))) / n
    for drawn, sampled in ((covariances, real), (noises, real_noises)):
        assert drawn.mean(axis=0) == pytest.approx(sampled.mean(axis=0), abs=0.02)
        assert drawn.std(axis=0) == pytest.approx(sampled.std(axis=0), rel=0.03)
    scaled = [
        (np.einsum("mi,mi->m", s, s) * np.trace(c, axis1=1, axis2=2)).mean()
        for c, s in ((covariances, noises), (real, real_noises))
    ]  # the noise grows with the covariance
    assert scaled[0] == pytest.approx(scaled[1], rel=0.03)


def test_uneven_clients_have_from_half_to_one_and_a_half_of_the_samples():
    sizes, _, _ = summaries(SummarisedRegression(1000, 200, 2, 0, unevenness=0.5))
    assert 100 <= sizes.min() < 110
    assert 290 < sizes.max() <= 300


@pytest.mark.parametrize("labels", ["true", "flipped"])
def test_the_logistic_gradient_is_that_of_the_risk(labels):
    problem = LogisticRegression(2, 40, 5, 0)
    theta = np.random.default_rng(2).normal(size=5)
    risk = problem.relabelled() if labels == "flipped" else problem
    (gradient,) = risk.reply(1, [theta], 1)[0]
    if labels == "true":
        numeric = approx_fprime(theta, lambda at: problem.evaluate_client(1, [at])[0])
        np.testing.assert_allclose(gradient, numeric, atol=1e-6)
    else:  # flipping labels mirrors the risk
        (mirrored,) = problem.reply(1, [-theta], 1)[0]
        np.testing.assert_allclose(gradient, -mirrored, atol=1e-12)


def test_the_logistic_curvature_is_that_of_samples():
    strong, smooth = logistic_curvature()
    u = np.random.default_rng(0).normal(size=1_000_000)
    slope_at = 1 / (4 * np.cosh(u / 2) ** 2)
    assert strong == pytest.approx((slope_at * u * u).mean(), rel=0.01)
    assert slope_at.max() == pytest.approx(smooth, rel=1e-6)


def test_flipped_labels_mirror_the_summarised_problem():
    problem = SummarisedRegression(2, 30, 4, 0)
    theta = np.arange(4.0)
    (flipped,) = problem.relabelled().reply(0, [theta], 1)[0]
    (mirrored,) = problem.reply(0, [-theta], 1)[0]
    np.testing.assert_allclose(flipped, -mirrored)


# Numbers ---------------------------------------------------------------------------------------


def test_a_slope_is_found_with_an_interval_that_holds_it_nineteen_times_in_twenty():
    x = np.array([1.0, 2.0, 4.0, 8.0])
    held = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        samples = [5 * v**-0.5 * rng.lognormal(0, 0.3, size=60) for v in x]
        found = estimate(samples, slope(x))
        held += found.low <= -0.5 <= found.high
    assert 88 <= held < 100
    assert found.num_runs == 240


def test_an_interval_is_within_a_band_only_as_a_whole():
    found = estimate([np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])], ratio)
    assert found.value == 1.0
    assert found.within(found.low, found.high)
    assert not found.within(found.low + 1e-9, found.high)


def test_determination_tells_a_line_from_a_curve():
    x = [1.0, 2.0, 3.0, 4.0]
    assert determination(x)(np.array([3.0, 5.0, 7.0, 9.0])) == pytest.approx(1)
    assert determination(x)(np.array([3.0, 9.0, 3.0, 9.0])) < 0.5


def test_no_failure_in_a_thousand_is_not_no_probability():
    found = share(0, 1000)
    assert found.low == 0
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 1000), rel=1e-6)


def test_rounds_and_contractions_are_those_of_the_descent():
    errors = np.array([[8.0, 4.0, 2.0, 1.0, 1.0], [8.0, 8.0, 8.0, 8.0, 8.0]])
    assert rounds_until(errors, 2.0).tolist() == [2, math.inf]
    assert contractions(errors).tolist() == [0.5, 1.0]


# Verdicts --------------------------------------------------------------------------------------


def floors(cells, floor):
    """Runs that halve their error until the floor of their cell, with some noise."""
    rng = np.random.default_rng(0)
    made = {}
    for cell in cells:
        falling = np.maximum(5.0 * 0.5 ** np.arange(cell.rounds + 1), floor(cell))
        falling[0] = 5.0
        made[cell] = falling * rng.lognormal(0, 0.02, size=(40, 1))
    return made


def verdict(name, runs):
    numbers = CLAIMS[name].judge(runs, Figure())
    return all(number.holds for number in numbers if number.holds is not None)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("floor-n", lambda c: c.n**-0.5, lambda c: c.n**-0.42),
        ("floor-d", lambda c: 0.01 * c.d**0.5, lambda c: 0.01 * c.d**0.6),
        ("floor-q", lambda c: 0.01 * c.q**0.4, lambda c: 0.01 * c.q**0.6),
        ("choice-of-k", lambda c: 0.001 * c.k**0.4, lambda c: 0.001 * c.k**0.6),
        ("uneven", lambda c: c.n**-0.5, lambda c: c.n**-0.4),
        ("logistic", lambda c: c.n**-0.5, lambda c: c.n**-0.6),
        ("rounds", lambda c: c.n**-0.5, lambda c: 2.0 ** -(math.log10(c.n) ** 2.5) * 50),
        ("breakdown", lambda c: 99.0 if 2 * c.q >= c.k else 0.02, lambda c: 0.02),
        ("mean", lambda c: 99.0 if c.k == 1 else 0.02, lambda c: 0.02),
        (
            "moving",
            lambda c: 0.02 if c.placement == "one per batch" else 0.01,
            lambda c: 0.01 if c.placement == "one per batch" else 0.02,
        ),
        (
            "corrupted-data",
            lambda c: 0.02 if c.attack == AWAY else 0.01,
            lambda c: 0.01 if c.attack == AWAY else 0.02,
        ),
        (
            "selection",
            lambda c: 0.02 if c.rule == "geometric median" else 0.01,
            lambda c: 0.03 if c.rule == "random subset" else 0.01,
        ),
        (
            "attacks",
            lambda c: 0.02 if c.attack == AWAY else 0.01,
            lambda c: 0.01 if c.attack == AWAY else 0.02,
        ),
    ],
)
def test_a_verdict_follows_from_the_runs(name, right, wrong):
    cells = CLAIMS[name].plan()
    assert verdict(name, floors(cells, right))
    assert not verdict(name, floors(cells, wrong))


def test_a_run_that_contracts_too_slowly_fails_the_claim_alone():
    runs = floors(CLAIMS["convergence"].plan(), lambda c: 0.01)
    assert verdict("convergence", runs)
    slow = next(iter(runs))
    runs[slow][7] = 5.0 * 0.95 ** np.arange(slow.rounds + 1)
    assert not verdict("convergence", runs)


def test_runs_that_leave_the_bound_more_often_than_stated_fail_the_theorem():
    def made(num_failing):
        runs = floors(CLAIMS["theorem"].plan(), lambda c: 1e-4)
        for errors in runs.values():
            errors[:num_failing] = 5.0
        return runs

    assert verdict("theorem", made(0))
    assert verdict("theorem", made(1))  # 3 of 120; 12.5 % are stated
    assert not verdict("theorem", made(8))


def test_one_digit_between_flower_and_the_engine_is_seen():
    runs = floors(CLAIMS["engine"].plan(), lambda c: 0.01)
    for cell in FLOWER:
        runs[cell] = runs[replace(cell, through="engine")].copy()
    for cell in DRAWN:
        runs[cell] = runs[replace(cell, problem="linear regression")].copy()
    assert verdict("engine", runs)
    runs[FLOWER[2]][0, 3] *= 1 + 1e-15
    assert not verdict("engine", runs)


# Records, resuming, report ---------------------------------------------------------------------


def test_runs_are_read_back_exactly_and_half_written_lines_are_not(tmp_path):
    path = tmp_path / "runs.jsonl"
    runs = {0: [0.1 + 0.2, 1e-17, math.inf, 3.0, 1.0], 2: [1.0] * 5}
    append(path, SMALL, runs)
    with path.open("a") as file:
        file.write(json.dumps({"problem": "linear regression"}) + "\n" + '{"problem": "lin')
    assert load(path) == {SMALL: runs}
    assert load(tmp_path / "none.jsonl") == {}


def test_a_line_that_was_cut_short_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "runs.jsonl"
    append(path, SMALL, {0: [1.0] * 5})
    path.write_bytes(path.read_bytes() + b'{"problem": "lin')
    append(path, SMALL, {1: [2.0] * 5})
    append(path, SMALL, {2: [3.0] * 5})
    assert set(load(path)[SMALL]) == {0, 1, 2}


def test_only_missing_runs_are_to_be_done():
    done = {SMALL: dict.fromkeys((0, 1, 2, 4), [0.0] * 5)}
    assert [block.seeds for block in missing({SMALL: 8}, done, at_once=3)] == [(3, 5, 6), (7,)]
    assert as_arrays({SMALL: 3}, done)[SMALL].shape == (3, 5)


@pytest.fixture
def reproduce():
    app = Typer()
    app.command()(command.main)
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)))


@pytest.mark.slow
def test_the_command_goes_on_where_it_stopped_and_draws_from_the_lines_alone(
    reproduce, tmp_path, monkeypatch
):
    arguments = ("--quick", "--only", "breakdown", "--results", tmp_path)
    assert reproduce(*arguments).exit_code == 0
    path = tmp_path / "runs.jsonl"
    lines = path.read_text().splitlines()
    assert len(lines) == 13 * 3
    path.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])
    assert reproduce(*arguments).exit_code == 0
    assert path.read_text().splitlines() == [*lines[:-1], lines[-1][:20], lines[-1]]

    def never(*arguments):
        raise AssertionError

    monkeypatch.setattr(workers, "ProcessPoolExecutor", never)
    figure = (tmp_path / "breakdown.svg").read_bytes()
    ran = reproduce(*arguments)
    assert ran.exit_code == 0
    assert (tmp_path / "breakdown.svg").read_bytes() == figure
    assert (tmp_path / "breakdown.png").stat().st_size > 10_000
    with (tmp_path / "numbers.csv").open() as file:
        assert {row["verdict"] for row in csv.DictReader(file)} == {"holds"}
    with (tmp_path / "cells.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert [row["q"] for row in cells] == [str(q) for q in range(13)]
    page = (tmp_path / "report.html").read_text()
    assert "1 of 1 claims hold" in page
    assert not re.search(r"""(src|href)=["']?(https?:|//)""", page)
    assert "width=device-width" in page


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_ends_with_130(tmp_path):
    arguments = ("-m", "simulations.reproduce", "--only", "floor-q", "--results", str(tmp_path))
    running = subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    path = tmp_path / "runs.jsonl"
    deadline = time.monotonic() + 180
    while not load(path):
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "goes on where it stopped" in said
    kept = sum(len(runs) for runs in load(path).values())
    assert kept == len(path.read_text().splitlines())


def test_an_unknown_claim_is_refused(reproduce, tmp_path):
    ran = reproduce("--only", "world-peace", "--results", tmp_path)
    assert ran.exit_code == 2
    assert "floor-n" in ran.output


def test_every_interval_has_a_thousand_runs_behind_it_and_every_claim_a_name_of_its_own():
    assert len(CLAIMS) == len(ALL_CLAIMS)
    for name in ("floor-n", "floor-d", "floor-q", "rounds", "uneven", "logistic", "theorem"):
        assert sum(CLAIMS[name].plan().values()) >= 1000
    for name in ("convergence", "mean", "moving", "corrupted-data", "breakdown", "selection"):
        assert sum(CLAIMS[name].plan().values()) >= 1000


def test_a_finding_says_that_its_claim_does_not_hold(tmp_path):
    claim = CLAIMS["floor-n"]
    runs = floors(claim.plan(), lambda c: c.n**-0.3)
    finding = find(claim, runs, tmp_path)
    assert finding.verdict == "does not hold"
    assert find(claim, floors(claim.plan(), lambda c: c.n**-0.5), tmp_path).verdict == "holds"
    question = CLAIMS["selection"]
    answered = find(question, floors(question.plan(), lambda c: 0.01), tmp_path)
    assert answered.verdict.count(": ") == 2


def test_the_overview_draws_several_claims_into_one_picture(tmp_path):
    shown = [CLAIMS[name] for name in command._OVERVIEW]
    runs = {}
    for claim in shown:
        runs |= floors(claim.plan(), lambda c: c.n**-0.5)
    draw_overview(shown, runs, tmp_path / "overview.png")
    assert (tmp_path / "overview.png").stat().st_size > 50_000


def test_all_attacks_of_the_sweeps_have_a_short_title():
    assert max(len(title(name)) for name in (AWAY, NOBODY, *engine.ATTACKS)) < 60
