"""robust(FedAdam, ...): Flower's server optimizers on a robust aggregate, in both APIs."""

from functools import partial

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import Server, SimpleClientManager
from flwr.server import strategy as classic
from flwr.serverapp import strategy as message

from flwr_byz.server.strategy import Hardened as ClassicHardened
from flwr_byz.server.strategy import robust as classic_robust
from flwr_byz.serverapp.strategy import Hardened, robust
from tests.support import malformed
from tests.support.answering_grid import AnsweringGrid, Client, Stop, model, summary

M, Q, ROUNDS = 11, 2, 10
OPTIONS = {
    # Roundings, as by the order in which replies arrive, are enlarged by up to 1 / tau.
    "FedAdam": {"eta": 0.05, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
    "FedYogi": {"eta": 0.05, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
    "FedAdagrad": {"eta": 0.05, "tau": 1e-3},
    "FedAvgM": {"server_learning_rate": 0.5, "server_momentum": 0.5},
    "FedProx": {"proximal_mu": 0.1},
}
NAMES = list(OPTIONS)


def towards_one(client, server_round, arrays):
    """An honest client's training: a tenth of the way to one, with noise of its own."""
    rng = np.random.default_rng([client, server_round])
    return [(a + 0.1 * (1 - a) + 0.01 * rng.normal(size=a.shape)).astype(a.dtype) for a in arrays]


def attacked(client, server_round, arrays):
    honest = towards_one(client, server_round, arrays)
    if client >= Q:
        return honest
    return [(a - 10 * (new - a)).astype(a.dtype) for new, a in zip(honest, arrays, strict=True)]


def message_run(strategy, reply, rounds=ROUNDS):
    return strategy.start(AnsweringGrid(M, reply), model(), rounds)


def message_model(strategy, reply, rounds=ROUNDS):
    return message_run(strategy, reply, rounds).arrays.to_numpy_ndarrays()


def classic_run(make, reply, rounds=ROUNDS, arrays=None):
    """Train with Flower's own Server; `make` takes the initial parameters."""
    arrays = model().to_numpy_ndarrays() if arrays is None else arrays
    strategy = make(initial_parameters=ndarrays_to_parameters(arrays))
    manager = SimpleClientManager()
    for number in range(M):
        manager.register(Client(number, reply))
    server = Server(client_manager=manager, strategy=strategy)
    server.set_max_workers(1)  # replies arrive in one order, and so are added up in one
    history, _ = server.fit(rounds, None)
    return server.parameters, history


def classic_model(make, reply, rounds=ROUNDS):
    return parameters_to_ndarrays(classic_run(make, reply, rounds)[0])


def distance(one, other):
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("settings", [{"num_byzantine": 0}, {"num_batches": 1}])
@pytest.mark.parametrize("name", NAMES)
def test_without_byzantine_clients_it_is_flower_s_own_class(name, settings):
    options = OPTIONS[name] | {"fraction_evaluate": 0.0}
    own = message_model(getattr(message, name)(**options), towards_one)
    assert distance(own, model().to_numpy_ndarrays()) > 0.1
    got = message_model(robust(getattr(message, name), **settings, **options), towards_one)
    assert distance(got, own) < 2e-5


@pytest.mark.parametrize("settings", [{"num_byzantine": 0}, {"num_batches": 1}])
@pytest.mark.parametrize("name", NAMES)
def test_without_byzantine_clients_it_is_flower_s_own_classic_class(name, settings):
    options = OPTIONS[name] | {"fraction_evaluate": 0.0}
    own = classic_model(partial(getattr(classic, name), **options), towards_one)
    assert distance(own, model().to_numpy_ndarrays()) > 0.1
    make = partial(classic_robust, getattr(classic, name), **settings, **options)
    assert distance(classic_model(make, towards_one), own) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_under_attack_it_stays_by_the_clean_run_and_flower_s_own_class_does_not(name):
    options = OPTIONS[name] | {"fraction_evaluate": 0.0}
    clean = message_model(getattr(message, name)(**options), towards_one)
    own = message_model(getattr(message, name)(**options), attacked)
    got = message_model(robust(getattr(message, name), num_byzantine=Q, **options), attacked)
    assert distance(got, clean) < 0.1
    assert distance(own, clean) > 0.3


@pytest.mark.parametrize("name", NAMES)
def test_under_attack_it_stays_by_the_clean_run_in_the_classic_api_too(name):
    options = OPTIONS[name] | {"fraction_evaluate": 0.0}
    flower = partial(getattr(classic, name), **options)
    clean, own = classic_model(flower, towards_one), classic_model(flower, attacked)
    make = partial(classic_robust, getattr(classic, name), num_byzantine=Q, **options)
    assert distance(classic_model(make, attacked), clean) < 0.1
    assert distance(own, clean) > 0.3


def test_replies_that_are_added_up_on_arrival_give_nearly_the_same_model():
    options = OPTIONS["FedAdam"] | {"fraction_evaluate": 0.0, "num_byzantine": Q}
    held = message_model(robust(message.FedAdam, **options), attacked)
    streamed = message_model(robust(message.FedAdam, streaming=True, **options), attacked)
    assert distance(held, streamed) < 1e-4


def counting(client, server_round, arrays):
    """Clients that train as `attacked` and count; the Byzantine ones count too far."""
    weights = attacked(client, server_round, arrays[1:])
    return [np.full(3, (10**9 if client < Q else 0) + 1000 * server_round + client), *weights]


@pytest.mark.parametrize("name", NAMES)
def test_counters_stay_integers_which_no_distance_is_taken_of(name):
    """Flower's optimizers make floats of them, beside which the weights would count for nothing."""
    options = OPTIONS[name] | {"fraction_evaluate": 0.0, "num_byzantine": Q}
    start = [np.zeros(3, "i8"), *model().to_numpy_ndarrays()]
    arrays = ArrayRecord({f"a{i}": Array(a) for i, a in enumerate(start)})
    got = robust(getattr(message, name), **options).start(AnsweringGrid(M, counting), arrays, 3)
    make = partial(classic_robust, getattr(classic, name), **options)
    classic_got = parameters_to_ndarrays(classic_run(make, counting, 3, start)[0])
    plain = message_model(robust(getattr(message, name), **options), attacked, 3)
    classic_plain = classic_model(make, attacked, 3)
    for (counter, *weights), alone in (
        (got.arrays.to_numpy_ndarrays(), plain),
        (classic_got, classic_plain),
    ):
        np.testing.assert_array_equal(counter, np.full(3, 3007), strict=True)
        assert distance(weights, alone) < 1e-4


def test_what_the_optimizer_s_class_sends_to_clients_is_sent():
    strategy = robust(message.FedProx, num_byzantine=1, proximal_mu=0.25)
    malformed.in_a_run()
    (sent, *_) = strategy.configure_train(1, model(), ConfigRecord(), AnsweringGrid(M, None))
    assert sent.content["config"]["proximal-mu"] == 0.25


# Restarts. --------------------------------------------------------------------------------------


def hardened_adam(**options):
    of_rounds = {"checkpoints": options.pop("checkpoints"), "num_byzantine": 2}
    options.pop("num_byzantine")
    return Hardened(message.FedAdam(**options), **of_rounds)


def classic_hardened_adam(**options):
    of_rounds = {"checkpoints": options.pop("checkpoints"), "num_byzantine": 2}
    options.pop("num_byzantine")
    return ClassicHardened(classic.FedAdam(**options), **of_rounds)


MESSAGE_MAKERS = {name: partial(robust, getattr(message, name)) for name in NAMES}
CLASSIC_MAKERS = {name: partial(classic_robust, getattr(classic, name)) for name in NAMES}
OPTIONS["Hardened"] = OPTIONS["FedAdam"]


def until(last, reply):
    def stopping(client, server_round, arrays):
        if server_round > last:
            raise Stop
        return reply(client, server_round, arrays)

    return stopping


@pytest.mark.parametrize("last", [0, 1, 4])
@pytest.mark.parametrize("name", [*NAMES, "Hardened"])
def test_a_training_that_is_stopped_goes_on_to_the_bit(tmp_path, name, last):
    make = (MESSAGE_MAKERS | {"Hardened": hardened_adam})[name]

    def strategy(folder):
        return make(
            num_byzantine=Q, checkpoints=tmp_path / folder, fraction_evaluate=0.0, **OPTIONS[name]
        )

    whole = summary(message_run(strategy("whole"), attacked, 6))
    with pytest.raises(Stop):
        message_run(strategy("halves"), until(last, attacked), 6)
    assert summary(message_run(strategy("halves"), attacked, 6)) == whole


@pytest.mark.parametrize("last", [0, 1, 4])
@pytest.mark.parametrize("name", [*NAMES, "Hardened"])
def test_a_classic_training_that_is_stopped_goes_on_to_the_bit(tmp_path, name, last, monkeypatch):
    make = (CLASSIC_MAKERS | {"Hardened": classic_hardened_adam})[name]

    def strategy(folder):
        return partial(
            make,
            num_byzantine=Q,
            checkpoints=tmp_path / folder,
            fraction_evaluate=0.0,
            **OPTIONS[name],
        )

    whole, history = classic_run(strategy("whole"), attacked, 6)
    aggregate = ClassicHardened.aggregate_fit

    def stop(strategy, server_round, *arguments):
        if server_round > last:
            raise Stop
        return aggregate(strategy, server_round, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ClassicHardened, "aggregate_fit", stop)
        with pytest.raises(Stop):
            classic_run(strategy("halves"), attacked, 6)
    again, recorded = classic_run(strategy("halves"), attacked, 6)
    assert again.tensors == whole.tensors
    assert vars(recorded) == vars(history)


def test_a_wider_dtype_that_the_optimizer_makes_is_no_other_model(tmp_path):
    """Classic FedAdam returns float64 from float32, as its class in Flower does."""
    make = partial(
        classic_hardened_adam, checkpoints=tmp_path, num_byzantine=Q, fraction_evaluate=0.0
    )
    parameters, _ = classic_run(make, towards_one, 1)
    assert {a.dtype.name for a in parameters_to_ndarrays(parameters)} == {"float64"}
    assert classic_run(make, towards_one, 2)[0].tensors != parameters.tensors


def test_a_checkpoint_of_another_strategy_is_refused_in_a_sentence(tmp_path):
    wrapped = message.DifferentialPrivacyServerSideFixedClipping(message.FedAdam(), 0.0, 5.0, M)
    message_run(Hardened(wrapped, checkpoints=tmp_path), towards_one, 1)
    with pytest.raises(ValueError, match=r"'strategy\.\w+': .* another strategy than FedAdam"):
        message_run(Hardened(message.FedAdam(), checkpoints=tmp_path), towards_one, 2)


def silent_at_first(client, server_round, arrays):
    return None if server_round == 1 else towards_one(client, server_round, arrays)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("harden", [True, False])
def test_a_first_round_that_keeps_the_model_is_no_end(name, harden):
    options = OPTIONS[name] | {"fraction_evaluate": 0.0}

    def made(initial_parameters):
        kind = getattr(classic, name)
        if harden:
            return ClassicHardened(kind(initial_parameters=initial_parameters, **options))
        options["num_byzantine"] = Q
        return classic_robust(kind, initial_parameters=initial_parameters, **options)

    assert distance(classic_model(made, silent_at_first, 3), model().to_numpy_ndarrays()) > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_that_fails_once_keeps_the_model_and_goes_on(name, caplog):
    options = OPTIONS[name] | {"fraction_evaluate": 0.0, "num_byzantine": Q}
    for module, method in ((message, "aggregate_train"), (classic, "aggregate_fit")):
        kind = getattr(module, name)

        class Failing(kind):
            calls = 0

        def aggregate(strategy, *arguments, kind=kind, method=method):
            made = getattr(kind, method)(strategy, *arguments)
            type(strategy).calls += 1
            if type(strategy).calls == 1:
                raise RuntimeError("once")
            return made

        setattr(Failing, method, aggregate)
        if module is message:
            got = message_model(robust(Failing, **options), attacked, 3)
        else:
            got = classic_model(partial(classic_robust, Failing, **options), attacked, 3)
        assert distance(got, model().to_numpy_ndarrays()) > 0.01
        assert "the strategy failed, the model is kept: RuntimeError" in caplog.text
        caplog.clear()


# What can be given. -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["FedMedian", "Krum", "QFedAvg", "FedXgbBagging"])
def test_strategies_that_take_no_mean_are_refused_by_name(name):
    with pytest.raises(TypeError, match=rf"strategy must .* got {name}"):
        robust(getattr(message, name), num_byzantine=1)

    class Own(getattr(message, name)):
        pass

    with pytest.raises(TypeError, match=r"strategy must .* got (Own|FedXgb)"):
        robust(Own, num_byzantine=1)


def test_a_subclass_takes_the_options_that_it_hands_on():
    class Own(message.FedAdam):
        def __init__(self, mine, **options):
            super().__init__(**options)
            self.mine = mine

    made = robust(Own, num_byzantine=1, mine=7, eta=0.5)
    assert (made.strategy.mine, made.strategy.eta, made.strategy.min_train_nodes) == (7, 0.5, 3)
    with pytest.raises(TypeError, match=r"robust\(Own\) has no option etta=0\.5: did you mean eta"):
        robust(Own, num_byzantine=1, mine=7, etta=0.5)


def test_an_object_or_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="strategy must be a class"):
        robust(message.FedAdam(), num_byzantine=1)
    with pytest.raises(TypeError, match="has no option streaming=True"):  # of the Message API
        classic_robust(classic.FedAvg, num_byzantine=1, streaming=True)
    with pytest.raises(TypeError, match="has no option etta"):
        robust(message.FedAdam, num_byzantine=1, etta=1.0)
    with pytest.raises(ValueError, match="give num_byzantine, num_batches or both"):
        robust(message.FedAdam)
