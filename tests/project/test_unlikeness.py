"""How unlike clients are: known variances, colluders, and the page's figures on digits."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.perceptron import Perceptron
from clients.run import Run
from flwr_byz import unlikeness
from flwr_byz.unlikeness import Unlikeness, advise, kind_of, measure_unlikeness
from simulations.process import train

PAGE = Path(__file__).parents[2] / "docs/how-unlike.md"
FAR = 1e300


def gaussian(between, within, m=30, r=2, d=3000, seed=0, length=0.0):
    """Return updates whose variances, summed over coordinates, are those given."""
    rng = np.random.default_rng(seed)
    means = np.sqrt(between / d) * rng.normal(size=(m, 1, d)) + length / np.sqrt(d)
    return means + np.sqrt(within / d) * rng.normal(size=(m, r, d))


@pytest.mark.parametrize(("between", "within"), [(3.0, 2.0), (0.0, 2.0), (50.0, 1.0), (0.5, 40.0)])
@pytest.mark.parametrize("r", [2, 5])
def test_the_variances_of_a_gaussian_model_are_found(between, within, r):
    found = measure_unlikeness(gaussian(between, within, r=r, length=3.0), num_byzantine=6)
    total = between + within
    assert found.within == pytest.approx(within, rel=0.05)
    assert found.between == pytest.approx(between, abs=0.05 * total)
    assert found.ratio == pytest.approx(between / within, abs=0.05 * total / within)
    assert found.share == pytest.approx(between / (9 + total), abs=0.05)
    assert found.ratios[0] <= found.ratio <= found.ratios[1]
    assert found.shares[0] <= found.share <= found.shares[1]


def test_the_medians_are_those_of_the_definition():
    updates = [
        rng.normal(size=(r, 4))
        for rng, r in zip(map(np.random.default_rng, range(5)), (2, 3, 2, 4, 2), strict=True)
    ]
    own = [
        sum(((a - b) ** 2).sum() for a in u for b in u) / (2 * len(u) * (len(u) - 1))
        for u in updates
    ]
    apart = [
        np.median(
            [
                np.mean([((a - b) ** 2).sum() for a in u for b in v]) / 2
                for v in updates
                if v is not u
            ]
        )
        for u in updates
    ]
    length = np.median([(u**2).sum(axis=1).mean() for u in updates])
    found = measure_unlikeness(dict(zip("abcde", updates, strict=True)), num_byzantine=0)
    between = np.median(apart) - np.median(own)
    assert found.within == pytest.approx(np.median(own))
    assert found.between == pytest.approx(between)
    assert (found.ratio, found.share) == pytest.approx((between / np.median(own), between / length))
    assert found.ratios == pytest.approx((found.ratio, found.ratio))


@given(st.integers(0, 1000), st.floats(1e-6, 1e6))
def test_it_is_the_same_after_a_rotation_a_scaling_and_in_another_order(seed, scale):
    rng = np.random.default_rng(seed)
    updates = rng.normal(size=(7, 1, 6)) + rng.normal(size=(7, 2, 6))
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    changed = scale * updates[rng.permutation(7)] @ rotation
    plain, other = (measure_unlikeness(each, num_byzantine=2) for each in (updates, changed))
    assert other.between == pytest.approx(scale**2 * plain.between, rel=1e-6)
    assert other.ratio == pytest.approx(plain.ratio, rel=1e-6)
    assert other.shares == pytest.approx(plain.shares, rel=1e-6)


ATTACKS = {  # from the updates and the numbers of the colluders
    "far away, twice the same": lambda u, who, rng: FAR,
    "noise": lambda u, who, rng: 100 * rng.normal(size=u[who].shape),
    "zeros": lambda u, who, rng: 0.0,
    "negatives": lambda u, who, rng: -u[who],
    "one honest reply": lambda u, who, rng: u[who[0], 0],
}


@given(st.integers(0, 1000), st.integers(3, 25), st.floats(0, 0.49), st.sampled_from([*ATTACKS]))
def test_the_figures_of_the_honest_lie_within_the_limits(seed, m, share, attack):
    q, rng = min(int(share * m), (m - 1) // 2), np.random.default_rng(seed)
    updates = gaussian(rng.exponential(), 1.0, m, d=4, seed=seed, length=rng.exponential())
    updates *= rng.exponential(size=(m, 1, 1))  # some clients move farther
    who = rng.permutation(m)[: max(q, 1)]
    honest = measure_unlikeness(np.delete(updates, who[:q], axis=0), num_byzantine=0)
    if q:
        updates[who] = ATTACKS[attack](updates, who, rng)
    found = measure_unlikeness(updates, num_byzantine=q)
    for (least, most), value in ((found.ratios, honest.ratio), (found.shares, honest.share)):
        assert least - 1e-9 * abs(least) <= value <= most + 1e-9 * abs(most)
    assert np.isfinite(found.ratios).all() or 3 * q >= m - 2


def pilot(split, seed, **options):
    problem = Perceptron(split=split, seed=seed, **options)
    model = problem.initial_arrays()

    def update(client, server_round):
        reply, *_ = problem.reply(client, model, server_round)
        return np.concatenate([(a - b).ravel() for a, b in zip(reply, model, strict=True)])

    return np.array([[update(client, r) for r in (1, 2)] for client in range(problem.num_clients)])


ROW = r"^\| ([\w.-]+) \| (\d\S+) \| (\S+) \| (\S+) \| (\S+) \| (.*) \|$"
ROWS = re.findall(ROW, PAGE.read_text(encoding="utf-8"), re.M)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_the_figures_on_the_page_are_measured_and_colluders_change_them_no_more_than_it_says(row):
    split, *ranges, kind = row
    figures = []
    for batch_size in (32, 512):
        pilots = [pilot(split, seed, batch_size=batch_size) for seed in range(3)]
        clean = [measure_unlikeness(each, num_byzantine=4) for each in pilots]
        assert {each.kind for each in clean} == {kind}
        figures += [[each.ratio for each in clean], [each.share for each in clean]]
        for updates, found in zip(pilots, clean, strict=True):
            for attack, make in ATTACKS.items():
                rng, attacked = np.random.default_rng(0), updates.astype(float)
                who = rng.permutation(20)[:4]
                attacked[who] = make(attacked, who, rng)
                changed = measure_unlikeness(attacked, num_byzantine=4)
                assert 0.3 < changed.ratio / found.ratio < 3, attack
                assert 0.7 < changed.share / found.share < 1.4, attack
                assert {found.kind, changed.kind} != {"alike", "strongly unlike"}
    for text, values in zip(ranges, figures, strict=True):
        written = [float(number) for number in text.split("–")]
        assert written == [float(f"{value:.2g}") for value in (min(values), max(values))]


@pytest.mark.slow
@pytest.mark.parametrize("split", [row[0] for row in ROWS])
def test_few_clients_show_what_many_show_within_what_the_page_says(split):
    rng = np.random.default_rng(0)
    for seed in range(3):
        updates = pilot(split, seed)
        whole = measure_unlikeness(updates, num_byzantine=1).ratio
        drawn = [updates[rng.choice(20, 6, replace=False)] for _ in range(100)]
        shares = [measure_unlikeness(each, num_byzantine=1).ratio / whole for each in drawn]
        assert np.mean([1 / 3 < share < 3 for share in shares]) >= 0.9


def test_the_page_has_a_row_for_each_split():
    assert len(ROWS) == 5


@pytest.mark.parametrize(
    ("ratio", "share", "kind"),
    [
        (1.9, 1.0, "alike"),
        (np.inf, 0.3, "alike"),
        (-0.1, -0.1, "alike"),
        (2.1, 1.0, "moderately unlike"),
        (np.inf, 0.9, "moderately unlike"),
        (11.0, 1.0, "strongly unlike"),
        (np.inf, np.inf, "strongly unlike"),
    ],
)
def test_clients_are_alike_by_one_figure_and_strongly_unlike_by_both(ratio, share, kind):
    assert kind_of(ratio, share) == kind


def found(ratio=1.0, share=0.1, m=20, q=4, ratios=None, shares=None):
    limits = ratios or (ratio, ratio), shares or (share, share)
    return Unlikeness(1.0, ratio, ratio, share, *limits, m, q)


ALIKE, UNLIKE, STRONGLY = found(), found(5.0, 0.6), found(50.0, 1.0)


def call(advice):
    """Return the call that makes the strategy: its name and its options as text."""
    *imports, assigned = ast.parse(advice.strategy).body
    assert all(isinstance(each, ast.ImportFrom) for each in imports)
    options = {each.arg: ast.unparse(each.value) for each in assigned.value.keywords}
    imported = {name.name: each.module for each in imports for name in each.names}
    return imported[assigned.value.func.id], assigned.value.func.id, options


FILTER = {"rule": "SpectralFilter()", "num_byzantine": "4"}
TRUSTED = {
    "pre_aggregation": "[FilteredClipping()]",
    "server_update_fn": "train_on_trusted",
}


@pytest.mark.parametrize(
    ("case", "trusted", "name", "options"),
    [
        (ALIKE, 0, "GeometricMedianOfMeans", {"num_byzantine": "4", "trim_norm": "'auto'"}),
        (found(m=15), 0, "RobustFedAvg", FILTER),
        (ALIKE, 50, "GeometricMedianOfMeans", {"num_byzantine": "4", "trim_norm": "'auto'"}),
        (UNLIKE, 0, "RobustFedAvg", FILTER),
        (UNLIKE, 50, "RobustFedAvg", FILTER | TRUSTED),
        (STRONGLY, 0, "RobustFedAvg", FILTER),
        (STRONGLY, 50, "RobustFedAvg", FILTER | TRUSTED),
    ],
)
@pytest.mark.parametrize("api", ["serverapp", "server"])
def test_the_advice_is_code_for_the_apps_api(case, trusted, name, options, api):
    advice = advise(case, num_trusted=trusted, api=api)
    assert call(advice) == (f"flwr_byz.{api}.strategy", name, options)
    assert ("SpectralFilter" in advice.strategy) == (name == "RobustFedAvg")
    assert advice.doubts == ()


def test_the_strategies_can_be_made():
    for case, k in ((ALIKE, 16), (UNLIKE, 20), (STRONGLY, 20)):
        made = {"train_on_trusted": lambda server_round, arrays: arrays}
        exec(advise(case, num_trusted=50).strategy, made)
        assert made["strategy"].settings.batches_for(20) == k
    assert any("k = 16" in reason for reason in advise(ALIKE).reasons)


@pytest.mark.parametrize(
    ("case", "trusted", "named"),
    [
        (found(ratios=(0.5, 3.0), shares=(0.1, 0.5)), 0, "may as well be moderately unlike."),
        (found(5.0, 0.6, ratios=(1.0, 20.0), shares=(0.2, 1.1)), 0, "be alike or strongly unlike."),
        (found(m=6, q=1), 0, "6 clients are few"),
        (found(5.0, 0.6, q=5), 0, "at most 20%"),
        (found(q=9), 0, "at most 40%"),
        (STRONGLY, 20, "20 trusted samples are fewer"),
        (UNLIKE, 20, "20 trusted samples are fewer"),
        (replace(UNLIKE, within=0.0), 0, "the share alone decides"),
    ],
)
def test_what_is_uncertain_is_named(case, trusted, named):
    (doubt,) = advise(case, num_trusted=trusted).doubts
    assert named in doubt


def test_without_trusted_data_the_advice_for_strongly_unlike_clients_asks_for_it():
    assert any("--trusted" in reason for reason in advise(STRONGLY).reasons)
    assert any("gains little" in reason for reason in advise(ALIKE, num_trusted=9).reasons)


@pytest.mark.slow
def test_trusted_data_gain_the_more_the_less_alike_clients_are():
    gains = []
    for split in ("iid", "dirichlet-0.3", "dirichlet-0.1"):
        ends = [
            train(
                Run(
                    problem="Perceptron(trusted=50)",
                    split=split,
                    rule=f"RobustFedAvg(rule='SpectralFilter'{more})",
                    attack="InnerProductManipulation",
                    num_clients=20,
                    num_byzantine=4,
                    num_rounds=30,
                )
            ).values[-1]
            for more in (", pre_aggregation='FilteredClipping', trusted=True", "")
        ]
        gains.append(ends[0] - ends[1])
    assert abs(gains[0]) < 0.02 < gains[1] < gains[2]


NAN = np.full((2, 3000), np.nan)


def test_clients_that_are_not_finite_are_left_out_and_overflow_is_far_away():
    honest = gaussian(3.0, 2.0)
    alone = measure_unlikeness(honest, num_byzantine=1)
    assert measure_unlikeness({**dict(enumerate(honest)), 99: NAN}, num_byzantine=1) == alone
    with_far = measure_unlikeness([*honest, np.full((2, 3000), 1e308)], num_byzantine=1)
    assert with_far.ratio == pytest.approx(alone.ratio, rel=0.05)
    assert np.isfinite(with_far.ratios).all()


@pytest.mark.parametrize(
    ("updates", "q", "named"),
    [
        (np.ones((5, 1, 3)), 1, "client 0 has 1 updates"),
        ({"a": np.ones((2, 3)), "b": np.ones((2, 4))}, 0, "'b' has 4 numbers, others have 3"),
        ({"a": np.ones((2, 3, 1))}, 0, "shape (3, 1)"),
        ({"a": [["x"], ["y"]]}, 0, "no real vector"),
        (gaussian(1, 1, m=4), 2, "more than 4 clients with finite updates, got 4"),
        ([NAN] * 5, 0, "got 0"),
        (np.ones((5, 2, 3)), 1, "most updates are equal"),
        (gaussian(1, 1), -1, "num_byzantine"),
    ],
)
def test_what_cannot_be_measured_is_named(updates, q, named):
    with pytest.raises(ValueError, match=re.escape(named)):
        measure_unlikeness(updates, num_byzantine=q)
    with pytest.raises(ValueError, match="num_trusted"):
        advise(ALIKE, num_trusted=-1)


def test_vectors_longer_than_a_block_are_measured_whole(monkeypatch):
    updates = gaussian(3.0, 2.0, d=100)
    whole = measure_unlikeness(updates, num_byzantine=6)
    monkeypatch.setattr(unlikeness, "_BLOCK", 7)
    assert measure_unlikeness(updates, num_byzantine=6).ratio == pytest.approx(whole.ratio)
