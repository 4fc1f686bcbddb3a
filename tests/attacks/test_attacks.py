import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from flwr_byz import attacks
from flwr_byz.attacks import Knowledge

ALL = [
    attacks.SignFlip(),
    attacks.Scale(),
    attacks.GaussianNoise(),
    attacks.GaussianNoise(around_own=True),
    attacks.NonFinite(),
    attacks.InnerProductManipulation(),
    attacks.ALittleIsEnough(),
]


def knowledge(num_clients=20, num_byzantine=4, dim=6, seed=0, with_honest=True):
    rng = np.random.default_rng(seed)
    honest = rng.normal(size=(num_clients - num_byzantine, dim))
    return Knowledge(
        own=rng.normal(size=dim),
        num_clients=num_clients,
        num_byzantine=num_byzantine,
        rng=np.random.default_rng([seed, 1]),
        honest=honest if with_honest else None,
    )


@pytest.mark.parametrize("attack", ALL, ids=repr)
def test_an_attack_sends_a_float64_vector_and_repeats_with_its_seed(attack):
    first, second = attack(knowledge()), attack(knowledge())
    assert first.shape == (6,)
    assert first.dtype == np.float64
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("attack", ALL, ids=repr)
def test_the_order_of_honest_clients_does_not_matter(attack):
    known = knowledge()
    permuted = Knowledge(known.own, 20, 4, np.random.default_rng([0, 1]), honest=known.honest[::-1])
    assert np.allclose(attack(knowledge()), attack(permuted), equal_nan=True)


@pytest.mark.parametrize("attack", ALL, ids=repr)
def test_only_omniscient_attacks_need_the_honest_vectors(attack):
    if attack.omniscient:
        with pytest.raises(ValueError, match="needs to know what the honest clients send"):
            attack(knowledge(with_honest=False))
    else:
        assert attack(knowledge(with_honest=False)) is not None


def test_hand_computed_values():
    honest = np.array([[1.0, 0.0], [3.0, 0.0], [2.0, 3.0]])
    known = Knowledge(np.array([1.0, -2.0]), 5, 2, np.random.default_rng(0), honest)
    assert attacks.SignFlip(10.0)(known).tolist() == [-10.0, 20.0]
    assert attacks.Scale(3.0)(known).tolist() == [3.0, -6.0]
    assert attacks.InnerProductManipulation(0.5)(known).tolist() == [-1.0, -0.5]
    spread = np.array([1.0, np.sqrt(3.0)])
    assert np.allclose(attacks.ALittleIsEnough(z=2.0)(known), [2.0, 1.0] - 2.0 * spread)
    assert np.isnan(attacks.NonFinite()(known)).all()
    assert (attacks.NonFinite(-np.inf)(known) == -np.inf).all()
    assert attacks.Silent()(known) is None


def test_a_little_is_enough_takes_the_z_of_its_paper():
    # m = 50, q = 24 (Baruch et al. 2019, section 3): s = 2, z = Phi^-1(24/26).
    known = knowledge(50, 24)
    z = norm.ppf((50 - 24 - 2) / (50 - 24))
    expected = known.honest.mean(axis=0) - z * known.honest.std(axis=0, ddof=1)
    assert np.allclose(attacks.ALittleIsEnough()(known), expected)


@pytest.mark.parametrize(("m", "q"), [(3, 2), (2, 1), (4, 3)])
def test_a_little_is_enough_without_a_z_says_so(m, q):
    with pytest.raises(ValueError, match="give z"):
        attacks.ALittleIsEnough()(knowledge(m, q))


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
        lambda: attacks.NonFinite(1.0),
        lambda: attacks.InnerProductManipulation(np.nan),
        lambda: attacks.ALittleIsEnough(z=np.inf),
    ],
)
def test_a_parameter_out_of_range_is_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()
