"""robust(FedAdam, ...): Flower's server optimizers on a robust aggregate, in both APIs."""

import numpy as np
import pytest

from tests.support.apis import BOTH, MESSAGE, OPTIONS
from tests.support.app_grid import MODEL, attack, trained

NAMES = ["FedAdam", "FedYogi", "FedAdagrad", "FedAvgM", "FedProx"]
ALL = pytest.mark.parametrize("name", NAMES)


def flower(api, name):
    return api.stock(name, fraction_evaluate=0.0, **api.initial(MODEL))


def robust(api, name, kind=None, **options):
    least = {"num_byzantine": 2, "fraction_evaluate": 0.0} | OPTIONS.get(name, {})
    return api.own.robust(kind or getattr(api.flower, name), **least | api.initial(MODEL) | options)


def hardened(api, name, **options):
    return api.own.Hardened(flower(api, name), num_byzantine=2, **options)


def distance(one, other):
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


@BOTH
@ALL
@pytest.mark.parametrize("size", [{"num_byzantine": 0}, {"num_byzantine": None, "num_batches": 1}])
def test_without_byzantine_clients_it_is_flower_s_own_class(api, name, size):
    own = trained(api, flower(api, name), num_rounds=4)
    assert distance(trained(api, robust(api, name, **size), num_rounds=4), own) < 1e-5


@BOTH
@ALL
def test_under_attack_it_stays_by_the_clean_run_and_flower_s_own_class_does_not(api, name):
    """And counters stay integers, beside which the weights would count for nothing."""
    model, mods = [np.full(3, 10**9), *MODEL], [attack(2, 5)]
    clean = trained(api, flower(api, name))
    poisoned = trained(api, flower(api, name), mods)
    counting = robust(api, name, **api.initial(model))
    counter, *got_all = trained(api, counting, mods, model=model)
    for got, expected, own in zip(got_all, clean, poisoned, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0.01)
        assert np.abs(own - expected).max() > 0.1 * np.abs(expected).max()
    np.testing.assert_array_equal(counter, np.full(3, 10**9 + 2), strict=True)


def test_replies_that_are_added_up_on_arrival_give_nearly_the_same_model():
    ways = (robust(MESSAGE, "FedAdam", streaming=streaming) for streaming in (False, True))
    assert distance(*(trained(MESSAGE, strategy, [attack(2, 5)]) for strategy in ways)) < 1e-5


def test_what_the_optimizer_s_class_sends_to_clients_is_sent():
    sent = MESSAGE.begin(robust(MESSAGE, "FedProx", proximal_mu=0.25), range(11))
    assert sent[0].content["config"]["proximal-mu"] == 0.25


@BOTH
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize(("make", "name"), [*((robust, n) for n in NAMES), (hardened, "FedAdam")])
def test_a_training_that_is_stopped_goes_on_to_the_bit(api, make, name, last, tmp_path):
    def train(folder, num_rounds=3):
        strategy = make(api, name, checkpoints=tmp_path / folder)
        return [a.tobytes() for a in trained(api, strategy, [attack(2, 5)], num_rounds)]

    train("halves", last)
    assert train("halves") == train("whole")  # classic FedAdam makes float64 of float32


def test_a_checkpoint_of_another_strategy_is_refused_in_a_sentence(tmp_path):
    wrapper = MESSAGE.flower.DifferentialPrivacyServerSideFixedClipping
    wrapped = wrapper(flower(MESSAGE, "FedAdam"), 0.0, 5.0, 11)
    trained(MESSAGE, MESSAGE.own.Hardened(wrapped, checkpoints=tmp_path), num_rounds=1)
    with pytest.raises(ValueError, match=r"'strategy\.\w+': .* another strategy than FedAdam"):
        trained(MESSAGE, hardened(MESSAGE, "FedAdam", checkpoints=tmp_path))


def failing_once(api, name):
    """Return a robust optimizer whose first attempt fails after its state has changed."""
    kind, calls = getattr(api.flower, name), []

    def aggregate(strategy, *arguments):
        calls.append(getattr(kind, api.method)(strategy, *arguments))
        if len(calls) == 1:
            raise RuntimeError("once")
        return calls[-1]

    return robust(api, name, type("Failing", (kind,), {api.method: aggregate}))


@BOTH
@ALL
@pytest.mark.parametrize("make", [hardened, robust, failing_once])
def test_a_round_that_keeps_the_model_is_no_end(api, name, make, caplog):
    def silent_at_first(message, context, call_next):
        if message.metadata.group_id == "1":
            raise ConnectionError
        return call_next(message, context)

    assert distance(trained(api, make(api, name), [silent_at_first], num_rounds=3), MODEL) > 0.01
    text = "the strategy failed, the model is kept: RuntimeError"
    assert (text in caplog.text) == (make is failing_once)


def test_a_subclass_takes_the_options_that_it_hands_on():
    class Own(MESSAGE.flower.FedAdam):
        def __init__(self, mine, **options):
            super().__init__(**options)
            self.mine = mine

    made = robust(MESSAGE, "FedAdam", Own, num_byzantine=1, mine=7, eta=0.5)
    assert (made.strategy.mine, made.strategy.eta, made.strategy.min_train_nodes) == (7, 0.5, 3)
