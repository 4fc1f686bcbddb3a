"""The benchmarks: a small run of all of them, and what they measure with."""

import json
import logging

import numpy as np
import pytest
from rich.console import Console

from benchmarks import __main__ as benchmarks
from benchmarks import attack_cost, measure, report
from benchmarks.contestants import OURS, Contestant
from flwr_byz.aggregation import geometric_median


@pytest.fixture
def flower_s_log():
    log = logging.getLogger("flwr")
    level = log.level
    yield
    log.setLevel(level)


@pytest.mark.slow
@pytest.mark.usefixtures("flower_s_log")
def test_a_run_leaves_rows_a_table_and_a_picture_and_a_second_one_adds_nothing(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(benchmarks, "CLIENTS", (8,))
    monkeypatch.setattr(benchmarks, "DIMS", (1000, 2000))
    monkeypatch.setattr(benchmarks, "MEDIANS", ((5, 2000),))
    monkeypatch.setattr(report, "PICTURED_CLIENTS", 8)
    monkeypatch.setattr(measure, "MOST_ROUNDS", 1)
    benchmarks.main(results=tmp_path)
    lines = (tmp_path / "results.jsonl").read_text()
    benchmarks.main(results=tmp_path)
    assert (tmp_path / "results.jsonl").read_text() == lines

    rows = [json.loads(line) for line in lines.splitlines()]
    rounds = [row for row in rows if row["kind"] == "round"]
    peers = {"FedAvg", "FedMedian", "FedTrimmedAvg", "Krum", "Bulyan"}
    for api in ("classic", "message"):
        assert peers < {row["name"] for row in rounds if row["api"] == api}
    ours = [row for row in rounds if row["name"].startswith(OURS)]
    assert {row["name"] for row in ours} == {f"{OURS}(k={k})" for k in (1, 2, 4, 8)}
    assert all(row["gap"] <= 1e-9 for row in ours)
    medians = {row["name"]: row["true_gap"] for row in rows if row["kind"] == "median"}
    assert len(medians) == 5
    assert medians["geometric_median"] <= 1e-9
    table = (tmp_path / "README.md").read_text()
    assert all(row["name"] in table for row in rows)
    assert (tmp_path / "speed.png").stat().st_size > 10_000


def test_peak_memory_is_what_a_call_holds_at_most_beyond_its_argument():
    def call(argument):
        spare = np.ones(500_000)
        del spare
        return argument * 2.0

    taken = measure.peak_memory(Contestant("", "", call, lambda: np.ones(10**6)))
    assert taken == pytest.approx(8e6, rel=0.01)


def test_contestants_take_turns(monkeypatch):
    monkeypatch.setattr(measure, "MOST_ROUNDS", 2)
    calls = []
    entries = [Contestant(name, "", calls.append, lambda name=name: name) for name in "ab"]
    seconds = measure.interleaved(entries)
    assert calls == list("ababab")
    assert [len(times) for times in seconds] == [2, 2]


def test_the_sum_of_distances_is_the_objective():
    points = np.random.default_rng(0).normal(size=(7, 30))
    median = geometric_median(points)
    assert measure.sum_of_distances(points, median.point) == pytest.approx(median.objective)


@pytest.mark.slow
@pytest.mark.usefixtures("flower_s_log")
def test_what_an_attack_costs_is_timed_round_by_round(monkeypatch):
    monkeypatch.setattr(attack_cost, "NUM_CLIENTS", 6)
    monkeypatch.setattr(attack_cost, "NUM_BYZANTINE", 1)
    attacks = ["none", "adaptive"]
    seconds = attack_cost.seconds_per_round("linear-regression", attacks, 3, Console())
    assert len(seconds) == 2
    assert all(0.0 < s < 60.0 for s in seconds)
