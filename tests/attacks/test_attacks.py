"""One contract for every attack, and what the source of each says of it."""

import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from flwr.server.strategy.aggregate import aggregate_krum
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from flwr_byz import attacks
from flwr_byz.aggregation import (
    SpectralFilter,
    geometric_median_of_means,
    robust_mean,
    split_into_batches,
)
from flwr_byz.attacks import Knowledge
from flwr_byz.attacks.names import CLASSES, parse_attack
from tests.support.table import table

DIRECTIONS = {
    "mean": lambda honest: honest.mean(axis=0),
    "spread": lambda honest: honest.std(axis=0, ddof=1),
    "sign": lambda honest: np.sign(honest.mean(axis=0)),
}
DIRECTED = attacks.MinMax, attacks.MinSum, attacks.BatchTakeover
ALL = [kind() for kind in CLASSES.values()]
ALL += [attacks.HiddenShift(harm="distance")]
ALL += [attacks.Constant(-3.0), attacks.GaussianNoise(around_own=True)]
ALL += [kind(direction=direction) for kind in DIRECTED for direction in DIRECTIONS]
BYZANTINE = (2, 3, 9, 14)
HONEST = [client for client in range(20) if client not in BYZANTINE]


def rule(vectors):
    return geometric_median_of_means(vectors, 10).point


