import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from clients.app import message_client_app
from clients.experiments import ATTACKS
from flwr_byz.attacks.arrays import flatten
from simulations.matrix import sweep
from simulations.matrix.declaration import load as load_declaration
from simulations.matrix.engine import Cell, Outcome, adversary_of, play, problem_of
from simulations.matrix.momentum import WithMomentum
from simulations.matrix.records import Failure, append, load
from simulations.matrix.rules import OWN, STOCK, TITLES, known_rule, strategy_of
from simulations.play import BACKEND
from simulations.rules import as_evaluate_fn

ROOT = Path(__file__).parents[2]
CELL = Cell("digits", "iid", "ours", 0.0, "sign-flip", m=8, q=1, rounds=3, seed=0)
REGRESSION = dataclasses.replace(CELL, problem="regression", rounds=6)


@pytest.mark.slow
def test_a_run_in_process_is_that_of_flower_s_engine_to_the_bit():
    problem = problem_of(CELL)
    values = []
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        def evaluate(server_round, arrays):
            values.append(problem.evaluate(arrays)["accuracy"])
            return {}

        arrays = as_record(problem.initial_arrays())
        strategy = strategy_of("ours", problem, 1, 1.0, 0)
        strategy.start(grid, arrays, CELL.rounds, evaluate_fn=as_evaluate_fn(evaluate))

    run_simulation(
        server_app, message_client_app(problem, adversary_of(CELL)), CELL.m, backend_config=BACKEND
    )
    assert values == play(CELL).values
    assert values[-1] > values[0]


def as_record(arrays):
    return ArrayRecord({f"{place}": Array(array) for place, array in enumerate(arrays)})


@pytest.mark.parametrize("rule", TITLES)
def test_each_rule_learns_while_nobody_attacks(rule):
    for cell in (dataclasses.replace(CELL, rounds=8), REGRESSION):
        outcome = play(dataclasses.replace(cell, rule=rule, attack="none"))
        assert not outcome.stopped
        assert len(outcome.values) == cell.rounds + 1
        if cell.measure == "accuracy":
            assert outcome.final > outcome.values[0] + 0.2
        else:
            assert outcome.final < 0.3 * outcome.values[0]
        assert 0 < outcome.seconds < 1


def test_sign_flip_ruins_the_mean_and_none_of_ours():
    mean = play(dataclasses.replace(REGRESSION, rule="fedavg"))
    assert mean.final > mean.values[0]
    for rule in OWN:
        assert play(dataclasses.replace(REGRESSION, rule=rule)).final < 0.3 * mean.values[0]


@pytest.mark.parametrize("rule", STOCK)
def test_one_malformed_reply_stops_each_of_flower_s_rules_and_is_told(rule):
    outcome = play(dataclasses.replace(CELL, rule=rule, attack="malformed"))
    assert outcome.stopped.startswith("round 1: ")
    assert outcome.values[1:] == [0.0] * CELL.rounds


@pytest.mark.parametrize("rule", [rule for rule in TITLES if rule not in STOCK])
@pytest.mark.parametrize("attack", ["malformed", "non-finite", "silent"])
def test_no_other_rule_is_stopped_by_what_is_no_reply(rule, attack):
    outcome = play(dataclasses.replace(REGRESSION, rule=rule, attack=attack))
    assert not outcome.stopped
    assert outcome.final < 0.3 * outcome.values[0]


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_is_played_against_rules_that_batch_select_and_remember(attack):
    for rule, momentum in (("ours-rebucketed", 0.9), ("small-norms", 0.0), ("bulyan", 0.5)):
        cell = dataclasses.replace(
            REGRESSION, rule=rule, momentum=momentum, attack=attack, rounds=2
        )
        assert len(play(cell).values) == 3


def test_the_same_cell_gives_the_same_values_and_another_seed_others():
    again = dataclasses.replace(CELL, attack="gaussian-noise", rule="ours-rebucketed", momentum=0.5)
    assert play(again).values == play(again).values
    assert play(again).values != play(dataclasses.replace(again, seed=1)).values


def test_a_lost_regression_has_infinite_error_to_the_end():
    outcome = play(dataclasses.replace(REGRESSION, rule="fedavg", attack="scale", rounds=60))
    assert outcome.final == math.inf
    assert not outcome.stopped


def test_what_an_adversary_tries_is_the_rule_itself():
    vectors = np.random.default_rng(0).normal(size=(8, 20))
    for rule in TITLES:
        known = known_rule(rule, 8, 1)
        assert known(vectors).shape == (20,)
        assert known.num_batches <= 8
    shortest = vectors[np.argsort(np.linalg.norm(vectors, axis=1))[:7]].mean(axis=0)
    np.testing.assert_allclose(known_rule("small-norms", 8, 1)(vectors), shortest)


def test_bulyan_makes_no_step_of_fewer_than_4q_plus_3_replies_and_is_tried_as_such():
    vectors = np.random.default_rng(0).normal(size=(20, 5))
    assert not known_rule("bulyan", 20, 8)(vectors).any()
    cell = dataclasses.replace(REGRESSION, rule="bulyan", attack="adaptive", m=20, q=8)
    outcome = play(cell)
    assert outcome.values == outcome.values[:1] * 7
    assert play(dataclasses.replace(cell, q=4)).final < outcome.final


def test_rebucketing_takes_two_clients_a_batch_where_that_outvotes_the_liars():
    assert [known_rule("ours-rebucketed", 20, q).num_batches for q in (0, 2, 4, 6, 8)] == [
        10,
        10,
        10,
        13,
        17,
    ]


