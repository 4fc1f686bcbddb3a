"""What identifies a run, and its result from its events."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flwr_byz.redteam.flower_app import FlowerApp
from flwr_byz.redteam.runs import Run, load
from flwr_byz.redteam.simulate import compare

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
    run.record("end", end="finished", reason="", moved=0.5, seconds=3.0)
    result = load(run, 60)
    assert (result.end, result.strategy, result.notes) == ("finished", "FedAvg", ("a note",))
    assert result.metrics["server"]["loss"] == {1: 2.0}
    assert result.metrics["server"]["acc"][0] == 0.1
    assert math.isnan(result.metrics["server"]["acc"][1])
    assert (result.moved, result.finite, result.seconds) == (0.5, True, 3.0)


def test_a_run_that_hung_is_repeated_where_it_gets_more_time(run):
    run.record("end", end="hung", reason="", seconds=60.2)
    assert load(run, 60).end == "hung"
    assert load(run, 120) is None


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
