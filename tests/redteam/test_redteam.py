"""The command ``flwr-byz redteam``, as a shell runs it."""

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from flwr_byz import json_lines
from flwr_byz.redteam.command import DEFAULT_ATTACKS, Trial, rehearse
from flwr_byz.redteam.flower_app import FlowerApp
from flwr_byz.redteam.runs import NO_ATTACK, Job

ROOT = Path(__file__).parents[2]
APPS = ROOT / "tests" / "apps"


def run(*arguments, before="", cwd=None):
    code = (
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{before}\n"
        "from flwr_byz.cli import main\n"
        "if __name__ == '__main__':\n    sys.argv[0] = 'flwr-byz'\n    main()"
    )
    command = [sys.executable, "-c", code, "redteam", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", check=False, cwd=cwd
    )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["/nowhere/at all"], "/nowhere/at all"),
        ([ROOT / "docs"], "no pyproject.toml"),
        (["--attack", "SignFlop"], "'SignFlop'; did you mean 'SignFlip'?"),
        (["--attack", "BatchTakeover"], "needs batches"),
        (["--byzantine", "5"], "5 of 10"),
        (["--byzantine", "0"], "0 of 10"),
        (["--nodes", "2"], "1 of 2"),
        (["--rounds", "0"], "rounds"),
        (["--seed", "-1"], "seed"),
        (["--timeout", "0"], "timeout"),
        (["--run-config", "rate=1"], "no rate"),
    ],
)
def test_nonsense_gets_one_line_and_nothing_is_run(tmp_path, arguments, named):
    app = (
        [] if arguments[0] in ("/nowhere/at all", ROOT / "docs") else [APPS / "quickstart-message"]
    )
    ran = run(*app, *arguments, "--results", tmp_path / "results")
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert named in ran.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("missing", ["ray", "matplotlib"])
def test_what_is_not_installed_is_named_with_the_extra(missing):
    hide = (
        "import importlib.util as u\nfind = u.find_spec\n"
        f"u.find_spec = lambda name, *a: None if name == {missing!r} else find(name, *a)\n"
    )
    ran = run(APPS / "quickstart-message", before=hide)
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert missing in ran.stderr
    assert "flwr-byz[redteam]" in ran.stderr


@pytest.mark.parametrize(
    "change",
    ["del module._run_simulation", "module._run_simulation = lambda server_app: None"],
    ids=["gone", "other options"],
)
def test_a_flower_that_simulates_in_another_way_is_named_with_its_version(tmp_path, change):
    change = (
        f"import flwr.simulation\nmodule = sys.modules['flwr.simulation.run_simulation']\n{change}"
    )
    ran = run(APPS / "quickstart-message", "--results", tmp_path / "results", before=change)
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert f"flwr {version('flwr')} simulates in another way than a trial expects" in ran.stderr
    assert not (tmp_path / "results").exists()


def job(folder, app_folder, attack=NO_ATTACK, strategy="own", **options):
    app = FlowerApp.read(app_folder)
    attacks = [] if attack == NO_ATTACK else [attack]
    planned = Trial(app=app, attacks=attacks, num_nodes=5, num_rounds=1, **options).runs()
    (run,) = {each for each in planned if (each.attack, each.strategy) == (attack, strategy)}
    folder.mkdir()
    return Job(run, app, app.run_config(""), 2, folder, folder.parent / "models.npz")


def result_apart(job, timeout=120):
    from flwr_byz.redteam.simulate import run_apart

    return run_apart(job, timeout)


def done_before(trial, results):
    """Leave the robust runs in the file of a trial: only those of the app's own remain to do."""
    finished = {"event": "end", "end": "finished", "reason": "", "finite": True, "seconds": 1.0}
    for each in trial.runs():
        if each.strategy == "robust":
            values = {"event": "metrics", "source": "evaluate", "values": {"eval_acc": 0.75}}
            begun = {"event": "begun", "strategy": "FedAvg", "notes": [], "num_rounds": 1}
            events = [begun, values | {"round": 1}, finished | {"moved": 0.1}]
            json_lines.append(results / "runs" / each.title / "events.jsonl", events)


