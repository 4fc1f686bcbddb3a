"""The command ``flwr-byz redteam``."""

import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from examples import red_team
from flwr_byz.redteam import command as red_team_command
from flwr_byz.redteam import simulate
from flwr_byz.redteam.command import Trial
from flwr_byz.redteam.flower_app import FlowerApp
from flwr_byz.redteam.runs import RunResult, load
from tests.support.app_grid import AppGrid, context
from tests.support.table import table

ROOT = Path(__file__).parents[2]
APP = ROOT / "tests/apps/quickstart-message"


@pytest.fixture
def try_out(command, tmp_path):
    """Return what runs the command, with a folder of results."""
    return lambda *arguments: command("redteam", *arguments, "--results", tmp_path / "results")


WRONG = """
/nowhere/at : /nowhere/at | {root}/docs : no pyproject.toml
{app} --attack SignFlop : 'SignFlop'; did you mean 'SignFlip'?
{app} --attack BatchTakeover : needs batches | {app} --nodes 2 : half of the 2 nodes
{app} --byzantine 5 : below 5 (half of the 10 nodes), got 5 | {app} --rounds 0 : rounds
{app} --byzantine 0 : byzantine must be a whole number of at least 1 | {app} --seed -1 : seed
{app} --timeout 0 : timeout | {app} --nodes 3 --run-config rate=1 : no rate
"""  # the last one comes after the default attacks, which so few nodes can carry out


@pytest.mark.parametrize(("arguments", "named"), table(WRONG))
def test_nonsense_gets_one_line_and_nothing_is_run(try_out, tmp_path, arguments, named):
    code, _, error = try_out(*(each.format(root=ROOT, app=APP) for each in arguments.split()))
    assert (code, error.count("\n")) == (2, 1)
    assert named in error
    assert not (tmp_path / "results").exists()


def ends(end):
    return lambda run, timeout: RunResult(run, end, "the app collects no trees")


FLOWER = sys.modules["flwr.simulation.run_simulation"], "_run_simulation"
OTHER_FLOWER = f"flwr {version('flwr')} simulates in another way than a trial expects"
NOT_INSTALLED = "a trial needs ray, matplotlib, jinja2: pip install 'flwr-byz[redteam]'"


@pytest.mark.parametrize(
    ("owner", "name", "value", "named"),
    [
        (red_team_command, "find_spec", lambda name: None, NOT_INSTALLED),
        (*FLOWER, None, OTHER_FLOWER),
        (*FLOWER, lambda server_app: None, OTHER_FLOWER),
        (simulate, "run_apart", ends("refused"), "collects no trees"),
        (simulate, "run_apart", ends("crashed"), "its log is"),
    ],
)
def test_what_makes_a_trial_impossible_is_named(try_out, monkeypatch, owner, name, value, named):
    if owner is not simulate:
        monkeypatch.delitem(sys.modules, simulate.__name__)  # for it to be imported anew
    monkeypatch.setattr(owner, name, value) if value else monkeypatch.delattr(owner, name)
    code, _, error = try_out(APP)
    assert (code, error.count("\n")) == (2, 1)
    assert named in error


@pytest.mark.slow
def test_an_app_is_tried_as_it_is_colluders_attack_it_and_only_missing_runs_are_done(
    try_out, tmp_path
):
    app, results = tmp_path / "an app", tmp_path / "results"
    shutil.copytree(APP, app)
    for path in (ROOT / "tests/apps/sklearn-classic").glob("*.py"):
        shutil.copy(path, app / "quickstart_message")
    before = {path: path.read_bytes() for path in app.rglob("*.*") if path.suffix != ".pyc"}
    attack = "InnerProductManipulation(epsilon=10)"
    options = {"num_nodes": 5, "num_byzantine": 2, "num_rounds": 1}
    trial = Trial(app=FlowerApp.read(app), attacks=[attack], **options)
    clean, clean_robust, attacked, attacked_robust = trial.runs(results)
    values = {"centralized_accuracy": 0.75}  # two runs as if done before
    clean_robust.record("metrics", source="server", round=1, values=values)
    clean_robust.record("end", end="finished", reason="", seconds=1.0)
    attacked.record("end", end="crashed", reason="OSError: disk", seconds=1.0)

    arguments = [app, "--nodes", 5, "--byzantine", 2, "--rounds", 1, "--attack", attack]
    code, output, _ = try_out(*arguments)
    assert code == 0
    words = " ".join(output.split())
    assert f"FedAvg is broken by 1 of 1 attacks: {attack}. GeometricMedianOfMeans" in words
    assert f"- {attack}, FedAvg (yours): crashed: OSError: disk" in words
    assert {path: path.read_bytes() for path in before} == before
    assert (results / "redteam.png").read_bytes().startswith(b"\x89PNG")
    assert "75.0 %" in (results / "redteam.html").read_text(encoding="utf-8")
    for run in (clean, attacked_robust):
        assert (run.folder / "metrics.json").exists()
        assert "DEPRECATED" not in (run.folder / "log.txt").read_text("utf-8")
        result = load(run)
        assert (result.end, result.reason, result.strategy) == ("finished", "", "FedAvg")
        assert set(result.metrics["server"]["centralized_accuracy"]) == {0, 1}
        assert result.metrics["server"]["centralized_accuracy"][1] > 0.5
        assert set(result.metrics["evaluate"]["accuracy"]) == ({0, 1} if run is clean else {1})
    (folder,) = (attacked_robust.folder / "colluders").glob("run-*/round-1/*")
    assert {int(path.stem) for path in folder.glob("*.npy")} == set(run.byzantine)

    written = {path: path.stat().st_mtime_ns for path in results.rglob("runs/*/*")}
    assert try_out(*arguments) == (0, output, "")
    assert {path: path.stat().st_mtime_ns for path in results.rglob("runs/*/*")} == written


@pytest.mark.parametrize(
    ("code", "timeout", "end", "reason"),
    [
        ("import os; os._exit(7)", 60, "crashed", "the process died (7)"),
        ("import time; time.sleep(1000)", 1, "hung", "no end after 1 s"),
    ],
)
def test_a_server_that_dies_or_never_ends_is_a_result(
    tmp_path, monkeypatch, code, timeout, end, reason
):
    monkeypatch.setattr(simulate, "COMMAND", (sys.executable, "-c", code))
    run = Trial(app=FlowerApp.read(APP), attacks=[]).runs(tmp_path)[0]
    result = simulate.run_apart(run, timeout)
    assert (result.end, result.reason) == (end, reason)


def test_the_red_team_example_is_broken_by_one_line_and_mended_by_one(monkeypatch):
    def simulate_here(server_app, client_app, num_supernodes, **options):
        server_app(AppGrid(client_app, num_supernodes), context(0, num_supernodes))

    monkeypatch.setattr(red_team, "run_simulation", simulate_here)
    clean, attacked, defended = red_team.main().values()
    assert clean > 0.85
    assert attacked < clean / 2
    assert defended > 0.95 * clean
