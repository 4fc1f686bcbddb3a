import dataclasses
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from clients.experiments import EXPERIMENTS
from simulations.demo import RULES, planned_runs, report
from simulations.play import _interruptible, simulate
from simulations.results import Run, RunResult, append, load

ROOT = Path(__file__).parents[2]
RUN = Run("linear-regression", "geometric-median-of-means", "sign-flip", "message", 8, 1, 3, 0)


def play(*runs):
    results = []
    simulate(runs, results.append, lambda: None)
    return results


@pytest.mark.slow
def test_both_apis_and_every_repetition_give_the_same_values_through_ray():
    fedavg = dataclasses.replace(RUN, rule="fedavg")
    none = dataclasses.replace(RUN, attack="none")
    first = play(RUN, fedavg, none)
    again = play(RUN)
    classic = play(*(dataclasses.replace(run, api="classic") for run in (RUN, none)))
    assert first[0].values == again[0].values
    assert first[0].values == classic[0].values
    assert first[2].values == classic[1].values
    assert first[1].final > 10 * first[0].final  # FedAvg falls where ours holds
    assert first[0].final < first[0].values[0]


@pytest.mark.slow
def test_digits_are_learned_through_an_attack_of_the_all_knowing_kind():
    run = dataclasses.replace(
        RUN, experiment="digits", attack="inner-product-manipulation", num_rounds=4
    )
    ours, fedavg = play(run, dataclasses.replace(run, rule="fedavg"))
    assert ours.final > 0.7
    assert fedavg.final < 0.3


@pytest.mark.slow
def test_silence_and_nan_are_survived_in_both_apis():
    runs = [dataclasses.replace(RUN, attack=attack) for attack in ("silent", "non-finite")]
    classic = play(*(dataclasses.replace(run, api="classic") for run in runs))
    for in_message, in_classic in zip(play(*runs), classic, strict=True):
        assert in_message.values == in_classic.values
        assert in_message.final < in_message.values[0]


@pytest.mark.slow
def test_ctrl_c_ends_the_demo_at_once_and_keeps_what_is_finished(tmp_path):
    command = [sys.executable, "-m", "simulations.demo", "--results", str(tmp_path)]
    demo = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    deadline = time.monotonic() + 300
    while not load(tmp_path / "demo.jsonl"):
        assert demo.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    demo.send_signal(signal.SIGINT)
    _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 128 + signal.SIGINT
    assert "interrupted" in errors
    assert load(tmp_path / "demo.jsonl")


TAKEN_BY_ANOTHER_THREAD = """
import signal, threading, time
from simulations.play import _interruptible

def take():
    time.sleep(0.5)  # the main thread waits by then
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

with _interruptible():
    threading.Thread(target=take).start()
    threading.Event().wait()
"""


def test_ctrl_c_ends_a_simulation_whichever_thread_the_signal_comes_to():
    command = [sys.executable, "-c", TAKEN_BY_ANOTHER_THREAD]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 128 + signal.SIGINT
    assert "interrupted" in ended.stderr


def test_ctrl_c_is_as_before_after_a_simulation():
    before = signal.getsignal(signal.SIGINT)
    with _interruptible():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.set_wakeup_fd(-1) == -1
    assert signal.getsignal(signal.SIGINT) == before


def test_a_finished_run_is_read_back_and_a_half_written_one_is_not(tmp_path):
    path = tmp_path / "runs.jsonl"
    done = RunResult(RUN, [4.0, 2.0, math.inf, 1.0])
    append(path, done)
    append(path, RunResult(dataclasses.replace(RUN, seed=1), [4.0, 2.0]))
    with path.open("a") as file:
        file.write('{"experiment": "linear-regr')
    assert load(path) == {RUN: done}
    lines = path.read_text().splitlines()
    assert json.loads(lines[2])["value"] is None
    assert json.loads(lines[1])["round"] == 1


def test_no_results_file_holds_no_runs(tmp_path):
    assert load(tmp_path / "none.jsonl") == {}


def test_the_demo_compares_both_rules_under_the_same_attacks_and_seed():
    runs = planned_runs("message", 7)
    ours = {dataclasses.replace(run, rule="") for run in runs if run.rule == RULES[1]}
    fedavg = {dataclasses.replace(run, rule="") for run in runs if run.rule == RULES[0]}
    assert ours == fedavg
    assert {run.seed for run in runs} == {7}


def test_the_report_draws_what_diverged_and_prints_where(tmp_path):
    results = [
        RunResult(run, [10.0 / (n + 1) for n in range(run.num_rounds)] + [math.inf])
        for run in planned_runs("message", 0)
    ]
    console = Console(record=True, width=300)
    report(console, results, tmp_path)
    text = console.export_text()
    assert "diverged" in text
    for name in EXPERIMENTS:
        for ending in (".png", ".svg"):
            picture = tmp_path / f"{name}{ending}"
            assert str(picture) in text
            assert picture.stat().st_size > 10_000


@pytest.fixture(scope="module")
def flower(tmp_path_factory):
    """The Flower App in a folder of its own, and a local SuperLink that ends with the tests."""
    app = tmp_path_factory.mktemp("app") / "flwr-byz"
    ignored = shutil.ignore_patterns(".git", ".venv", "results", ".hypothesis", "*cache*", "tests")
    shutil.copytree(ROOT, app, ignore=ignored)
    home = tmp_path_factory.mktemp("home")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    env = os.environ | {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": port,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }

    def flwr(*arguments):
        command = ["flwr", *arguments]
        return subprocess.run(
            command, cwd=app, env=env, capture_output=True, text=True, timeout=400, check=False
        )

    yield flwr
    subprocess.run(["pkill", "-f", str(home)], check=False)
    subprocess.run(["pkill", "-f", f"flower-superlink.*{port}"], check=False)


def last_status(flwr):
    return json.loads(flwr("list", "--format", "json").stdout)["runs"][0]["status"]


@pytest.mark.slow
def test_the_flower_app_runs_twice_in_a_row_and_fails_a_wrong_config_in_one_line(flower, tmp_path):
    config = f"num-rounds=2 results='{tmp_path}'"
    nodes = "num-supernodes=6 client-resources-num-cpus=1 init-args-num-cpus=2"
    for _ in range(2):
        ran = flower("run", ".", "--stream", "--run-config", config, "--federation-config", nodes)
        assert "round 2: error" in ran.stdout + ran.stderr
        assert last_status(flower) == "finished:completed"
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert len(lines) == 6
    assert lines[:3] != lines[1:4]

    ran = flower("run", ".", "--stream", "--run-config", "attack='magic'")
    output = ran.stdout + ran.stderr
    told = [line for line in output.splitlines() if "attack = 'magic'" in line]
    assert len(told) == 1
    assert "'sign-flip'" in told[0]
    assert "Traceback" not in output
    assert last_status(flower) == "finished:failed"
