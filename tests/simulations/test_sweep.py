"""Declarations, the file of runs, and the sweep over what is missing."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from clients.run import Run
from flwr_byz.attacks.names import CLASSES
from simulations import declaration
from simulations.frame import as_frame
from simulations.outcome import Outcome, append, load
from simulations.sweep import sweep

ROOT = Path(__file__).parents[2]
SETTING = {"attack": "SignFlip(scale=10)", "num_clients": 8, "num_byzantine": 1}
RUN = Run(problem="LinearRegression", rule="FedAvg", num_rounds=2, **SETTING)
DECLARED = """
title = "A small study"
num_clients = 8
num_byzantine = [0, 2]
split = ["iid", "dirichlet-0.3"]
attack = ["none", "SignFlip", "Malformed"]
seeds = 2

[[grid]]
name = "first"
problem = "PooledRegression(dim=5)"
num_rounds = 2
rule = "FedAvg"

[[grid]]
problem = "PooledRegression"
num_rounds = 3
rule = ["GeometricMedianOfMeans", "Krum"]
momentum = 0.9
seeds = 1

[[view]]
kind = "cost"
"""
WRONG = [
    ("num_clients = 8", 'num_clients = "many"', "num_clients = 'many'"),
    ("[0, 2]", "[8]", "num_byzantine must be from 0 to 7, got 8"),
    *(('"iid"', f'"{split}"', f"got '{split}'") for split in ("iids", "dirichlet--1", "dirichlet")),
    ('"FedAvg"', '"FedAvg(q=1)"', "FedAvg has no option q"),
    ('"PooledRegression(dim=5)"', '"PooledRegression(size=5)"', "has no option size"),
    ("momentum = 0.9", 'momentum = 0.9\nthrough = "flower"', 'momentum needs through = "proc'),
    ('"FedAvg"', '"SmallestNorms"\nthrough = "flower"\napi = "classic"', "Message API alone"),
    ("momentum = 0.9", 'api = "classic"', 'api = "classic" needs through = "flower"'),
    ("momentum = 0.9", 'latency = "Slow"', "latency must be one of"),
    ("momentum = 0.9", 'latency = "Equal(factor=2)"', "Equal has no option factor"),
    ("momentum = 0.9", 'latency = "Equal"\nthrough = "flower"', "latency and timing need through"),
    ("momentum = 0.9", 'timing = "fast"', "timing = 'fast' needs an asynchronous rule"),
    ("momentum = 0.9", 'timing = "late"', "'own', 'fast', 'last' or 'stale'"),
    ('rule = "FedAvg"', 'rule = "FedBuff"\nmomentum = 0.9', "momentum needs a rule that waits"),
    ("seeds = 2", "seed = 2", "no run has seed"),
    ("seeds = 2", "seeds = 0", "seeds must be a whole number of at least 1, got 0"),
    ('"cost"', '"costs"', "costs"),
    ("seeds = 2", "seeds =", "Invalid value"),
]


@pytest.fixture
def declared(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(DECLARED)
    return path


def test_a_declaration_lists_every_combination_once(declared):
    runs = declaration.load(declared).runs()
    assert list(runs) == ["first", ""]
    assert [len(set(runs[name])) for name in runs] == [2 * 2 * (1 + 3)] * 2
    for named in runs.values():
        q_and_attack = {(run.num_byzantine, run.attack) for run in named}
        assert q_and_attack == {(0, "none"), (2, "none"), (2, "SignFlip"), (2, "Malformed")}
    assert {run.momentum for run in runs[""]} == {0.9}
    assert {run.num_rounds for run in runs["first"]} == {2}
    assert {run.seed for run in declaration.load(declared).runs(1)["first"]} == {0}


@pytest.mark.parametrize("name", declaration.names())
def test_the_studies_that_come_with_it_can_be_carried_out(name):
    study = declaration.load(declaration.STUDIES / f"{name}.toml")
    attacks = {run.attack.partition("(")[0] for runs in study.runs().values() for run in runs}
    assert study.views
    on_the_filter = {"HiddenShift"}  # which these studies do not have
    if name in ("attacks", "matrix"):
        assert attacks == {"none", *CLASSES} - on_the_filter
    if name == "unlike":
        assert attacks >= on_the_filter


@pytest.mark.parametrize(("right", "wrong", "named"), WRONG)
def test_a_wrong_declaration_is_one_line_that_says_why(declared, right, wrong, named):
    declared.write_text(DECLARED.replace(right, wrong, 1))
    with pytest.raises(ValueError, match=r"study\.toml: ") as raised:
        declaration.load(declared)
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_written_is_read_back_and_a_failure_counts_until_the_run_is_done(tmp_path):
    path, lost = tmp_path / "runs.jsonl", replace(RUN, problem="Digits")
    assert load(path) == {}
    append(path, RUN, Outcome([], failed="Traceback: no room"))
    stopped = Outcome([1.0, math.inf, math.inf], 0.25, "round 1: why")
    append(path, lost, stopped)
    with path.open("a") as file:
        file.write(json.dumps({"problem": "Digits"}) + '\n{"problem": "Dig')
    assert load(path) == {RUN: Outcome([], failed="Traceback: no room"), lost: stopped}
    done = Outcome([0.1, 0.2, 0.3], 0.5, numbers={"precision": math.nan, "recall": 0.0})
    append(path, RUN, done)
    append(path, RUN, Outcome([], failed="again"))
    append(path, lost, Outcome([1.0]))  # shorter than the run
    found = load(path)
    assert found == {RUN: done, lost: stopped}
    frame = as_frame({"some": [RUN, lost, replace(RUN, seed=1)]}, found)
    assert list(frame["final"]) == [0.3, math.inf]
    assert list(frame["measure"]) == ["error", "accuracy"]
    text = path.read_text().replace(', "numbers": {"precision": null, "recall": 0.0}', "")
    path.write_text(text.replace(', "numbers": {}', ""))
    assert "numbers" not in path.read_text()  # as files of runs were before
    assert load(path) == {RUN: replace(done, numbers={}), lost: stopped}


@pytest.mark.slow
def test_a_sweep_does_what_is_missing_and_a_run_that_cannot_be_is_no_end(tmp_path):
    path = tmp_path / "runs.jsonl"
    append(path, RUN, Outcome([9.0, 9.0, 9.0]))
    impossible = replace(RUN, problem="ImageNet")
    sweep([RUN, replace(RUN, seed=1), impossible], path, 2, Console(quiet=True))
    found = load(path)
    assert found[RUN].values == [9.0, 9.0, 9.0]
    first, *_, last = found[replace(RUN, seed=1)].values
    assert last > first
    assert "problem must be one of" in found[impossible].failed


@pytest.mark.slow
def test_ctrl_c_keeps_every_finished_run_for_the_same_command_to_go_on(declared, tmp_path):
    through = '\n[[grid]]\nproblem = "LinearRegression"\nrule = "FedAvg"\nsplit = ""\n'
    through += 'num_rounds = 400\nthrough = "flower"\nseeds = 1\nattack = "none"\n'
    declared.write_text(DECLARED + through)
    command = [sys.executable, "-m", "simulations", str(declared), "--results", str(tmp_path)]
    path, options = tmp_path / "runs.jsonl", {"stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    study = subprocess.Popen(command, start_new_session=True, **options)
    while not path.exists() or path.read_text().count("\n") < 32:
        assert study.poll() is None
        time.sleep(0.1)
    os.killpg(study.pid, signal.SIGINT)  # as a terminal does
    output, _ = study.communicate()
    assert study.returncode == 130
    assert "goes on where it stopped" in output
    assert len(load(path)) == 32
