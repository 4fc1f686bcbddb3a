import math
from dataclasses import replace

import pytest

from flwr_byz.redteam.outcome import PEACE, Outcome, Play
from flwr_byz.redteam.verdict import Measure, Row, Standard, choose_measure, verdict

PLAY = Play("app", "digest", "", 10, 2, None, 0, PEACE, "own")
ACCURACY = Measure("server", "accuracy", True)


def outcome(*values, name="accuracy", source="server", **given):
    metrics = {source: {name: dict(enumerate(values))}} if values else {}
    return Outcome(PLAY, "finished", strategy="FedAvg", metrics=metrics, **given)


def reports(**sources):
    metrics = {
        source: {name: {1: 0.5} for name in names.split()} for source, names in sources.items()
    }
    return Outcome(PLAY, "finished", metrics=metrics)


@pytest.mark.parametrize(
    ("told", "source", "name", "higher"),
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
def test_the_metric_is_found_by_source_and_by_name(told, source, name, higher):
    assert choose_measure(told) == Measure(source, name, bool(higher))


def test_a_metric_can_be_named_and_its_direction_given():
    told = reports(server="loss beauty", train="ugliness")
    assert choose_measure(told, "loss") == Measure("server", "loss", False)
    assert choose_measure(told, "ugliness", False) == Measure("train", "ugliness", False)
    assert choose_measure(told, None, True) == Measure("server", "loss", True)
    with pytest.raises(ValueError, match="--lower-is-better"):
        choose_measure(told, "beauty")
    with pytest.raises(ValueError, match="no truth; it reports beauty, loss, ugliness"):
        choose_measure(told, "truth")


def test_an_app_may_report_nothing_that_says_how_good_it_is():
    assert choose_measure(reports(train="seconds num-examples")) is None


def test_broken_is_to_lose_more_than_half_of_what_training_gained():
    standard = Standard.of(outcome(0.1, 0.5, 0.9), ACCURACY)
    assert (standard.start, standard.peace, standard.threshold) == (0.1, 0.9, 0.5)
    assert standard.failure(outcome(0.1, 0.9, 0.49)) == "lost"
    assert standard.failure(outcome(0.1, 0.2, 0.51)) == ""


def test_where_lower_is_better_more_is_broken():
    standard = Standard.of(outcome(2.0, 1.0), replace(ACCURACY, higher_is_better=False))
    assert standard.failure(outcome(2.0, 1.51)) == "lost"
    assert standard.failure(outcome(2.0, 1.49)) == ""
    assert standard.failure(outcome(2.0, 0.1)) == ""


def test_what_crashes_hangs_or_is_not_finite_is_broken_whatever_it_reported():
    standard = Standard.of(outcome(0.1, 0.9), ACCURACY)
    assert standard.failure(replace(outcome(0.1, 0.9), end="crashed")) == "crashed"
    assert standard.failure(replace(outcome(0.1, 0.9), end="hung")) == "hung"
    assert standard.failure(outcome(0.1, 0.9, finite=False)) == "not finite"
    assert standard.failure(outcome(0.1, math.nan)) == "not finite"


def test_an_attack_that_was_not_carried_out_breaks_nothing():
    standard = Standard.of(outcome(0.1, 0.9), ACCURACY)
    assert standard.failure(replace(outcome(0.1, 0.1), end="not attacked")) == ""


@pytest.mark.parametrize("peace", [outcome(0.5, 0.5), outcome(0.5, 0.4)])
def test_where_training_gains_nothing_it_counts_how_far_the_model_moved_away(peace):
    standard = Standard.of(peace, ACCURACY)
    assert standard.measure is None
    assert standard.failure(outcome(0.5, 0.5, moved=0.51)) == "moved away"
    assert standard.failure(outcome(0.5, 0.0, moved=0.49)) == ""
    assert standard.failure(outcome(0.5, 0.5, moved=math.inf)) == "not finite"


def test_without_a_value_of_the_initial_model_training_gains_from_the_first_round_on():
    told = Outcome(PLAY, "finished", metrics={"server": {"accuracy": {1: 0.2, 2: 0.6}}})
    assert Standard.of(told, ACCURACY).threshold == pytest.approx(0.4)


def test_the_verdict_counts_names_and_prices():
    peace, fallen = outcome(0.1, 0.924), outcome(0.1, 0.1)
    rows = [
        Row(PEACE, peace, outcome(0.1, 0.921)),
        Row("SignFlip", fallen, peace),
        Row("NonFinite", replace(peace, end="crashed"), peace),
        Row("Scale", peace, peace),
    ]
    assert verdict(rows, Standard.of(peace, ACCURACY)) == (
        "FedAvg is broken by 2 of 3 attacks: SignFlip, NonFinite; GeometricMedianOfMeans by none. "
        "Where nobody attacks, the swap costs 0.3 points of accuracy: 92.1 % instead of 92.4 %."
    )


def test_the_verdict_hides_no_loss_of_ours_and_no_attack_that_failed():
    peace, fallen = outcome(0.1, 0.9), outcome(0.1, 0.1)
    rows = [
        Row(PEACE, peace, fallen),
        Row("SignFlip", peace, fallen),
        Row("Scale", replace(peace, end="not attacked"), peace),
    ]
    assert verdict(rows, Standard.of(peace, ACCURACY)) == (
        "FedAvg is broken by none of 1 attack; GeometricMedianOfMeans by 1: SignFlip. "
        "Not carried out on this app: Scale. "
        "Where nobody attacks, GeometricMedianOfMeans is no use here: lost."
    )


def test_without_a_metric_the_price_is_how_far_ours_ends_from_theirs():
    peace = Outcome(PLAY, "finished", strategy="FedAvg", moved=0.0)
    said = verdict([Row(PEACE, peace, replace(peace, moved=0.02))], Standard.of(peace, None))
    assert "lies 0.02 of the way" in said