def knowledge(honest=None, byzantine=BYZANTINE, dim=6, seed=0, **changes):
    """Everything there is to know; the client shares its batch with another colluder."""
    rng = np.random.default_rng(seed)
    own, model = rng.normal(size=(2, dim))
    if honest is None:
        honest = rng.normal(size=(20 - len(byzantine), dim)) + 0.7
    m = len(honest) + len(byzantine)
    known = {
        "own": own,
        "rng": np.random.default_rng([seed, 1]),
        "client": byzantine[0],
        "byzantine": byzantine,
        "model": model,
        "batches": split_into_batches(range(m), m // 2),
        "rule": rule,
        "relabelled": lambda: np.arange(dim, dtype=np.float64),
    }
    return Knowledge(num_clients=m, num_byzantine=len(byzantine), honest=honest, **known | changes)


@pytest.mark.parametrize("dim", [1, 6, 300])
@pytest.mark.parametrize("attack", [a for a in ALL if a != attacks.Silent()], ids=repr)
def test_an_attack_sends_a_new_float64_vector_and_repeats_with_its_seed(attack, dim):
    known, untouched = knowledge(dim=dim), knowledge(dim=dim)
    first, second = attack(known), attack(knowledge(dim=dim))
    assert (first.shape, first.dtype) == ((dim,), np.float64)
    assert first.tobytes() == second.tobytes()
    for name in ("own", "honest", "model"):
        assert np.array_equal(getattr(known, name), getattr(untouched, name))
    for equal in (np.ones, np.zeros):
        assert attack(knowledge(dim=dim, honest=equal((16, dim)))).shape == (dim,)
    if not {"batches", "rule"} & set(attack.requires):  # the order of honest clients says nothing
        known = knowledge(dim=dim, honest=knowledge(dim=dim).honest[::-1].copy())
        assert np.allclose(attack(known), first, rtol=1e-9, equal_nan=True)


@pytest.mark.parametrize("attack", ALL, ids=repr)
def test_an_attack_needs_what_it_requires_and_is_a_frozen_dataclass(attack):
    optional = ("model", "honest", "batches", "rule", "relabelled")
    assert attack.requires <= set(optional)
    expected = attack(knowledge())
    unknown = set(optional) - attack.requires
    ignorant = attack(replace(knowledge(), **dict.fromkeys(unknown)))
    assert (expected is None) == (ignorant is None) == isinstance(attack, attacks.Silent)
    assert expected is None or np.array_equal(ignorant, expected, equal_nan=True)
    if attack.common:  # colluders send one vector
        other = knowledge(client=14, own=np.full(6, 9.0), rng=np.random.default_rng(77))
        assert np.array_equal(attack(other), expected)
    for name in attack.requires:
        with pytest.raises(ValueError, match=f"{type(attack).__name__} needs to know .*{name}"):
            attack(replace(knowledge(), **{name: None}))
    with pytest.raises(FrozenInstanceError):
        attack.anything = 1
    arrays = [np.ones((3, 2), "f4")]
    corrupted = attack.corrupt(arrays, np.random.default_rng(0))
    assert isinstance(attack, attacks.Malformed) or corrupted[0] is arrays[0]
    if isinstance(attack, attacks.GaussianNoise) and not attack.around_own:
        assert attack(knowledge(dim=20_000)).std() == pytest.approx(attack.scale, rel=0.05)


THREE = np.array([[1.0, 0.0], [3.0, 0.0], [2.0, 3.0]])  # mean (2, 1), spread (1, √3)
FOUR = np.array([[1.5, -2.0, 0.25], [0.5, 1.0, -0.75], [3.0, -1.0, 4.0], [-1.0, 2.5, 0.5]])
# The vectors of FOUR were printed by ByzFL: it has no z and no ε, but a τ of the other sign.
SENT = """
SignFlip(10.0) : THREE : [-10, 20] | Scale(np.float32(3)) : THREE : [3, -6]
Scale(np.int64(3)) : THREE : [3, -6] | Constant(4.0) : THREE : [4, 4]
NonFinite() : THREE : [nan, nan] | NonFinite(-inf) : THREE : [-inf, -inf]
ModelReplacement([3.0, 0.0], server_learning_rate=0.5) : THREE : [20, -10]
ModelReplacement([3.0, 0.0], server_learning_rate=0.5) : -THREE : [-20, 10]
Mimic() : THREE * [[1], [1], [9]] : [18, 27] | FangKrum() : 1e200 * THREE : [-inf, -inf]
InnerProductManipulation(10.0) : FOUR : [-10.0, -1.25, -10.0]
ALittleIsEnough(1.5) : FOUR : [-1.524876234591, -2.898346655612, -2.107450723664]
"""
NAMES = vars(attacks) | vars(math) | {"np": np, "THREE": THREE, "FOUR": FOUR}


@pytest.mark.parametrize(("attack", "honest", "expected"), table(SENT))
def test_an_attack_sends_what_its_source_says(attack, honest, expected):
    """Honest vectors have their sign changed where they are gradients."""
    attack, honest, expected = (eval(text, NAMES) for text in (attack, honest, expected))
    own, model = np.array([1.0, -2.0]), np.array([1.0, 1.0])
    known = knowledge(honest, (8, 9), own=own, model=model, uses_gradients=honest.sum() < 0)
    with np.errstate(all="ignore"):
        assert attack(known) == pytest.approx(expected, rel=1e-11, nan_ok=True)


@settings(max_examples=30)
@given(st.integers(2, 12), st.integers(1, 20), st.integers(0, 10**6))
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_min_max_and_min_sum_go_as_far_as_honest_clients_and_no_further(direction, n, dim, seed):
    honest = np.random.default_rng(seed).standard_cauchy(size=(n, dim))
    against = DIRECTIONS[direction](honest)
    for kind, within in ((attacks.MinMax, np.max), (attacks.MinSum, np.sum)):
        sent = kind(direction)(knowledge(honest))
        squares = [np.square(honest - row).sum(axis=1) for row in (*honest, sent)]
        *between, reach = map(within, squares)
        assert reach == pytest.approx(max(between), rel=1e-9)
        moved = honest.mean(axis=0) - sent
        assert moved @ against == pytest.approx(np.linalg.norm(moved) * np.linalg.norm(against))


def test_a_little_is_enough_takes_the_z_of_its_paper():
    known = knowledge(np.arange(26.0)[:, None] ** [1, 2], range(24))
    z = norm.ppf(24 / 26)  # of m = 50 and q = 24 (Baruch et al. 2019, section 3)
    assert np.allclose(attacks.ALittleIsEnough()(known), attacks.ALittleIsEnough(z)(known))
    for m, q in ((3, 2), (2, 1), (4, 3)):
        with pytest.raises(ValueError, match="give z"):
            attacks.ALittleIsEnough()(knowledge(np.zeros((m - q, 2)), range(q)))


@pytest.mark.parametrize("seed", range(10))
def test_fang_s_vectors_lie_just_beyond_the_extremes_and_are_picked_by_flower_s_krum(seed):
    honest = np.array([[1.0, -4.0, 2.0, -1.0], [3.0, -2.0, -1.0, 0.5], [2.0, -3.0, 5.0, -2.0]])
    vector = attacks.FangTrimmedMean(factor=2.0)(knowledge(honest, seed=seed))
    # Mean positive: from minimum/2 to minimum 1; negative: from twice maximum −2; and so on.
    assert (vector >= [0.5, -2, -2, 0.5]).all()
    assert (vector <= [1, -1, -1, 1]).all()
    known = knowledge(byzantine=(0, 1, 2, 3, 4, 5), dim=30, seed=seed)
    vector = attacks.FangKrum()(known)
    everyone = [([v], 1) for v in [vector] * 6 + list(known.honest)]
    assert np.array_equal(aggregate_krum(everyone, num_malicious=6, to_keep=0)[0], vector)
    assert vector @ np.sign(known.honest.mean(axis=0)) < 0


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("k", [5, 7, 20])
def test_the_mean_of_a_batch_that_is_taken_over_is_the_target(k, direction):
    attack = attacks.BatchTakeover(radius=3.0, direction=direction)
    batches = split_into_batches(range(20), k)
    known, everyone = knowledge(batches=batches), np.empty((20, 6))
    everyone[HONEST] = known.honest
    for client in BYZANTINE:
        everyone[client] = attack(replace(known, client=client))
    target = attack.target(known)
    for batch in batches:
        taken = np.allclose(everyone[batch].mean(axis=0), target, atol=1e-12)
        assert taken == any(client in BYZANTINE for client in batch)
    typical = np.linalg.norm(known.honest.std(axis=0, ddof=1)) * np.sqrt(k / 20)
    assert np.linalg.norm(target - known.honest.mean(axis=0)) == pytest.approx(3.0 * typical)


@pytest.mark.parametrize(
    "server_rule", [rule, lambda v: np.median(v, axis=0), lambda v: np.sort(v, 0)[4:-4].mean(0)]
)
@pytest.mark.parametrize("seed", range(3))
def test_the_adaptive_attack_does_more_harm_than_any_other_of_one_vector(server_rule, seed):
    def moved(attack, known):
        everyone = np.empty((20, 6))
        everyone[HONEST], everyone[list(BYZANTINE)] = known.honest, attack(known)
        return np.linalg.norm(server_rule(everyone) - known.honest.mean(axis=0))

    known = knowledge(seed=seed, rule=server_rule)
    others = [attacks.ALittleIsEnough(), attacks.MinMax("mean"), attacks.MinMax("spread")]
    others += [attacks.InnerProductManipulation(epsilon) for epsilon in (0.5, 10.0)]
    tries = []
    counted = lambda vectors: tries.append(0) or server_rule(vectors)  # noqa: E731
    most = moved(attacks.Adaptive(budget=30), replace(known, rule=counted))
    assert 20 <= len(tries) <= 30
    assert all(most >= 0.99 * moved(other, known) for other in [*others, attacks.MinSum("sign")])


@pytest.mark.parametrize("harm", ["distance", "progress"])
def test_a_hidden_shift_spreads_the_replies_no_more_than_ten_times_as_the_honest_ones(harm):
    """And it does most harm of what it tries, to a filter too, within its budget."""
    rng, tries = np.random.default_rng(0), []
    honest = rng.normal(size=(16, 40)) * rng.exponential(size=40) + 0.3
    mean = honest.mean(axis=0)

    def filtered(vectors):
        tries.append(vectors.copy())
        return robust_mean(vectors, rule=SpectralFilter(), num_byzantine=4).point

    def harm_of(vectors):
        moved = filtered(vectors) - mean
        return np.linalg.norm(moved) if harm == "distance" else -moved @ mean

    attack = attacks.HiddenShift(harm=harm)
    known = knowledge(honest, dim=40, rule=filtered)
    sent = np.stack([attack(replace(known, client=client)) for client in BYZANTINE])
    assert 20 <= len(tries) <= 48  # one search for all colluders
    everyone = np.empty((20, 40))
    everyone[HONEST], everyone[list(BYZANTINE)] = honest, sent
    most = harm_of(everyone)
    assert most >= max(harm_of(each) for each in tries[:48]) * (1 - 1e-9) > 0
    top = np.linalg.eigvalsh(np.cov(honest.T, bias=True))[-1]
    offsets = sent - mean
    assert np.linalg.eigvalsh(offsets.T @ offsets / 20)[-1] <= 100 * top * (1 + 1e-9)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_a_hidden_shift_among_vectors_whose_products_are_not_finite_is_their_mean(value):
    honest = np.random.default_rng(0).normal(size=(16, 40))
    honest[0] = value
    known = knowledge(honest, dim=40, rule=lambda vectors: vectors.mean(axis=0))
    with np.errstate(all="ignore"):
        sent, mean = attacks.HiddenShift()(replace(known, client=BYZANTINE[0])), honest.mean(axis=0)
    np.testing.assert_array_equal(np.isfinite(sent), np.isfinite(mean))
    np.testing.assert_array_equal(sent[np.isfinite(sent)], mean[np.isfinite(mean)])


WRONG = r"""
HiddenShift(7) : budget must be a whole number of at least 8 | HiddenShift(harm='all') : harm must
SignFlip(-1.0) : must be | Scale(inf) : must be | GaussianNoise(-1.0) : must be
Constant(nan) : must be | NonFinite(1.0) : must be | NonFinite('inf') : NaN, inf or -inf, got 'inf'
Malformed('odd') : must be | Malformed(3) : kind must be 'shape' or 'count' or .*, got 3
ModelReplacement(nan) : must be | ModelReplacement(server_learning_rate=0) : must be
ModelReplacement('zero') : target .* got 'zero' | ModelReplacement([True]) : target .* got \[True\]
InnerProductManipulation(nan) : must be | ALittleIsEnough(z=inf) : must be | MinMax('up') : must be
ALittleIsEnough('1.5') : z must be a finite number, got '1.5' | MinSum('up') : must be
FangTrimmedMean(1.0) : must be | BatchTakeover(radius=-1.0) : must be | Adaptive(3) : must be
FreshEachRound(4, 5) : must be | Rotating(4, -1) : must be | one_per_batch(10, 5, 4) : must be
SignFlip('10') : scale .* number of at least 0, .* 1\.0, got '10' | Scale(True) : scale .* got True
GaussianNoise(around_own='no') : around_own .* True or False, got 'no' | Constant([1.0]) : \[1\.0\]
Adaptive(20.5) : budget must be a whole number of at least 6, .* got 20\.5
Rotating(20, 4.0) : num_byzantine must be a whole number .* got 4\.0 | Fixed(2) : got 2$
Fixed(2, 7) : ^clients must be a set .* as in Fixed\({2, 7}\), got 2, 7$ | Fixed('27') : got '27'$
Fixed({'2'}) : got {'2'}$ | Fixed([2.0]) : got \[2\.0\]$ | Fixed([True]) : got \[True\]$
Fixed([[2], [7]]) : got \[\[2\], \[7\]\]$
"""


@pytest.mark.parametrize(("attack", "said"), table(WRONG))
def test_a_wrong_parameter_is_refused(attack, said):
    with pytest.raises((TypeError, ValueError), match=said):
        eval(attack, NAMES)


NO_ATTACK = """
SignFlop : SignFlip | gaussian_noise : did you mean 'GaussianNoise' | Attack : 'Attack'
Schedule : 'Schedule' | SignFlip(10) : write an attack as | SignFlip(scale= : write an attack as
SignFlip(scale=10).corrupt : write an attack as | attacks.SignFlip() : write an attack as
SignFlip(strength=3) : strength | SignFlip(scale=-1) : at least 0 | SignFlip(scale='ten') : SignFlip
SignFlip(scale=open('made', 'w')) : SignFlip | SignFlip(**{'scale': 3}) : SignFlip
"""


def test_a_name_with_or_without_keywords_is_an_attack():
    assert parse_attack(" SignFlip ") == attacks.SignFlip()
    assert parse_attack("Malformed(kind='bytes')") == attacks.Malformed("bytes")
    assert parse_attack("NonFinite(value=-1e999)") == attacks.NonFinite(float("-inf"))


@pytest.mark.parametrize(("text", "named"), [*table(NO_ATTACK), ("", "write an attack as")])
def test_what_is_no_attack_is_a_value_error_that_says_why(text, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=named):
        parse_attack(text)
    assert not list(tmp_path.iterdir())  # a text is not evaluated


@pytest.mark.parametrize(
    "clients", [{2, 7}, [2, 7], (7, 2, 7), {2: "a", 7: "b"}, iter((2, 7)), np.array([2, 7])]
)
def test_fixed_takes_any_collection_of_integers(clients):
    fixed = attacks.Fixed(clients)
    assert (fixed, hash(fixed)) == (attacks.Fixed({2, 7}), hash(attacks.Fixed({2, 7})))
    assert fixed(1) == fixed(9) == {2, 7}
    assert all(type(client) is int for client in fixed.clients)


@settings(max_examples=50)
@given(st.integers(1, 40), st.data(), st.integers(0, 1000))
def test_q_clients_are_byzantine_at_a_time_and_placements_as_far_apart_as_can_be(m, data, number):
    q = data.draw(st.integers(0, m))
    k = data.draw(st.integers(max(q, 1), m))
    apart, packed = attacks.one_per_batch(m, q, k), attacks.packed(m, q)
    for schedule in (attacks.FreshEachRound(m, q, seed=3), attacks.Rotating(m, q), apart, packed):
        clients = schedule(number)
        assert len(clients) == q
        assert clients <= set(range(m))
        assert clients == schedule(number)
    batches = split_into_batches(range(m), k)
    assert sum(bool(apart(1) & set(batch)) for batch in batches) == q
    assert sum(bool(packed(1) & set(batch)) for batch in batches) == sum(b[0] < q for b in batches)


def test_moving_sets_reach_every_client_and_fresh_ones_differ_between_rounds_and_seeds():
    for schedule, rounds in ((attacks.Rotating(20, 3), 7), (attacks.FreshEachRound(20, 3), 60)):
        assert set().union(*(schedule(r) for r in range(1, rounds + 1))) == set(range(20))
    sets = {attacks.FreshEachRound(40, 5, seed)(r) for seed in range(3) for r in range(10)}
    assert len(sets) == 30
