import math
import re
from dataclasses import asdict
from itertools import product

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.rules import GMOM
from clients.run import Run
from simulations.outcome import Outcome
from simulations.report import PAGE, report
from simulations.tables import costs, effects, errors, laid_out, number, studies
from simulations.views import View

REBUCKETED = f"{GMOM}(batch_size=2, rebucketed=True)"
ATTACKS = "none", "SignFlip(scale=10)", "MinMax", "Malformed"
KINDS = "worst", "attacks", "rounds", "worst-rounds", "ranking", "effects", "cost", "stopped"
SETTING = {"problem": "Perceptron", "rule": GMOM, "split": "iid"}
SETTING |= {"num_clients": 20, "num_byzantine": 4, "num_rounds": 2}


def run(final=0.9, stopped="", failed="", measure="accuracy", numbers=(), **changes):
    """Return a row of a frame: a run that ends at this value."""
    values = [3.0 if measure == "error" else 0.1, 0.5, final]
    outcome = asdict(Outcome(values, 0.002, stopped, failed, dict(numbers)))
    ran = asdict(Run(**SETTING | changes)) | outcome
    return ran | {"measure": measure, "final": final, "rate": math.nan}


def grid(final, **lists):
    """Return a run for each combination; it ends as a function of it says, None for no run."""
    found = [dict(zip(lists, values, strict=True)) for values in product(*lists.values())]
    ends = [(final(**changes), changes) for changes in found]
    return pd.DataFrame([run(end, **changes) for end, changes in ends if end is not None])


def only(frame):
    (study,) = studies(frame)
    return study


ENDS = st.sampled_from([0.0, 0.25, 0.5, 1.0, None])


@settings(deadline=None, max_examples=25)
@given(st.lists(ENDS, min_size=24, max_size=24), st.sampled_from(["accuracy", "error"]))
def test_means_spreads_and_worst_cases_are_those_of_the_runs(ends, measure):
    if measure == "error":
        ends = [math.inf if end == 1.0 else end for end in ends]
    lists = {"rule": ("FedAvg", "Krum"), "attack": ATTACKS, "seed": range(3)}
    runs = dict(zip(product(*lists.values()), ends, strict=True))
    runs |= dict.fromkeys(product(["FedAvg"], ATTACKS, range(3)), 0.5)  # its are complete
    frame = grid(lambda *, measure, **run: runs[tuple(run.values())], **lists, measure=[measure])
    study, means = only(frame), {}
    for cell in study.cells.itertuples():
        values = [runs[cell.option, cell.attack, seed] for seed in range(3)]
        done = [value for value in values if value is not None]
        means[cell.option, cell.attack] = sum(done) / len(done)
        assert cell.mean == pytest.approx(sum(done) / len(done))
        assert (cell.least, cell.most, cell.seeds) == (min(done), max(done), len(done))
        assert cell.whole == (None not in values)
    worse = max if measure == "error" else min
    for attacks in (study.well_formed, study.attacks):
        for worst in study.worst(attacks).itertuples():
            mine = [means[worst.option, a] for a in attacks if (worst.option, a) in means]
            assert worst.mean == pytest.approx(worse(mine))
            every = [runs[worst.option, a, seed] for a in attacks for seed in range(3)]
            assert worst.whole == (None not in every)


@pytest.mark.parametrize(
    ("measure", "good", "bad"), [("accuracy", 0.46, 0.45), ("error", 8.9, 9.1)]
)
def test_broken_is_ten_times_the_error_or_half_the_accuracy_of_clean_fedavg(measure, good, bad):
    ends = {"none": 0.9, "MinMax": good, "MinSum": bad}
    rows = [run(ends[a], rule="FedAvg", attack=a, measure=measure) for a in ends]
    assert list(only(pd.DataFrame(rows)).cells.broken) == [False, False, True]
    assert not any(only(pd.DataFrame(rows[1:])).cells.broken)


def test_the_best_lack_no_run_and_what_reads_the_same_is_best_alike():
    ends = {"FedAvg": 0.9, "FedMedian": 0.8, "Krum": 0.90001, GMOM: 0.95}
    frame = grid(lambda rule, seed: ends[rule], rule=ends, seed=(0, 1))
    study = only(frame[(frame.rule != GMOM) | (frame.seed == 0)])
    table = laid_out(study, study.cells, "none", study.cells.option, "row")
    assert table.option[table.best].tolist() == ["FedAvg", "Krum"]
    assert table.text.tolist() == ["90.0", "80.0", "90.0", "95.0*"]


def test_a_failed_run_is_in_no_number_and_marks_its_cell():
    study = only(pd.DataFrame([run(0.8), run(math.nan, seed=1, failed="OSError: no memory")]))
    (cell,) = study.cells.itertuples()
    assert (cell.mean, cell.seeds, cell.whole) == (0.8, 1, False)
    found = errors(study, "failed", ["iid"]).values.tolist()
    assert found == [["GMoM", "none", 1, 2, "OSError: no memory"]]