@pytest.mark.parametrize("make", ["weights", "gradients"])
def test_momentum_is_that_of_every_client_s_own_updates(make):
    inner = problem_of(CELL if make == "weights" else REGRESSION)
    problem = WithMomentum(inner, 0.75)
    rng = np.random.default_rng(0)
    expected = None
    for server_round in (1, 2, 3):
        model = [rng.normal(size=a.shape).astype("f4") for a in inner.initial_arrays()]
        origin = flatten(model) if make == "weights" else 0
        update = flatten(inner.reply(2, model, server_round)[0]) - origin
        expected = update if expected is None else 0.75 * expected + 0.25 * update
        for _ in range(2):  # asked again, it is the same
            sent = flatten(problem.reply(2, model, server_round)[0]) - origin
            np.testing.assert_allclose(sent, expected, atol=1e-5)
    flipped = problem.relabelled().reply(2, model, 3)[0]
    np.testing.assert_array_equal(flipped[0], inner.relabelled().reply(2, model, 3)[0][0])
    assert problem.relabelled() is problem.relabelled()


# Declarations ---------------------------------------------------------------------------------

DECLARED = """
clients = 8
byzantine = [0.0, 0.25]
splits = ["iid", "dirichlet-0.3"]
attacks = ["sign-flip", "malformed"]
problems = [{ name = "regression", rounds = 2, seeds = 2 }]
rules = [{ name = "fedavg" }, { name = "ours", momentum = 0.9 }]
"""


@pytest.fixture
def declared(tmp_path):
    path = tmp_path / "matrix.toml"
    path.write_text(DECLARED)
    return path


def test_a_declaration_lists_every_combination_once(declared):
    cells = load_declaration(declared).cells()
    assert len(cells) == len(set(cells)) == 2 * 2 * (1 + 3) * 2
    assert {(c.attack, c.q) for c in cells} == {
        ("none", 0),
        ("none", 2),
        ("sign-flip", 2),
        ("malformed", 2),
    }
    assert {c.momentum for c in cells if c.rule == "ours"} == {0.9}


@pytest.mark.parametrize("name", ["full", "quick"])
def test_the_declarations_that_come_with_it_are_right(name):
    cells = load_declaration(ROOT / f"simulations/matrix/{name}.toml").cells()
    assert {c.rule for c in cells} >= {*STOCK, "ours"}
    if name == "full":
        assert {c.attack for c in cells} == {"none", *ATTACKS}
        assert {c.rule for c in cells} == set(TITLES)


@pytest.mark.parametrize(
    ("right", "wrong", "named"),
    [
        ("clients = 8", "clients = 2", "clients = 2"),
        ("[0.0, 0.25]", "[0.5]", "byzantine.0 = 0.5"),
        ("[0.0, 0.25]", "[0.3]", "0.3 of 8 clients"),
        ('"iid"', '"even"', "splits.0 = 'even'"),
        ('"sign-flip"', '"flip"', "attacks.0 = 'flip'"),
        ('"fedavg"', '"fedsgd"', "rules.0.name = 'fedsgd'"),
        ('"regression"', '"imagenet"', "problems.0.name = 'imagenet'"),
        ("momentum = 0.9", "momentum = 1", "rules.1.momentum = 1"),
        ("seeds = 2", "seed = 2", "problems.0.seed = 2"),
        ("seeds = 2", "seeds =", "Invalid value"),
    ],
)
def test_a_wrong_declaration_is_told_in_one_line(declared, right, wrong, named):
    declared.write_text(DECLARED.replace(right, wrong))
    with pytest.raises(ValueError, match=r"matrix\.toml") as raised:
        load_declaration(declared)
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


# Records --------------------------------------------------------------------------------------


def test_what_is_recorded_is_read_back_and_what_failed_is_told_until_it_is_done(tmp_path):
    path = tmp_path / "runs.jsonl"
    lost = dataclasses.replace(CELL, problem="regression")
    append(path, CELL, Failure("Traceback: no room"))
    append(path, lost, Outcome([1.0, math.inf, math.inf, math.inf], 0.25, "round 1: why"))
    done, failed = load(path)
    assert done == {lost: Outcome([1.0, math.inf, math.inf, math.inf], 0.25, "round 1: why")}
    assert failed == {CELL: Failure("Traceback: no room")}
    append(path, CELL, Outcome([0.1, 0.2, 0.3, 0.4], 0.5))
    with path.open("a") as file:
        file.write(json.dumps({"problem": "digits"}) + '\n{"problem": "dig')
    done, failed = load(path)
    assert done[CELL].final == 0.4
    assert failed == {}


def test_a_run_that_cannot_be_carried_out_is_a_failure_not_the_end():
    cell, failure = sweep.play_or_fail(dataclasses.replace(CELL, problem="imagenet"))
    assert cell.problem == "imagenet"
    assert "problem must be one of regression, digits" in failure.error


@pytest.mark.slow
def test_ctrl_c_keeps_every_finished_run_and_the_same_command_goes_on(declared, tmp_path):
    declared.write_text(DECLARED.replace("seeds = 2", "seeds = 10"))
    results = tmp_path / "results"
    command = [sys.executable, "-m", "simulations.matrix", str(declared), "--results", str(results)]
    command += ["--workers", "1"]
    environment = {**os.environ, "FLWR_TELEMETRY_ENABLED": "0"}
    path = results / "runs.jsonl"
    first = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    while not path.exists() or path.read_text().count("\n") < 20:
        assert first.poll() is None
        time.sleep(0.1)
    os.kill(first.pid, signal.SIGINT)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 128 + signal.SIGINT
    assert "goes on where it stopped" in output
    done, failed = load(path)
    assert 20 <= len(done) < 160
    assert not failed
    kept = path.read_text()

    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    text = path.read_text()
    assert text.startswith(kept)
    assert set(load(path)[0]) == set(load_declaration(declared).cells())
    assert text.count("\n") == 160
