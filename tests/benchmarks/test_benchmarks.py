"""The benchmarks: a small run of all of them, and what they measure with."""

import re

import numpy as np
import pandas as pd
import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import async_steps, attack_cost, measure, mixing, report
from benchmarks.contestants import GMOM, Contestant, Replies
from clients.run import Run
from flwr_byz import json_lines
from flwr_byz.serverapp.strategy import AsyncGeometricMedianOfMeans


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

    rows = list(json_lines.read(tmp_path / "results.jsonl"))
    rounds = [row for row in rows if row["kind"] == "round"]
    peers = {"FedAvg", "FedMedian", "FedTrimmedAvg", "Krum", "Bulyan"}
    for api in ("classic", "message"):
        assert peers < {row["name"] for row in rounds if row["api"] == api}
    robust = [row for row in rounds if row["name"].startswith(GMOM)]
    assert {row["name"] for row in robust} == {f"{GMOM}(k={k})" for k in (1, 2, 4, 8)}
    assert all(row["gap"] <= 1e-9 for row in robust)
    medians = {row["name"]: row["true_gap"] for row in rows if row["kind"] == "median"}
    assert len(medians) == 5
    assert medians["geometric_median"] <= 1e-9
    table = (tmp_path / "README.md").read_text()
    assert all(row["name"] in table for row in rows)
    assert (tmp_path / "speed.png").stat().st_size > 10_000


def test_the_rows_of_the_repository_make_its_table(tmp_path):
    report.write(list(json_lines.read(benchmarks.RESULTS / "results.jsonl")), {}, tmp_path)
    made, kept = (
        re.findall(r"\d\S*", (folder / "README.md").read_text().partition("## A round")[2])
        for folder in (tmp_path, benchmarks.RESULTS)
    )
    assert made == kept


def test_peak_memory_is_what_a_call_holds_at_most_beyond_its_argument():
    def call(argument):
        np.ones(500_000)
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


def test_the_cost_of_an_attack_leaves_out_the_first_round_and_the_start(monkeypatch):
    clock = [0.0]

    def simulated(runs):
        for number, run in enumerate(runs):
            clock[0] += 5 + run.num_rounds * (1 + (run.attack == "Mimic")) if number else 50
            yield run, None

    monkeypatch.setattr(attack_cost, "train_through_flower", simulated)
    monkeypatch.setattr(attack_cost.time, "perf_counter", lambda: clock[0])
    options = {"problem": "LinearRegression", "rule": GMOM, "num_clients": 4, "num_byzantine": 1}
    runs = [Run(**options, num_rounds=3, attack=attack) for attack in ("none", "Mimic")]
    assert attack_cost.seconds_per_round(runs, 3, 2).tolist() == [[1.0, 2.0]] * 2


def test_pre_aggregation_is_timed_beside_the_same_rule_without(tmp_path, monkeypatch):
    monkeypatch.setattr(mixing, "CELLS", ((12, 1000, 10),))
    monkeypatch.setattr(measure, "MOST_ROUNDS", 3)
    monkeypatch.setattr(mixing, "_peer", lambda q: lambda vectors: vectors[q:].mean(axis=0))
    mixing.main(tmp_path)
    table = pd.read_csv(tmp_path / "mixing.csv")
    assert list(table.rule) == [*mixing.RULES, mixing.PEER]
    assert (table.seconds > 0).all()
    bare = table.rule.isin(["geometric median", "spectral filter"])
    assert (table["/ without"][bare] == 1).all()
    assert table["/ RobustFedAvg"].notna().tolist() == [False] * 4 + [True]


def test_the_replies_of_half_steps_are_one_step_old_and_all_clients_count(tmp_path, monkeypatch):
    strategy = AsyncGeometricMedianOfMeans(num_byzantine=1, quorum=5)
    course = async_steps.Course(strategy, Replies(10, 1000), num_parts=2)
    course.go_on()
    metrics = course.go_on()
    assert (metrics["byz-clients"], metrics["byz-batches"], metrics["byz-staleness"]) == (5, 10, 1)
    monkeypatch.setattr(async_steps, "CELLS", ((10, 1000),))
    monkeypatch.setattr(measure, "MOST_ROUNDS", 1)
    async_steps.main(tmp_path)
    table = pd.read_csv(tmp_path / "async-steps.csv")
    assert table.what[0] == async_steps.ROUND
    assert table["/ round"][0] == 1
    assert (table.seconds > 0).all()