def test_the_default_attacks_are_possible_among_few_clients():
    for attack in DEFAULT_ATTACKS:
        rehearse(attack, num_clients=3, num_byzantine=1)


def test_an_attack_that_cannot_work_among_so_many_is_found_before_any_run():
    with pytest.raises(ValueError, match="give z"):
        rehearse("ALittleIsEnough", num_clients=3, num_byzantine=2)


@pytest.mark.slow
def test_a_stock_app_is_tried_as_it_is_and_only_missing_runs_are_done(tmp_path):
    app, results = tmp_path / "an app", tmp_path / "results"
    shutil.copytree(APPS / "quickstart-message", app)
    before = {path: path.read_bytes() for path in app.rglob("*.*") if path.suffix != ".pyc"}
    attacks = ["NonFinite"]
    trial = Trial(app=FlowerApp.read(app), attacks=attacks, num_nodes=4, num_rounds=1)
    done_before(trial, results)
    arguments = ["an app", "--nodes", 4, "--rounds", 1, "--attack", *attacks]
    ran = run(*arguments, "--results", results, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    said = " ".join(ran.stdout.split())
    assert "FedAvg is broken by 1 of 1 attack: NonFinite; GeometricMedianOfMeans by none." in said
    assert re.search(r"the swap costs \d+\.\d points of eval_acc: 75.0 % instead of 8\d", said)
    assert {path: path.read_bytes() for path in before} == before
    for each in trial.runs():
        folder = results / "runs" / each.title
        assert (folder / "final_model.npz").exists() == (each.strategy == "own")
        if each.strategy == "own":
            assert "DEPRECATED" not in (folder / "log.txt").read_text("utf-8")
    assert (results / "redteam.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (results / "redteam.html").read_text(encoding="utf-8")
    written = {path: path.stat().st_mtime_ns for path in results.rglob("runs/*/*")}
    assert run(*arguments, "--results", results, cwd=tmp_path).stdout == ran.stdout
    assert {path: path.stat().st_mtime_ns for path in results.rglob("runs/*/*")} == written


@pytest.mark.slow
def test_colluders_attack_a_classic_app_and_the_robust_strategy_measures_what_its_own_would(
    tmp_path,
):
    made = job(
        tmp_path / "run",
        APPS / "quickstart-classic",
        "InnerProductManipulation(epsilon=10)",
        "robust",
        num_byzantine=2,
    )
    result = result_apart(made)
    assert (result.end, result.reason, result.strategy) == ("finished", "", "FedAvg")
    assert set(result.metrics["server"]["centralized_accuracy"]) == {0, 1}
    assert result.metrics["server"]["centralized_accuracy"][1] > 0.5
    (folder,) = (made.folder / "colluders").glob("run-*/round-1/*")
    colluders = {int(path.stem) for path in folder.glob("*.npy")}
    assert colluders == set(made.run.byzantine)


def die(job):
    json_lines.append(job.events, [{"event": "round"}])
    os._exit(7)


def hang(job):
    time.sleep(1000)


def test_a_server_that_dies_is_a_run_that_crashed(tmp_path, monkeypatch):
    monkeypatch.setattr("flwr_byz.redteam.simulate.simulate_in_this_process", die)
    result = result_apart(job(tmp_path / "run", APPS / "quickstart-message"))
    assert (result.end, result.reason) == ("crashed", "the process died (7)")


def test_a_server_that_never_ends_is_a_run_that_hung(tmp_path, monkeypatch):
    monkeypatch.setattr("flwr_byz.redteam.simulate.simulate_in_this_process", hang)
    result = result_apart(job(tmp_path / "run", APPS / "quickstart-message"), timeout=1)
    assert (result.end, result.reason) == ("hung", "no end after 1 s")
    assert multiprocessing.active_children() == []
