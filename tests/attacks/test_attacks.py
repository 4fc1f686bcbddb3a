"""One contract for every attack, and what the source of each says of it."""

import dataclasses

import numpy as np
import pytest
from flwr.server.strategy.aggregate import aggregate_krum
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from flwr_byz import attacks
from flwr_byz.aggregation import geometric_median_of_means, split_into_batches
from flwr_byz.attacks import Attack, Knowledge

ALL = [
    attacks.SignFlip(),
    attacks.Scale(),
    attacks.GaussianNoise(),
    attacks.GaussianNoise(around_own=True),
    attacks.Constant(),
    attacks.Constant(-3.0),
    attacks.NonFinite(),
    attacks.Silent(),
    attacks.Malformed(),
    attacks.LabelFlip(),
    attacks.ModelReplacement(),
    attacks.InnerProductManipulation(),
    attacks.ALittleIsEnough(),
    *(attacks.MinMax(direction) for direction in ("mean", "spread", "sign")),
    *(attacks.MinSum(direction) for direction in ("mean", "spread", "sign")),
    attacks.Mimic(),
    attacks.FangTrimmedMean(),
    attacks.FangKrum(),
    *(attacks.BatchTakeover(direction=direction) for direction in ("mean", "spread", "sign")),
    attacks.Adaptive(budget=18),
]
BYZANTINE = (2, 3, 9, 14)
VECTORS = [attack for attack in ALL if not isinstance(attack, attacks.Silent)]
SIZES = pytest.mark.parametrize("dim", [1, 6, 300])


def rule(vectors):
    return geometric_median_of_means(vectors, 10).point


