"""What to use when, the worst class and detection: from made-up frames, and from short runs."""

import math
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest

from clients.rules import GMOM
from clients.run import Run
from flwr_byz import audit
from simulations import process
from simulations.detection import Detection
from simulations.insights import choices, detections, families, least_classes
from simulations.process import train
from simulations.report import PAGE, report
from simulations.tables import studies
from simulations.views import View

from .test_report import run

FILTERED = "RobustFedAvg(rule='SpectralFilter')"
TRUSTED = "Perceptron(trusted=50)"
ATTACK = "SignFlip(scale=10)"
SHORT = Run(
    problem="Perceptron",
    rule=FILTERED,
    attack=ATTACK,
    num_clients=10,
    num_byzantine=2,
    num_rounds=4,
    split="iid",
)


def ends(rule, clean, **attacked):
    """Return the runs of a rule that end so, without attack and under each attack."""
    return [
        run(end, rule=rule, attack=attack, seed=seed)
        for attack, each in {"none": clean, **attacked}.items()
        for seed, end in enumerate(each)
    ]


def frame_of(rows, **same):
    return pd.DataFrame([row | same for row in rows])


def choice_of(frame, splits=("iid",)):
    (family,) = families(studies(frame))
    return choices(family, 4, splits)


def test_the_choice_is_the_best_worst_case_of_each_problem_and_the_best_of_this_package():
    nobody = ends("FedAvg", [0.9], MinMax=[0.1], Malformed=[0.0])
    nobody += ends("FedMedian", [0.8], MinMax=[0.7], Malformed=[0.0])  # not well-formed
    nobody += ends(GMOM, [0.9], MinMax=[0.5], Malformed=[0.9])
    nobody += ends(FILTERED, [0.9], MinMax=[0.6], Malformed=[0.9])
    trusting = ends("ServerAlone", [0.5], MinMax=[0.5], MinSum=[0.5])
    trusting += ends("FLTrust", [0.6], MinMax=[0.4], MinSum=[0.3])
    trusting += ends(FILTERED, [0.9], MinMax=[0.7], MinSum=[0.6])
    frame = pd.concat([frame_of(nobody), frame_of(trusting, problem=TRUSTED)], ignore_index=True)
    found = choice_of(frame, ("iid", "sorted"))
    assert found[["problem", "who", "option", "clean", "worst", "attack"]].values.tolist() == [
        ["Perceptron", "best", "FedMedian", 0.8, 0.7, "MinMax"],
        ["Perceptron", "best of this package", "spectral filter", 0.9, 0.6, "MinMax"],
        [TRUSTED, "best and best of this package", "spectral filter", 0.9, 0.6, "MinSum"],
        [TRUSTED, "the server alone", "the server alone", 0.5, 0.5, "MinMax"],
    ]
    assert list(found.attacks) == [1, 1, 2, 2]
    assert list(found.milliseconds) == [2.0] * 4
    assert found.clean.dtype == found.milliseconds.dtype == float
    other = frame_of(ends(GMOM, [0.9]), problem="Digits")
    assert len(families(studies(pd.concat([frame, other], ignore_index=True)))) == 2


def test_a_rule_of_which_runs_are_missing_is_no_choice_and_less_error_is_better():
    rows = ends(GMOM, [3.0, 3.0], MinMax=[4.0, 6.0], MinSum=[1.0, 1.0])
    rows += ends("FedMedian", [3.0, 3.0], MinMax=[5.5, 5.5], MinSum=[1.0, 1.0])
    unfinished = ends("Krum", [1.0, 1.0], MinMax=[1.0, 1.0], MinSum=[1.0])
    failed = run(math.nan, rule="MultiKrum", attack="MinMax", failed="OSError")
    frame = frame_of([*rows, *unfinished, failed], measure="error", problem="PooledRegression")
    (best,) = choice_of(frame).itertuples()
    assert (best.option, best.who, best.worst) == ("GMoM", "best and best of this package", 5.0)
    assert (best.least, best.most) == (4.0, 6.0)
    assert choice_of(frame_of(ends(GMOM, [0.9]))).empty  # nothing attacks
    assert choice_of(frame, splits=["sorted"]).empty


def test_the_worst_class_is_set_beside_that_of_fedavg_on_the_same_split():
    shares = {("iid", "FedAvg"): (0.8, 0.6), ("iid", GMOM): (0.4, 0.6), ("sorted", GMOM): (0.1,)}
    rows = [
        run(0.9, rule=rule, split=split, seed=seed, numbers={"least-class": share})
        for (split, rule), each in shares.items()
        for seed, share in enumerate(each)
    ]
    attacked = run(0.2, attack="MinMax", numbers={"least-class": 0.0})
    old = run(0.3, rule="Krum")  # of before there were such numbers
    (study,) = studies(pd.DataFrame([*rows, attacked, old]))
    found = least_classes(study, 4, ["iid", "sorted"])
    assert found.option.tolist() == ["FedAvg", "GMoM", "GMoM"]
    assert found.least_class.tolist() == pytest.approx([0.7, 0.5, 0.1])
    assert found.least_class_gain.tolist() == pytest.approx([0, -0.2, math.nan], nan_ok=True)
    assert found.whole.tolist() == [True, True, False]
    assert least_classes(study, 4, ["sorted", "iid"]).split.tolist() == ["sorted", "iid", "iid"]


