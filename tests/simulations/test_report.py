import itertools
import math
import re

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from simulations.report import PAGE, report
from simulations.tables import costs, effects, errors, laid_out, number, studies
from simulations.views import View

GMOM = "GeometricMedianOfMeans"
REBUCKETED = f"{GMOM}(batch_size=2, rebucketed=True)"
ATTACKS = "none", "SignFlip(scale=10)", "MinMax", "Malformed"
KINDS = "worst", "attacks", "rounds", "worst-rounds", "ranking", "effects", "cost", "stopped"
MISSING = object()


def run(final=0.9, **changes):
    """Return a row of a frame: a run that ends at this value."""
    error = changes.get("measure") == "error"
    base = {
        "problem": "Perceptron",
        "split": "iid",
        "rule": GMOM,
        "momentum": 0.0,
        "attack": "none",
        "placement": "spread",
        "num_clients": 20,
        "num_byzantine": 4,
        "num_rounds": 2,
        "seed": 0,
        "api": "message",
        "through": "process",
        "measure": "accuracy",
        "values": [3.0 if error else 0.1, 0.5, final],
        "final": final,
        "seconds": 0.002,
        "stopped": "",
        "failed": "",
    }
    return base | changes


def grid(final, **lists):
    """Return a run for each combination, which ends as a function of the combination says."""
    rows = []
    for values in itertools.product(*lists.values()):
        changes = dict(zip(lists, values, strict=True))
        end = final(**changes)
        if end is not MISSING:
            rows.append(run(end, **changes))
    return pd.DataFrame(rows)


def only(frame):
    (study,) = studies(frame)
    return study


def everything(problem="Perceptron", measure="accuracy"):
    """Return a small study with every kind of row that there is."""
    rules = "FedAvg", "MultiKrum", GMOM, REBUCKETED
    lists = {"rule": rules, "attack": ATTACKS, "seed": (0, 1), "split": ("dirichlet-0.3", "iid")}

    def final(rule, attack, seed, split, **_):
        return 0.9 - 0.1 * ATTACKS.index(attack) * (rule == "FedAvg") - 0.01 * seed

    same = {"problem": [problem], "measure": [measure]}
    frame = grid(final, **lists, **same, num_byzantine=(0, 4))
    frame = frame[(frame.num_byzantine > 0) | (frame.attack == "none")]
    more = [run(0.8, problem=problem, measure=measure, momentum=0.9, attack=a) for a in ATTACKS]
    more += [run(0.7, problem=problem, measure=measure, placement="fresh", attack="MinMax")]
    more += [run(0.0, problem=problem, measure=measure, seed=7, stopped="round 1: KeyError: <b>")]
    more += [run(math.nan, problem=problem, measure=measure, seed=8, failed="OSError: & <i>")]
    return pd.concat([frame, pd.DataFrame(more)], ignore_index=True)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


finals = st.sampled_from([0.0, 0.25, 0.5, 1.0, math.inf, MISSING])


@settings(deadline=None, max_examples=60)
@given(st.lists(finals, min_size=24, max_size=24), st.sampled_from(["accuracy", "error"]))
def test_means_spreads_and_worst_cases_are_those_of_the_runs(ends, measure):
    ends = [1.0 if measure == "accuracy" and end == math.inf else end for end in ends]
    kinds = [(r, a, s) for r in ("FedAvg", "Krum") for a in ATTACKS for s in range(3)]
    by_kind = dict(zip(kinds, ends, strict=True))
    by_kind["FedAvg", "none", 0] = by_kind["Krum", "MinMax", 2] = 0.5  # every seed and attack
    frame = pd.DataFrame(
        [
            run(end, rule=rule, attack=attack, seed=seed, measure=measure)
            for (rule, attack, seed), end in by_kind.items()
            if end is not MISSING
        ]
    )
    study = only(frame)
    found = {}
    for cell in study.cells.itertuples():
        values = [by_kind[cell.option, cell.attack, seed] for seed in range(3)]
        values = [value for value in values if value is not MISSING]
        found[cell.option, cell.attack] = sum(values) / len(values)
        assert cell.mean == pytest.approx(sum(values) / len(values))
        assert (cell.least, cell.most, cell.seeds) == (min(values), max(values), len(values))
        assert cell.whole == (len(values) == study.num_seeds)
    sign = 1 if measure == "error" else -1
    for worst in study.worst(study.attacks).itertuples():
        means = [found[worst.option, a] for a in study.attacks if (worst.option, a) in found]
        assert sign * worst.mean == max(sign * mean for mean in means)
        every = [by_kind[worst.option, a, s] for a in study.attacks for s in range(3)]
        seeds = {seed for (_, _, seed), end in by_kind.items() if end is not MISSING}
        if len(seeds) == 3:
            assert worst.whole == (MISSING not in every)


@pytest.mark.parametrize(
    ("measure", "final", "broken"),
    [
        ("accuracy", 0.46, False),
        ("accuracy", 0.45, True),
        ("error", 8.9, False),
        ("error", 9.1, True),
        ("error", math.inf, True),
    ],
)
def test_broken_is_ten_times_the_error_or_half_the_accuracy_of_fedavg_without_attack(
    measure, final, broken
):
    frame = pd.DataFrame(
        [run(0.9, rule="FedAvg", measure=measure), run(final, attack="MinMax", measure=measure)]
    )
    assert list(only(frame).cells.broken) == [False, broken]
    assert not only(frame[frame.rule != "FedAvg"]).cells.broken.any()


