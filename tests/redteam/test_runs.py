"""What identifies a run, its result, what counts as broken, and the verdict in words."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flwr_byz.redteam.flower_app import FlowerApp
from flwr_byz.redteam.runs import NO_ATTACK, Run, RunResult, load
from flwr_byz.redteam.simulate import compare
from flwr_byz.redteam.verdict import MOVED, Measure, Standard, choose_measure, verdict

RUN = Run(FlowerApp(Path("app"), "a:b", "a:c"), {}, 10, 2, None, 0, Path(), "SignFlip")
START, END = np.zeros(2), np.array([3.0, 4.0])


@pytest.fixture
def run(tmp_path):
    run = replace(RUN, results=tmp_path)
    run.record("begun", strategy="FedAvg", notes=["a note"], num_rounds=2)
    return run


def test_the_events_of_a_run_make_its_result(run):
    assert load(RUN) is None
    run.record("metrics", source="server", round=0, values={"acc": 0.1})
    run.record("metrics", source="server", round=1, values={"acc": None, "loss": 2})
    with (run.folder / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"event": "end", "cut o')
    assert load(run) is None
    run.record("end", end="hung", reason="", moved=0.5, seconds=60.2)
    assert load(run, 120) is None  # it is repeated where it gets more time
    result = load(run, 60)
    assert (result.end, result.strategy, result.notes) == ("hung", "FedAvg", ("a note",))
    assert result.metrics["server"]["loss"] == {1: 2.0}
    assert result.metrics["server"]["acc"][0] == 0.1
    assert math.isnan(result.metrics["server"]["acc"][1])
    assert (result.moved, result.finite, result.seconds) == (0.5, True, 60.2)


def test_runs_that_differ_in_more_than_the_folder_of_results_have_folders_that_differ(run):
    assert RUN.folder.name == run.folder.name
    assert RUN.folder.name.startswith("signflip-own-")
    for changed in ({"num_rounds": 3}, {"app": replace(RUN.app, digest="2")}):
        assert replace(RUN, **changed).folder.name != RUN.folder.name


@pytest.mark.parametrize(
    ("final", "moved", "finite"),
    [
        ([3.0, 9.0], 1.0, True),
        ([1e300, 1e300], math.inf, True),
        ([0.0, 0.0, 0.0], math.inf, True),
        (None, math.inf, True),
        ([0.0, np.nan], None, False),
    ],
)
def test_a_final_model_is_compared_with_that_of_the_reference(run, final, moved, finite):
    run.reference.parent.mkdir()
    assert compare(run, START, END) == {}
    reference = replace(run, attack="no attack")
    assert compare(reference, START, END) == {"moved": 0.0}
    compared = compare(run, START, final and np.array(final))
    run.record("end", end="finished", reason="", seconds=1.0, **compared)
    assert (load(run).moved, load(run).finite) == (moved, finite)
    assert compare(run, None, None) == {}


ACCURACY = Measure("server", "accuracy", True)


def result(*values, **given):
    given = {"end": "finished", "strategy": "FedAvg"} | given
    if values:
        given["metrics"] = {"server": {"accuracy": dict(enumerate(values))}}
    return RunResult(RUN, **given)


def reports(**sources):
    metrics = {key: {n: {1: 0.5} for n in names.split()} for key, names in sources.items()}
    return result(metrics=metrics)


BEAUTY = reports(server="loss beauty", train="ugliness")


@pytest.mark.parametrize(
    ("reported", "given", "chosen"),
    [
        (reports(train="acc", evaluate="loss", server="loss acc"), [], ("server", "acc", True)),
        (reports(train="acc", evaluate="eval_loss"), [], ("evaluate", "eval_loss", False)),
        (reports(server="seconds", train="loss num-examples"), [], ("train", "loss", False)),
        (reports(server="rmse auc"), [], ("server", "auc", True)),
        (reports(server="error_score"), [], ("server", "error_score", False)),
        (BEAUTY, ["loss"], ("server", "loss", False)),
        (BEAUTY, ["ugliness", False], ("train", "ugliness", False)),
        (BEAUTY, [None, True], ("server", "loss", True)),
        (reports(train="seconds num-examples"), [], None),
    ],
)
def test_the_metric_is_given_or_found_by_source_and_by_name(reported, given, chosen):
    assert choose_measure(reported, *given) == (chosen and Measure(*chosen))
    for name, named in (("beauty", "--lower-is-better"), ("truth", "it reports beauty, loss, ug")):
        with pytest.raises(ValueError, match=named):
            choose_measure(BEAUTY, name)


UP = Standard.of(result(0.1, 0.5, 0.9), ACCURACY)
DOWN = Standard.of(result(2.0, 1.0), replace(ACCURACY, higher_is_better=False))
LATE = Standard.of(result(metrics={"server": {"accuracy": {1: 0.2, 2: 0.6}}}), ACCURACY)
DISTANCE = Standard.of(result(0.5, 0.4), ACCURACY)


@pytest.mark.parametrize(
    ("standard", "ended", "failure"),
    [
        (UP, result(0.1, 0.9, 0.49), "lost"),
        (UP, result(0.1, 0.2, 0.51), ""),
        (UP, result(0.1), ""),
        (DOWN, result(2.0, 1.51), "lost"),
        (DOWN, result(2.0, 1.49), ""),
        *((UP, result(0.1, 0.9, end=end), end) for end in ("crashed", "hung")),
        (UP, result(0.1, 0.9, finite=False), "not finite"),
        (UP, result(0.1, math.nan), "not finite"),
        (UP, result(0.1, 0.1, end="not attacked"), ""),
        (LATE, result(0, 0.39), "lost"),
        # Where training gains nothing, it counts how far the model moved away.
        (DISTANCE, result(0.5, 0.5, moved=0.51), "lost"),
        (DISTANCE, result(0.5, 0.0, moved=0.49), ""),
        (DISTANCE, result(0.5, 0.5, moved=math.inf), "not finite"),
    ],
)
def test_broken_is_to_crash_to_hang_or_to_lose_more_than_half_of_what_training_gained(
    standard, ended, failure
):
    assert DISTANCE.measure == Standard.of(result(0.5, 0.5), ACCURACY).measure == MOVED
    assert standard.failure(ended) == failure


def test_the_verdict_counts_names_and_hides_no_loss_of_the_robust_strategy():
    clean, broken = result(0.1, 0.924), result(0.1, 0.1)
    rows = {
        NO_ATTACK: (clean, broken),
        "SignFlip": (broken, clean),
        "NonFinite": (result(end="crashed"), broken),
        "Scale": (clean, clean),
        "Mimic": (result(end="not attacked"), clean),
    }
    assert verdict(rows, Standard.of(clean, ACCURACY)) == (
        "FedAvg is broken by 2 of 3 attacks: SignFlip, NonFinite. "
        "GeometricMedianOfMeans is broken by 1 of 3 attacks: NonFinite. Not carried out on this "
        "app: Mimic. Without attack, accuracy: 92.4 % with FedAvg and broken: 10.0 % with "
        "GeometricMedianOfMeans."
    )
    rows = {NO_ATTACK: (result(moved=0.0), result(moved=0.02))}
    assert "0.02 with GeometricMedianOfMeans" in verdict(rows, Standard.of(clean, None))
