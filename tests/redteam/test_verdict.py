"""Which number is judged, what counts as broken, and the verdict in words."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from flwr_byz.redteam.flower_app import FlowerApp
from flwr_byz.redteam.runs import NO_ATTACK, Run, RunResult
from flwr_byz.redteam.verdict import MOVED, Measure, Standard, choose_measure, verdict

RUN = Run(FlowerApp(Path("app"), "a:b", "a:c"), {}, 10, 2, None, 0, Path())
ACCURACY = Measure("server", "accuracy", True)


def result(*values, **given):
    metrics = {"server": {"accuracy": dict(enumerate(values))}} if values else {}
    return RunResult(RUN, "finished", strategy="FedAvg", metrics=metrics, **given)


def reports(**sources):
    metrics = {key: {n: {1: 0.5} for n in names.split()} for key, names in sources.items()}
    return RunResult(RUN, "finished", metrics=metrics)


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
    ],
)
def test_the_metric_is_given_or_found_by_source_and_by_name(reported, given, chosen):
    assert choose_measure(reported, *given) == Measure(*chosen)


def test_a_metric_without_a_direction_or_that_no_app_reports_is_refused():
    no_truth = "no truth; it reports beauty, loss, ugliness"
    for name, named in (("beauty", "--lower-is-better"), ("truth", no_truth)):
        with pytest.raises(ValueError, match=named):
            choose_measure(BEAUTY, name)
    assert choose_measure(reports(train="seconds num-examples")) is None


UP = Standard.of(result(0.1, 0.5, 0.9), ACCURACY)
DOWN = Standard.of(result(2.0, 1.0), replace(ACCURACY, higher_is_better=False))
LATE = RunResult(RUN, "finished", metrics={"server": {"accuracy": {1: 0.2, 2: 0.6}}})
LATE = Standard.of(LATE, ACCURACY)
DISTANCE = Standard.of(result(0.5, 0.4), ACCURACY)


@pytest.mark.parametrize(
    ("standard", "ended", "failure"),
    [
        (UP, result(0.1, 0.9, 0.49), "lost"),
        (UP, result(0.1, 0.2, 0.51), ""),
        (UP, result(0.1), ""),
        (DOWN, result(2.0, 1.51), "lost"),
        (DOWN, result(2.0, 1.49), ""),
        (DOWN, result(2.0, 0.1), ""),
        (UP, replace(result(0.1, 0.9), end="crashed"), "crashed"),
        (UP, replace(result(0.1, 0.9), end="hung"), "hung"),
        (UP, result(0.1, 0.9, finite=False), "not finite"),
        (UP, result(0.1, math.nan), "not finite"),
        (UP, replace(result(0.1, 0.1), end="not attacked"), ""),
        (LATE, result(0, 0.39), "lost"),
        (LATE, result(0, 0.41), ""),
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


def test_the_verdict_counts_names_and_prices():
    clean, broken = result(0.1, 0.924), result(0.1, 0.1)
    rows = {
        NO_ATTACK: (clean, result(0.1, 0.921)),
        "SignFlip": (broken, clean),
        "NonFinite": (replace(clean, end="crashed"), clean),
        "Scale": (clean, clean),
        "Mimic": (replace(clean, end="not attacked"), clean),
    }
    assert verdict(rows, Standard.of(clean, ACCURACY)) == (
        "FedAvg is broken by 2 of 3 attacks: SignFlip, NonFinite. "
        "GeometricMedianOfMeans is broken by 0 of 3 attacks. Not carried out on this app: Mimic. "
        "Without attack, accuracy: 92.4 % with FedAvg and 92.1 % with GeometricMedianOfMeans."
    )


def test_the_verdict_hides_no_loss_of_the_robust_strategy():
    clean, broken = result(0.1, 0.9), result(0.1, 0.1)
    rows = {NO_ATTACK: (clean, broken), "SignFlip": (clean, broken)}
    words = verdict(rows, Standard.of(clean, ACCURACY))
    assert "GeometricMedianOfMeans is broken by 1 of 1 attacks: SignFlip." in words
    assert "90.0 % with FedAvg and broken: 10.0 % with GeometricMedianOfMeans" in words
    rows = {NO_ATTACK: (result(moved=0.0), result(moved=0.02))}
    assert "0.02 with GeometricMedianOfMeans" in verdict(rows, Standard.of(clean, None))