def test_detection_is_the_mean_over_well_formed_attacks_and_counts_who_flags_nobody():
    figures = {"MinMax": (0.5, 0.2), "MinSum": (1.0, 0.4), "Mimic": (math.nan, 0.0)}
    figures["Malformed"] = (1.0, 1.0)
    rows = [
        run(attack=attack, numbers={"precision": precision, "recall": recall})
        for attack, (precision, recall) in figures.items()
    ]
    (study,) = studies(pd.DataFrame([*rows, run(), run(attack="MinMax", seed=1)]))
    (found,) = detections(study, 4, ["iid"]).itertuples()
    assert (found.precision, found.recall) == pytest.approx((0.75, 0.2))
    assert (found.runs, found.nobody) == (3, 1)
    assert detections(study, 5, ["iid"]).empty


def test_a_page_shows_all_three_once_for_all_problems(tmp_path):
    figures = {"least-class": 0.25, "precision": math.nan, "recall": 0.0}
    rules = {"FedAvg": (0.9, 0.1), GMOM: (0.8, 0.7)}
    rows = [
        run(end, rule=rule, attack=attack, problem=problem, numbers=figures)
        for problem in ("Perceptron", TRUSTED)
        for rule, pair in rules.items()
        for attack, end in zip(("none", ATTACK), pair, strict=True)
    ]
    views = [View(kind=kind) for kind in ("minority", "choice", "detection")]
    folders, frame = [tmp_path / "a", tmp_path / "b"], pd.DataFrame(rows)
    printed = report("Study", views, frame, folders[0])
    report("Study", views, frame.sample(frac=1, random_state=0), folders[1])
    files, others = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders)
    assert files == others
    assert len(printed) == 1 + 2 * 2
    page = files[PAGE].decode()
    assert page.count("what to use when</h2>") == 1
    assert page.count("1 of 1") == 4
    assert sorted(name for name in files if name.endswith(".csv")) == [
        "perceptron-20-2-choice-q4.csv",
        "perceptron-20-2-detection-q4.csv",
        "perceptron-20-2-minority-q4.csv",
        "perceptron-trusted-50-20-2-detection-q4.csv",
        "perceptron-trusted-50-20-2-minority-q4.csv",
    ]
    (again,) = report("Old", views, pd.DataFrame([row | {"numbers": {}} for row in rows]), tmp_path)
    assert again.title.endswith("what to use when")


@pytest.mark.parametrize("problem", ["Perceptron", "PooledRegression"])
@pytest.mark.parametrize("rule", [FILTERED, "FedAvg", "NNMMedian"])
def test_sign_flips_are_all_detected_and_no_one_else(problem, rule):
    for placement in ("spread", "packed", "one per batch"):
        numbers = train(replace(SHORT, problem=problem, rule=rule, placement=placement)).numbers
        assert (numbers["precision"], numbers["recall"]) == (1.0, 1.0)


def test_only_who_attacks_in_every_round_can_be_detected():
    clean = train(replace(SHORT, attack="none"))
    assert set(clean.numbers) == {"least-class"}
    assert 0 < clean.numbers["least-class"] < clean.values[-1]
    for placement in ("fresh", "rotating"):
        assert set(train(replace(SHORT, placement=placement)).numbers) == {"least-class"}
    silent = train(replace(SHORT, attack="Silent", problem="PooledRegression")).numbers
    assert math.isnan(silent["precision"])
    assert silent["recall"] == 0.0
    stopped = train(replace(SHORT, rule="FedMedian", attack="Malformed"))
    assert stopped.stopped
    assert stopped.numbers["least-class"] == 0.0


@pytest.mark.parametrize("kind", ["shape", "count", "dtype", "overflow", "empty", "bytes"])
def test_a_malformed_reply_is_evidence_of_its_own(kind):
    numbers = train(replace(SHORT, attack=f"Malformed(kind={kind!r})")).numbers
    assert (numbers["precision"], numbers["recall"]) == (1.0, 1.0)


@pytest.mark.parametrize("attack", [ATTACK, "ALittleIsEnough", "NonFinite", "Silent"])
@pytest.mark.parametrize("problem", ["Perceptron", "PooledRegression"])
def test_the_evidence_is_that_of_the_audit_trail(problem, attack, monkeypatch, tmp_path):
    kept, of = [], Detection.of
    monkeypatch.setattr(Detection, "of", lambda *given: kept.append(of(*given)) or kept[-1])
    audited = partial(process.message_strategy, audit=tmp_path / "audit.jsonl")
    monkeypatch.setattr(process, "message_strategy", audited)
    train(replace(SHORT, problem=problem, attack=attack))
    (detection,) = kept
    *_, last = audit.read(tmp_path / "audit.jsonl")
    for client in range(10):
        trail = last["clients"][f"{client + 1}"]  # the id of its node
        mine = detection.suspicion.entry(f"{client}")
        assert mine["rounds"] == trail["rounds"]
        assert mine["suspicion"] == pytest.approx(trail["suspicion"], abs=2e-3)
