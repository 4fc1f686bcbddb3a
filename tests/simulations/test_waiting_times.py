"""The time to where the rule ends that waits for all clients: from made-up runs."""

import math

import pandas as pd

from clients.own_rules import ASYNC
from clients.rules import GMOM
from simulations.report import PAGE, report
from simulations.tables import studies
from simulations.views import View
from simulations.waiting_times import by_latency, slowest, summary, waiting_times

from .test_report import run as row_of

SIGN, MIN = "SignFlip(scale=10)", "MinMax"
LATER = [0.0, 10.0, 20.0, 30.0]


def run(rule, values, times, **changes):
    """Return a row of a frame: a run with these values at these times."""
    same = {"rule": rule, "latency": "Equal", "num_rounds": len(values) - 1}
    row = row_of(values[-1], **same | changes)
    return row | {"values": values, "times": times}


def times_of(rows):
    (study,) = by_latency(studies(pd.DataFrame(rows)))
    return waiting_times(study)


def case(cells, option, attack="none"):
    (found,) = cells[(cells.option == option) & (cells.attack == attack)].itertuples()
    return found


def test_a_run_is_at_the_target_within_a_twentieth_of_the_error():
    just, short = 0.896, 0.894
    rows = [
        run(GMOM, [0.1, 0.5, just, 0.9], LATER),
        run(ASYNC, [0.1, short, just, 0.2], [0.0, 1.0, 2.0, 3.0]),
        run("FedBuff", [0.1, short, 0.5], [0.0, 5.0, 6.0]),
    ]
    cells = times_of(rows)
    waiting, stepping, never = (case(cells, name) for name in ("GMoM", "async GMoM", "FedBuff"))
    assert (waiting.time, waiting.sync, waiting.ratio) == (20.0, 20.0, 1.0)  # its own first time
    assert (stepping.time, stepping.ratio, stepping.reached, stepping.final) == (2.0, 0.1, 1, 0.2)
    assert (never.time, never.ratio, never.reached, never.seeds) == (math.inf, math.inf, 0, 1)


def test_of_an_error_less_is_nearer_and_a_lost_run_never_arrives():
    rows = [
        run(GMOM, [4.0, 2.0, 1.0], LATER[:3], measure="error"),
        run(ASYNC, [4.0, 1.06, 1.05], [0.0, 1.0, 2.0], measure="error"),
        run("FedBuff", [4.0, 9.0, math.inf], [0.0, 1.0, math.inf], measure="error"),
    ]
    cells = times_of(rows)
    assert case(cells, "async GMoM").ratio == 0.1
    assert case(cells, "FedBuff").time == math.inf


def test_a_target_is_that_of_the_same_attack_and_seed_and_the_median_is_over_seeds():
    rows, reached = [], [1.0, 2.0, math.inf]
    for seed, time in enumerate(reached):
        rows.append(run(GMOM, [0.1, 0.9], LATER[:2], seed=seed))
        rows.append(run(GMOM, [0.1, 0.5], LATER[:2], seed=seed, attack=SIGN))
        rows.append(run(GMOM, [0.1, 0.1], LATER[:2], seed=seed, attack=MIN))
        for attack in ("none", SIGN, MIN):
            rows.append(run(ASYNC, [0.1, 0.6], [0.0, time], seed=seed, attack=attack))
    cells = times_of([*rows, run(ASYNC, [0.1, 0.6], LATER[:2], seed=7)])
    clean, attacked, none = (case(cells, "async GMoM", attack) for attack in ("none", SIGN, MIN))
    assert (clean.ratio, clean.reached, clean.seeds) == (math.inf, 0, 3)
    assert (attacked.ratio, attacked.time, attacked.reached) == (0.2, 2.0, 2)
    assert math.isnan(none.ratio)  # the rule that waits is no better than at its beginning
    assert none.seeds == 0


def test_a_rule_is_summed_up_by_its_longest_time_and_its_worst_end():
    late = {"none": 2.0, SIGN: 5.0, MIN: 4.0, "Mimic": math.inf}
    rows = [run(GMOM, [0.1, 0.9], LATER[:2], attack=attack) for attack in late]
    for attack, time in late.items():
        end = 0.91 if time < math.inf else 0.8
        rows.append(run(ASYNC, [0.1, end], [0.0, time], attack=attack))
        rows.append(run("FedBuff", [0.1, 0.95], [0.0, 4.0], attack=attack))
    cells = times_of(rows)
    found = summary("accuracy", cells)
    assert list(found.option) == ["GMoM", "async GMoM", "FedBuff"]
    row = found[found.option == "async GMoM"].iloc[0]
    assert (row.time, row.ratio, row.beside_fedbuff) == (2.0, 0.2, 0.5)
    assert (row.longest, row.longest_attack, row.never, row.attacks) == (0.5, SIGN, 1, 3)
    assert (row.reached, row.runs, row.clean) == (2, 3, 0.91)
    assert (row.worst, row.worst_attack) == (0.8, "Mimic")
    assert slowest(cells) == ["Mimic", SIGN, MIN]


def test_runs_of_another_latency_or_timing_are_others(tmp_path):
    rows = [
        run(rule, [0.1, end], [0.0, 2.0], latency=latency, timing=timing, attack=attack)
        for latency in ("Equal", "TwoSpeed")
        for rule, timing, end in (
            (GMOM, "own", 0.7),
            (ASYNC, "own", 0.8),
            (ASYNC, "fast", 0.75),
            ("FedBuff", "own", 0.1),
        )
        for attack in ("none", SIGN)
    ]
    timeless = [run(GMOM, [0.1, 0.6], [], latency="", attack=attack) for attack in ("none", SIGN)]
    frame = pd.DataFrame([*rows, *timeless])
    parted = studies(frame)
    assert [study.name for study in parted] == [
        "Perceptron",
        "Perceptron, Equal",
        "Perceptron, TwoSpeed",
    ]
    assert all((study.cells.seeds == 1).all() for study in parted)
    assert len(parted[1].cells) == 8
    views, folders = [View(kind="time")], [tmp_path / "a", tmp_path / "b"]
    printed = report("Study", views, frame, folders[0])
    report("Study", views, frame.sample(frac=1, random_state=0), folders[1])
    files, others = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders)
    assert files == others
    assert len(printed) == 2 * 2
    assert sum(name.endswith("-time-iid-q4.svg") for name in files) == 2
    assert files[PAGE].decode().count("time to where GMoM ends</h2>") == 2