def knowledge(num_clients=20, byzantine=BYZANTINE, dim=6, seed=0, **changes):
    """Everything there is to know; client 3 shares its batch with another colluder."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(size=(num_clients - len(byzantine), dim)) + 0.7
    known = Knowledge(
        own=rng.normal(size=dim),
        num_clients=num_clients,
        num_byzantine=len(byzantine),
        rng=np.random.default_rng([seed, 1]),
        honest=honest,
        client=byzantine[1],
        byzantine=byzantine,
        model=rng.normal(size=dim),
        batches=split_into_batches(range(num_clients), num_clients // 2),
        rule=rule,
        relabelled=lambda: np.arange(dim, dtype=np.float64),
    )
    return dataclasses.replace(known, **changes)


def fresh():
    return np.random.default_rng([0, 1])


def test_every_attack_of_the_package_is_held_to_the_contract():
    public = {getattr(attacks, name) for name in attacks.__all__}
    kinds = {a for a in public if isinstance(a, type) and issubclass(a, Attack) and a is not Attack}
    assert {type(attack) for attack in ALL} == kinds


@SIZES
@pytest.mark.parametrize("attack", VECTORS, ids=repr)
def test_an_attack_sends_a_new_float64_vector_and_repeats_with_its_seed(attack, dim):
    known = knowledge(dim=dim)
    before = [known.own.copy(), known.honest.copy(), known.model.copy()]
    first, second = attack(known), attack(knowledge(dim=dim))
    assert first.shape == (dim,)
    assert first.dtype == np.float64
    assert first.tobytes() == second.tobytes()
    for vector, earlier in zip((known.own, known.honest, known.model), before, strict=True):
        assert np.array_equal(vector, earlier)


@pytest.mark.parametrize(
    "attack", [a for a in VECTORS if not {"batches", "rule"} & set(a.requires)], ids=repr
)
def test_the_order_of_honest_clients_does_not_matter_to_who_knows_no_batches(attack):
    known = knowledge()
    permuted = knowledge(honest=known.honest[::-1].copy())
    assert np.allclose(attack(known), attack(permuted), rtol=1e-9, equal_nan=True)


@pytest.mark.parametrize("attack", ALL, ids=repr)
def test_an_attack_knows_what_it_says_and_nothing_else(attack):
    optional = ("model", "honest", "batches", "rule", "relabelled")
    assert attack.requires <= set(optional)
    reference = attack(knowledge())
    ignorant = attack(knowledge(**{name: None for name in optional if name not in attack.requires}))
    if reference is None:
        assert ignorant is None
    else:
        assert np.array_equal(ignorant, reference, equal_nan=True)
    for name in attack.requires:
        with pytest.raises(ValueError, match=f"{type(attack).__name__} needs to know .*{name}"):
            attack(knowledge(**{name: None}))


@pytest.mark.parametrize("attack", [a for a in ALL if a.common], ids=repr)
def test_colluders_of_a_common_attack_send_one_vector(attack):
    other = knowledge(client=14, own=np.full(6, 9.0), rng=np.random.default_rng(77))
    assert np.array_equal(attack(knowledge()), attack(other))


@pytest.mark.parametrize("attack", ALL, ids=repr)
def test_an_attack_is_a_frozen_dataclass_whose_docstring_names_a_source(attack):
    assert dataclasses.is_dataclass(attack)
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.anything = 1
    assert type(attack).__doc__


@pytest.mark.parametrize("attack", VECTORS, ids=repr)
def test_equal_honest_vectors_are_no_trouble(attack):
    known = knowledge(honest=np.ones((16, 6)))
    assert attack(known).shape == (6,)
    assert attack(knowledge(honest=np.zeros((16, 6)))).shape == (6,)


# --- what the sources say ---------------------------------------------------------------------

THREE = np.array([[1.0, 0.0], [3.0, 0.0], [2.0, 3.0]])  # mean (2, 1), spread (1, √3)


def known_three(**changes):
    known = Knowledge(np.array([1.0, -2.0]), 5, 2, fresh(), honest=THREE, byzantine=(3, 4))
    return dataclasses.replace(known, **changes)


def test_hand_computed_values():
    known = known_three(model=np.array([1.0, 1.0]))
    assert attacks.SignFlip(10.0)(known).tolist() == [-10.0, 20.0]
    assert attacks.Scale(3.0)(known).tolist() == [3.0, -6.0]
    assert attacks.Constant(4.0)(known).tolist() == [4.0, 4.0]
    assert attacks.InnerProductManipulation(0.5)(known).tolist() == [-1.0, -0.5]
    spread = np.array([1.0, np.sqrt(3.0)])
    assert np.allclose(attacks.ALittleIsEnough(z=2.0)(known), [2.0, 1.0] - 2.0 * spread)
    assert np.isnan(attacks.NonFinite()(known)).all()
    assert (attacks.NonFinite(-np.inf)(known) == -np.inf).all()
    assert attacks.Silent()(known) is None
    replacement = attacks.ModelReplacement([3.0, 0.0], server_learning_rate=0.5)
    assert replacement(known).tolist() == [20.0, -10.0]
    descending = dataclasses.replace(known, uses_gradients=True)
    assert replacement(descending).tolist() == [-20.0, 10.0]


def test_byzfl_s_values():
    """Printed by ByzFL for these vectors: it has no z and no ε, but a τ of the other sign."""
    honest = np.array([[1.5, -2.0, 0.25], [0.5, 1.0, -0.75], [3.0, -1.0, 4.0], [-1.0, 2.5, 0.5]])
    known = Knowledge(honest[0], 5, 1, fresh(), honest=honest, byzantine=(4,))
    expected = {
        attacks.InnerProductManipulation(0.5): [-0.5, -0.0625, -0.5],
        attacks.InnerProductManipulation(10.0): [-10.0, -1.25, -10.0],
        attacks.ALittleIsEnough(1.5): [-1.5248762345905198, -2.898346655611956, -2.107450723664013],
    }
    for attack, vector in expected.items():
        assert attack(known) == pytest.approx(vector, rel=1e-12)


def test_min_max_and_min_sum_by_hand():
    # The honest diameter is √10, from (1, 0) and (3, 0) to (2, 3); against the mean, (2, 3) is the
    # first to be that far: (2, 1) − γ(2, 1)/√5.
    gamma = _root(
        lambda g: np.linalg.norm([2, 1] - g * np.array([2, 1]) / 5**0.5 - THREE[2]) ** 2 - 10
    )
    expected = [2, 1] - gamma * np.array([2, 1]) / 5**0.5
    assert np.allclose(attacks.MinMax("mean")(known_three()), expected)
    # Squared distances: (2, 3) has 10 + 10; around the mean they sum to 2 + 2 + 4 = 8.
    assert np.allclose(
        attacks.MinSum("sign")(known_three()), [2, 1] - np.sqrt(12 / (3 * 2)) * np.ones(2)
    )


def _root(function, low=0.0, high=100.0):
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if function(middle) > 0 else (middle, high)
    return low


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(1, 20), st.integers(0, 10**6))
@pytest.mark.parametrize("direction", ["mean", "spread", "sign"])
def test_min_max_reaches_the_honest_diameter_and_no_further(direction, n, dim, seed):
    honest = np.random.default_rng(seed).standard_cauchy(size=(n, dim))
    known = Knowledge(honest[0], n + 1, 1, fresh(), honest=honest, byzantine=(n,))
    diameter = max(np.linalg.norm(a - b) for a in honest for b in honest)
    reach = np.linalg.norm(honest - attacks.MinMax(direction)(known), axis=1).max()
    assert reach == pytest.approx(diameter, rel=1e-9)
    sums = [np.square(honest - row).sum() for row in honest]
    total = np.square(honest - attacks.MinSum(direction)(known)).sum()
    assert total == pytest.approx(max(sums), rel=1e-9)


def test_a_little_is_enough_takes_the_z_of_its_paper():
    # m = 50, q = 24 (Baruch et al. 2019, section 3): s = 2, z = Phi^-1(24/26).
    known = knowledge(50, tuple(range(24)))
    z = norm.ppf((50 - 24 - 2) / (50 - 24))
    expected = known.honest.mean(axis=0) - z * known.honest.std(axis=0, ddof=1)
    assert np.allclose(attacks.ALittleIsEnough()(known), expected)


@pytest.mark.parametrize(("m", "q"), [(3, 2), (2, 1), (4, 3)])
def test_a_little_is_enough_without_a_z_says_so(m, q):
    honest = np.zeros((m - q, 2))
    with pytest.raises(ValueError, match="give z"):
        attacks.ALittleIsEnough()(Knowledge(np.zeros(2), m, q, fresh(), honest=honest))


def test_mimic_equals_the_honest_vector_that_lies_furthest_out():
    known = knowledge()
    known.honest[5] += 40.0
    assert np.array_equal(attacks.Mimic()(known), known.honest[5])


def test_fang_s_numbers_lie_just_beyond_the_honest_extremes():
    honest = np.array([[1.0, -4.0, 2.0, -1.0], [3.0, -2.0, -1.0, 0.5], [2.0, -3.0, 5.0, -2.0]])
    for seed in range(50):
        known = known_three(honest=honest, rng=np.random.default_rng(seed))
        a, b, c, d = attacks.FangTrimmedMean(factor=2.0)(known)
        assert 0.5 <= a <= 1.0  # mean positive, minimum 1: between 1/2 and 1
        assert -2.0 <= b <= -1.0  # mean negative, maximum −2: between −2 and −2/2
        assert -2.0 <= c <= -1.0  # mean positive, minimum −1: between −1·2 and −1
        assert 0.5 <= d <= 1.0  # mean negative, maximum 1/2: between 1/2 and 2 · 1/2


@pytest.mark.parametrize("seed", range(10))
def test_fang_s_vector_is_picked_by_flower_s_krum(seed):
    known = knowledge(num_clients=20, byzantine=(0, 1, 2, 3, 4, 5), dim=30, seed=seed)
    vector = attacks.FangKrum()(known)
    everyone = [vector] * 6 + list(known.honest)
    picked = aggregate_krum([([v], 1) for v in everyone], num_malicious=6, to_keep=0)[0]
    assert np.array_equal(picked, vector)
    direction = np.sign(known.honest.mean(axis=0))
    assert vector @ direction < 0


def test_fang_s_search_ends_where_its_bound_leaves_the_range():
    known = known_three(honest=1e200 * THREE)
    with np.errstate(all="ignore"):
        assert attacks.FangKrum()(known).tolist() == [-np.inf, -np.inf]


@pytest.mark.parametrize("direction", ["mean", "spread", "sign"])
@pytest.mark.parametrize("k", [5, 7, 20])
def test_the_mean_of_a_batch_that_is_taken_over_is_the_target(k, direction):
    attack = attacks.BatchTakeover(radius=3.0, direction=direction)
    batches = split_into_batches(range(20), k)
    known = knowledge(batches=batches)
    everyone = np.empty((20, 6))
    everyone[[c for c in range(20) if c not in BYZANTINE]] = known.honest
    for client in BYZANTINE:
        everyone[client] = attack(dataclasses.replace(known, client=client))
    target = attack.target(known)
    for batch in batches:
        taken = np.allclose(everyone[batch].mean(axis=0), target, atol=1e-12)
        assert taken == any(client in BYZANTINE for client in batch)
    mean = known.honest.mean(axis=0)
    typical = np.linalg.norm(known.honest.std(axis=0, ddof=1)) * np.sqrt(k / 20)
    assert np.linalg.norm(target - mean) == pytest.approx(3.0 * typical)


def moved(attack, known, server_rule):
    everyone = np.empty((20, 6))
    everyone[[c for c in range(20) if c not in BYZANTINE]] = known.honest
    everyone[list(BYZANTINE)] = attack(dataclasses.replace(known, rule=server_rule))
    return np.linalg.norm(server_rule(everyone) - known.honest.mean(axis=0))


@pytest.mark.parametrize(
    "server_rule", [rule, lambda v: np.median(v, axis=0), lambda v: np.sort(v, 0)[4:-4].mean(0)]
)
def test_the_adaptive_attack_does_more_harm_than_any_other_of_one_vector(server_rule):
    for seed in range(3):
        known = knowledge(seed=seed)
        most = moved(attacks.Adaptive(), known, server_rule)
        for other in (
            attacks.ALittleIsEnough(),
            attacks.InnerProductManipulation(0.5),
            attacks.InnerProductManipulation(10.0),
            attacks.MinMax("mean"),
            attacks.MinMax("spread"),
            attacks.MinSum("sign"),
        ):
            assert most >= 0.99 * moved(other, known, server_rule)


def test_the_adaptive_attack_tries_the_rule_no_more_often_than_its_budget():
    tries = []

    def counted(vectors):
        tries.append(None)
        return rule(vectors)

    attacks.Adaptive(budget=30)(knowledge(rule=counted))
    assert 20 <= len(tries) <= 30


@pytest.mark.parametrize("kind", ["shape", "count", "dtype", "overflow", "empty", "bytes"])
def test_malformed_arrays_are_not_the_model_s(kind):
    arrays = [np.ones((3, 2), "f4"), np.array(2.0, "f4")]
    corrupted = attacks.Malformed(kind).corrupt(arrays, fresh())
    fits = len(corrupted) == 2 and all(
        s.shape == a.shape and s.dtype.kind == "f" and (np.abs(s) < 1e38).all()
        for s, a in zip(corrupted, arrays, strict=True)
    )
    assert not fits


def test_other_attacks_leave_the_form_alone():
    arrays = [np.ones((3, 2), "f4")]
    for attack in ALL:
        if not isinstance(attack, attacks.Malformed):
            assert attack.corrupt(arrays, fresh())[0] is arrays[0]


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 100))
def test_noise_has_the_standard_deviation_asked_for(scale):
    noise = attacks.GaussianNoise(scale)(knowledge(dim=20_000))
    assert noise.std() == pytest.approx(scale, rel=0.05)


@pytest.mark.parametrize(
    "make",
    [
        lambda: attacks.SignFlip(-1.0),
        lambda: attacks.Scale(np.inf),
        lambda: attacks.GaussianNoise(-1.0),
        lambda: attacks.Constant(np.nan),
        lambda: attacks.NonFinite(1.0),
        lambda: attacks.Malformed("odd"),
        lambda: attacks.ModelReplacement(np.nan),
        lambda: attacks.ModelReplacement(server_learning_rate=0.0),
        lambda: attacks.InnerProductManipulation(np.nan),
        lambda: attacks.ALittleIsEnough(z=np.inf),
        lambda: attacks.MinMax("up"),
        lambda: attacks.MinSum("up"),
        lambda: attacks.FangTrimmedMean(1.0),
        lambda: attacks.BatchTakeover(radius=-1.0),
        lambda: attacks.Adaptive(budget=3),
        lambda: attacks.FreshEachRound(4, 5),
        lambda: attacks.Rotating(4, -1),
        lambda: attacks.one_per_batch(10, 5, 4),
    ],
)
def test_a_parameter_out_of_range_is_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: attacks.SignFlip("10"), r"scale .* number of at least 0, .* 1\.0, got '10'"),
        (
            lambda: attacks.Scale(True),
            r"scale must be a finite number, for example 100\.0, got True",
        ),
        (lambda: attacks.Constant(None), "value must be a finite number, .* got None"),
        (lambda: attacks.Constant([1.0, 2.0]), r"value .* finite number, .* got \[1\.0, 2\.0\]"),
        (lambda: attacks.NonFinite("inf"), "value must be NaN, inf or -inf, got 'inf'"),
        (lambda: attacks.GaussianNoise(around_own="no"), "around_own .* True or False, got 'no'"),
        (lambda: attacks.ALittleIsEnough("1.5"), "z must be a finite number, got '1.5'"),
        (lambda: attacks.FangTrimmedMean("2"), r"factor must be .* above 1, .* got '2'"),
        (
            lambda: attacks.Adaptive(20.5),
            "budget must be a whole number of at least 6, .* got 20.5",
        ),
        (lambda: attacks.Malformed(3), "kind must be 'shape' or 'count' or .*, got 3"),
        (lambda: attacks.ModelReplacement("zero"), "target .* number or vector, got 'zero'"),
        (lambda: attacks.ModelReplacement([True]), r"target .* got \[True\]"),
        (lambda: attacks.FreshEachRound("20", 4), "num_clients must be a whole number .* got '20'"),
        (lambda: attacks.Rotating(20, 4.0), "num_byzantine must be a whole number .* got 4.0"),
    ],
)
def test_a_parameter_that_is_no_number_is_refused_by_name(make, message):
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize("value", [3, np.float32(3), np.int64(3)])
def test_numbers_of_any_kind_are_numbers(value):
    assert attacks.Scale(value)(known_three()).tolist() == [3.0, -6.0]


# --- who is Byzantine when --------------------------------------------------------------------


@pytest.mark.parametrize(
    "clients", [{2, 7}, [2, 7], (7, 2, 7), {2: "a", 7: "b"}, iter((2, 7)), np.array([2, 7])]
)
def test_fixed_takes_any_collection_of_integers(clients):
    fixed = attacks.Fixed(clients)
    assert fixed == attacks.Fixed({2, 7})
    assert hash(fixed) == hash(attacks.Fixed({2, 7}))
    assert fixed(1) == fixed(9) == {2, 7}
    assert all(type(client) is int for client in fixed.clients)


@pytest.mark.parametrize(
    ("clients", "given_as"),
    [
        ((2, 7), "2, 7"),
        ((2,), "2"),
        (("2,7",), "'2,7'"),
        (([2.0, 7.0],), r"\[2\.0, 7\.0\]"),
        (({"2", 7},), "{.*}"),
        (([True, False],), r"\[True, False\]"),
        (([[2], [7]],), r"\[\[2\], \[7\]\]"),
    ],
)
def test_fixed_without_a_collection_of_integers_says_what_to_give(clients, given_as):
    with pytest.raises(TypeError, match=f"^clients .* as in Fixed.*, got {given_as}$"):
        attacks.Fixed(*clients)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.data(), st.integers(0, 1000))
def test_never_more_than_q_clients_are_byzantine_at_a_time(m, data, server_round):
    q = data.draw(st.integers(0, m))
    schedules = [
        attacks.FreshEachRound(m, q, seed=3),
        attacks.Rotating(m, q),
        attacks.packed(m, q),
        attacks.one_per_batch(m, q, m),
    ]
    for schedule in schedules:
        clients = schedule(server_round)
        assert len(clients) == q
        assert clients <= set(range(m))
        assert clients == schedule(server_round)


def test_every_client_is_byzantine_at_some_time():
    for schedule in (attacks.Rotating(20, 3), attacks.FreshEachRound(20, 3)):
        assert set().union(*(schedule(r) for r in range(1, 60))) == set(range(20))
    assert set().union(*(attacks.Rotating(20, 3)(r) for r in range(1, 8))) == set(range(20))


def test_fresh_sets_differ_between_rounds_and_seeds():
    sets = {attacks.FreshEachRound(40, 5, seed)(r) for seed in range(3) for r in range(10)}
    assert len(sets) == 30


def test_placements_corrupt_as_many_or_as_few_batches_as_can_be():
    batches = split_into_batches(range(20), 10)

    def corrupted(clients):
        return sum(bool(clients & set(batch)) for batch in batches)

    assert corrupted(attacks.one_per_batch(20, 4, 10)(1)) == 4
    assert corrupted(attacks.packed(20, 4)(1)) == 2
