import math
from dataclasses import replace

import pytest

from flwr_byz.redteam.runs import NO_ATTACK, Run, RunResult
from flwr_byz.redteam.verdict import MOVED, Measure, Row, Standard, choose_measure, verdict

RUN = Run("app", "digest", "", 10, 2, None, 0, NO_ATTACK, "own")
ACCURACY = Measure("server", "accuracy", True)


def row(attack, own, robust):
    run = replace(RUN, attack=attack)
    return Row(replace(own, run=run), replace(robust, run=replace(run, strategy="robust")))


def result(*values, name="accuracy", source="server", **given):
    metrics = {source: {name: dict(enumerate(values))}} if values else {}
    return RunResult(RUN, "finished", strategy="FedAvg", metrics=metrics, **given)


def reports(**sources):
    metrics = {
        source: {name: {1: 0.5} for name in names.split()} for source, names in sources.items()
    }
    return RunResult(RUN, "finished", metrics=metrics)


@pytest.mark.parametrize(
    ("reported", "source", "name", "higher"),
    [
        (
            reports(train="accuracy", evaluate="loss", server="loss accuracy"),
            "server",
            "accuracy",
            1,
        ),
        (reports(train="train_acc", evaluate="eval_loss"), "evaluate", "eval_loss", 0),
        (reports(server="seconds", train="train_loss num-examples"), "train", "train_loss", 0),
        (reports(server="rmse auc"), "server", "auc", 1),
        (reports(server="error_score"), "server", "error_score", 0),
    ],
)
def test_the_metric_is_found_by_source_and_by_name(reported, source, name, higher):
    assert choose_measure(reported) == Measure(source, name, bool(higher))


def test_a_metric_can_be_named_and_its_direction_given():
    reported = reports(server="loss beauty", train="ugliness")
    assert choose_measure(reported, "loss") == Measure("server", "loss", False)
    assert choose_measure(reported, "ugliness", False) == Measure("train", "ugliness", False)
    assert choose_measure(reported, None, True) == Measure("server", "loss", True)
    with pytest.raises(ValueError, match="--lower-is-better"):
        choose_measure(reported, "beauty")
    with pytest.raises(ValueError, match="no truth; it reports beauty, loss, ugliness"):
        choose_measure(reported, "truth")


def test_an_app_may_report_nothing_that_says_how_good_it_is():
    assert choose_measure(reports(train="seconds num-examples")) is None


def test_broken_is_to_lose_more_than_half_of_what_training_gained():
    standard = Standard.of(result(0.1, 0.5, 0.9), ACCURACY)
    assert (standard.start, standard.clean, standard.threshold) == (0.1, 0.9, 0.5)
    assert standard.failure(result(0.1, 0.9, 0.49)) == "lost"
    assert standard.failure(result(0.1, 0.2, 0.51)) == ""


def test_where_lower_is_better_more_is_broken():
    standard = Standard.of(result(2.0, 1.0), replace(ACCURACY, higher_is_better=False))
    assert standard.failure(result(2.0, 1.51)) == "lost"
    assert standard.failure(result(2.0, 1.49)) == ""
    assert standard.failure(result(2.0, 0.1)) == ""


def test_what_crashes_hangs_or_is_not_finite_is_broken_whatever_it_reported():
    standard = Standard.of(result(0.1, 0.9), ACCURACY)
    assert standard.failure(replace(result(0.1, 0.9), end="crashed")) == "crashed"
    assert standard.failure(replace(result(0.1, 0.9), end="hung")) == "hung"
    assert standard.failure(result(0.1, 0.9, finite=False)) == "not finite"
    assert standard.failure(result(0.1, math.nan)) == "not finite"


def test_an_attack_that_was_not_carried_out_breaks_nothing():
    standard = Standard.of(result(0.1, 0.9), ACCURACY)
    assert standard.failure(replace(result(0.1, 0.1), end="not attacked")) == ""


@pytest.mark.parametrize("clean", [result(0.5, 0.5), result(0.5, 0.4)])
def test_where_training_gains_nothing_it_counts_how_far_the_model_moved_away(clean):
    standard = Standard.of(clean, ACCURACY)
    assert standard.measure == MOVED
    assert standard.failure(result(0.5, 0.5, moved=0.51)) == "lost"
    assert standard.failure(result(0.5, 0.0, moved=0.49)) == ""
    assert standard.failure(result(0.5, 0.5, moved=math.inf)) == "not finite"


def test_without_a_value_of_the_initial_model_training_gains_from_the_first_round_on():
    reported = RunResult(RUN, "finished", metrics={"server": {"accuracy": {1: 0.2, 2: 0.6}}})
    assert Standard.of(reported, ACCURACY).threshold == pytest.approx(0.4)


def test_the_verdict_counts_names_and_prices():
    clean, broken = result(0.1, 0.924), result(0.1, 0.1)
    rows = [
        row(NO_ATTACK, clean, result(0.1, 0.921)),
        row("SignFlip", broken, clean),
        row("NonFinite", replace(clean, end="crashed"), clean),
        row("Scale", clean, clean),
    ]
    assert verdict(rows, Standard.of(clean, ACCURACY)) == (
        "FedAvg is broken by 2 of 3 attacks: SignFlip, NonFinite; GeometricMedianOfMeans by none. "
        "Without attack, the swap costs 0.3 points of accuracy: 92.1 % instead of 92.4 %."
    )


def test_the_verdict_hides_no_loss_of_robust_and_no_attack_that_failed():
    clean, broken = result(0.1, 0.9), result(0.1, 0.1)
    rows = [
        row(NO_ATTACK, clean, broken),
        row("SignFlip", clean, broken),
        row("Scale", replace(clean, end="not attacked"), clean),
    ]
    assert verdict(rows, Standard.of(clean, ACCURACY)) == (
        "FedAvg is broken by none of 1 attack; GeometricMedianOfMeans by 1: SignFlip. "
        "Not carried out on this app: Scale. "
        "Without attack, GeometricMedianOfMeans is broken itself: lost."
    )


def test_without_a_metric_the_price_is_how_far_robust_ends_from_theirs():
    clean = RunResult(RUN, "finished", strategy="FedAvg", moved=0.0)
    said = verdict([row(NO_ATTACK, clean, replace(clean, moved=0.02))], Standard.of(clean, None))
    assert "costs 0.02 of distance" in said