def test_the_best_lack_no_run_and_what_reads_the_same_is_best_alike():
    ends = {"FedAvg": 0.9, "Krum": 0.90001, "FedMedian": 0.8, GMOM: 0.95}
    frame = grid(lambda rule, seed: ends[rule], rule=ends, seed=(0, 1))
    study = only(frame[(frame.rule != GMOM) | (frame.seed == 0)])
    table = laid_out(study, study.cells, "none", study.cells.option, "row")
    assert table.option[table.best].tolist() == ["FedAvg", "Krum"]
    assert table.text.tolist() == ["90.0", "80.0", "90.0", "95.0*"]


def test_a_failed_run_is_in_no_number_and_marks_its_cell():
    frame = pd.DataFrame([run(0.8), run(math.nan, seed=1, failed="OSError: no memory")])
    (cell,) = only(frame).cells.itertuples()
    assert (cell.mean, cell.seeds, cell.whole) == (0.8, 1, False)
    assert errors(only(frame), "failed", ["iid"]).values.tolist() == [
        ["GMoM", "none", 1, 2, "OSError: no memory"]
    ]


@pytest.mark.parametrize(("measure", "sign"), [("accuracy", 1), ("error", -1)])
def test_an_effect_is_the_difference_of_the_same_seeds_each_in_its_own_worst_case(measure, sign):
    def final(rule, attack, seed, **_):
        if (rule, seed) == (REBUCKETED, 2):
            return MISSING
        hurt = {GMOM: "MinMax", REBUCKETED: "SignFlip(scale=10)"}[rule]
        return 0.5 + 0.01 * seed**2 * (rule == GMOM) - sign * 0.1 * (attack == hurt)

    lists = {"rule": (GMOM, REBUCKETED), "attack": ATTACKS[:3], "seed": range(3)}
    clean, worst = effects(only(grid(final, **lists, measure=[measure])), "iid", 4).itertuples()
    assert (worst.attack, worst.base_attack) == ("SignFlip(scale=10)", "MinMax")
    for change in (clean, worst):
        numbers = (change.gain, change.least, change.most)
        assert sorted(sign * value for value in numbers) == pytest.approx([-0.01, -0.005, 0])
        assert (change.seeds, change.whole) == (2, False)


def test_a_study_is_looked_at_near_a_fifth_and_from_alike_to_unlike():
    splits = "sorted", "dirichlet-0.3", "iid", "dirichlet-1.0"
    frame = grid(lambda **_: 0.9, split=splits, num_byzantine=(0, 2, 6), rule=(GMOM, "FedAvg"))
    study = only(frame)
    assert study.num_byzantine == 2
    assert study.splits == ["iid", "dirichlet-1.0", "dirichlet-0.3", "sorted"]
    assert study.options == ["FedAvg", "GMoM"]
    assert costs(study, 2, ["iid", "sorted"]).runs.tolist() == [2, 2]


@pytest.mark.parametrize("measure", ["accuracy", "error"])
def test_the_same_runs_in_another_order_give_the_same_bytes(tmp_path, measure):
    views = [View(kind=kind) for kind in KINDS]
    frame = everything(measure=measure)
    printed = report("Study", views, frame, tmp_path / "a")
    report("Study", views, frame.sample(frac=1, random_state=0), tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert len(printed) > len(KINDS) - 2
    assert {path.suffix for path in (tmp_path / "a").iterdir()} == {".html", ".csv", ".png", ".svg"}


def test_a_page_needs_nothing_else_and_escapes_what_runs_say(tmp_path):
    hostile = "</td><script>alert(1)</script>../../x"
    frame = everything(problem=hostile)
    report(hostile, [View(kind=kind) for kind in KINDS], frame, tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    page = (tmp_path / "folder" / PAGE).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "KeyError: &lt;b&gt;" in page
    assert "OSError: &amp; &lt;i&gt;" in page
    sources = re.findall(r'(?:src|href)="([^"]*)', page)
    assert all(source.startswith(("data:image/svg+xml;base64,", "#section-")) for source in sources)


@pytest.mark.parametrize(
    ("measure", "value", "text"),
    [
        ("accuracy", -0.0004, "0.0"),
        ("accuracy", 0.86, "86.0"),
        ("accuracy", -0.0006, "−0.1"),
        ("error", math.inf, "∞"),
        ("error", 0.12345, "0.123"),
        ("error", 3.2e12, "3.2e12"),
        ("error", 1e-9, "1e−9"),
        ("error", math.nan, "–"),
    ],
)
def test_a_number_is_rounded_for_readers(measure, value, text):
    assert number(measure, value) == text


@pytest.mark.parametrize("entry", [{"kind": "pie"}, {"kind": "worst", "colour": "red"}, {}])
def test_a_view_that_is_not_known_is_an_error(entry):
    with pytest.raises(ValidationError):
        View.model_validate(entry)