@pytest.mark.parametrize(("measure", "sign"), [("accuracy", 1), ("error", -1)])
def test_an_effect_is_the_difference_of_the_same_seeds_each_in_its_own_worst_case(measure, sign):
    hurt = {GMOM: "MinMax", REBUCKETED: "SignFlip(scale=10)"}

    def final(rule, attack, seed, **_):
        if (rule, seed) == (REBUCKETED, 2):
            return None
        return 0.5 + 0.01 * seed**2 * (rule == GMOM) - sign * 0.1 * (attack == hurt[rule])

    lists = {"rule": (GMOM, REBUCKETED), "attack": ATTACKS[:3], "seed": range(3)}
    clean, worst = effects(only(grid(final, **lists, measure=[measure])), "iid", 4).itertuples()
    assert (worst.attack, worst.base_attack) == (hurt[REBUCKETED], hurt[GMOM])
    for change in (clean, worst):
        numbers = (change.gain, change.least, change.most)
        assert sorted(sign * value for value in numbers) == pytest.approx([-0.01, -0.005, 0])
        assert (change.seeds, change.whole) == (2, False)


def test_a_study_is_looked_at_near_a_fifth_and_from_alike_to_unlike():
    splits = "sorted", "dirichlet-0.3", "iid", "dirichlet-1.0"
    lists = {"split": splits, "num_byzantine": (0, 9, 10), "rule": (GMOM, "FedAvg")}
    study = only(grid(lambda **_: 0.9, **lists))
    assert study.num_byzantine == 9
    assert study.splits == ["iid", "dirichlet-1.0", "dirichlet-0.3", "sorted"]
    assert study.options == ["FedAvg", "GMoM"]
    assert costs(study, 9, ["iid", "sorted"]).runs.tolist() == [2, 2]


@pytest.mark.parametrize("measure", ["accuracy", "error"])
def test_a_report_is_the_same_whatever_the_order_and_escapes_what_runs_say(tmp_path, measure):
    hostile = "</td><script>alert(1)</script>../../x"
    same = {"problem": hostile, "measure": measure}
    lists = {"rule": ("FedAvg", GMOM, REBUCKETED), "attack": ATTACKS, "seed": (0, 1)}
    lists |= {name: [value] for name, value in same.items()}
    frame = grid(lambda attack, seed, **_: 0.9 - 0.3 * seed * (attack == ATTACKS[2]), **lists)
    more = [run(0.9, split="sorted", **same), run(0.7, attack="MinMax", placement="fresh", **same)]
    more += [run(0.9, num_byzantine=0, **same), run(0.8, momentum=0.9, **same)]
    more += [run(0.0, seed=7, stopped="round 1: KeyError: <b>", **same)]
    more += [run(math.nan, seed=8, failed="OSError: & <i>", **same)]
    frame = pd.concat([frame, pd.DataFrame(more)], ignore_index=True)
    views = [View(kind=kind, splits=["iid"]) for kind in KINDS]
    folders = [tmp_path / "a", tmp_path / "b"]
    printed = report(hostile, views, frame, folders[0])
    again = pd.concat([frame, frame.head(5)])  # what two grids name is one run
    report(hostile, views, again.sample(frac=1, random_state=0), folders[1])
    files, others = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in folders)
    assert files == others
    assert len(printed) == 9
    assert sorted(tmp_path.iterdir()) == folders
    page = files[PAGE].decode()
    assert "<script" not in page
    assert "KeyError: &lt;b&gt;" in page
    assert "OSError: &amp; &lt;i&gt;" in page
    sources = re.findall(r'(?:src|href)="([^"]*)', page)
    assert all(source.startswith(("data:image/svg+xml;base64,", "#section-")) for source in sources)
    assert {name.rpartition(".")[2] for name in files} == {"html", "csv", "png", "svg"}


def test_a_number_is_rounded_for_readers():
    shares, errors = (-0.0004, -0.0006), (math.inf, 0.12345, 3.2e12, 1e-9, math.nan)
    assert [number("accuracy", value) for value in shares] == ["0.0", "−0.1"]
    assert [number("error", value) for value in errors] == ["∞", "0.123", "3.2e12", "1e−9", "–"]


@pytest.mark.parametrize("rows", [[], [run()], [run(math.nan, failed="OSError")]])
def test_few_runs_make_a_page_too(tmp_path, rows):
    views = [View(kind=kind) for kind in KINDS]
    report("Study", views, pd.DataFrame(rows, columns=run()), tmp_path)
    assert (tmp_path / PAGE).exists()
