"""robust(FedAdam, ...): Flower's server optimizers on a robust aggregate, in both APIs."""

from functools import partial

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.common import parameters_to_ndarrays
from flwr.server import Server, SimpleClientManager

from tests.support import malformed
from tests.support.answering_grid import AnsweringGrid
from tests.support.apis import BOTH, CLASSIC, MESSAGE
from tests.support.server import Proxy

M, Q, ROUNDS = 11, 2, 6
START = [np.zeros((3, 4), "f4"), np.zeros(5)]
ADAPTIVE = {"eta": 0.05, "tau": 1e-3}  # roundings are enlarged by up to 1 / tau
OPTIONS = {
    "FedAdam": {**ADAPTIVE, "beta_1": 0.9, "beta_2": 0.99},
    "FedYogi": {**ADAPTIVE, "beta_1": 0.9, "beta_2": 0.99},
    "FedAdagrad": ADAPTIVE,
    "FedAvgM": {"server_learning_rate": 0.5, "server_momentum": 0.5},
    "FedProx": {"proximal_mu": 0.1},
}
ALL = pytest.mark.parametrize("name", OPTIONS)


class Client(Proxy):
    """A client of the classic API which replies as a node of `AnsweringGrid`."""

    def __init__(self, number, reply):
        super().__init__(str(number))
        self.reply = reply

    def fit(self, ins, timeout, group_id):  # which is the round
        arrays = parameters_to_ndarrays(ins.parameters)
        return malformed.fit_res(self.reply(int(self.cid), group_id, arrays))


def train(api, make, reply, rounds=ROUNDS, start=START):
    """Train with the strategy that `make` returns; its final model, and what was recorded."""
    strategy = make(fraction_evaluate=0.0, **api.initial(start))
    if api is MESSAGE:
        arrays = ArrayRecord({f"a{i}": Array(a) for i, a in enumerate(start)})
        result = strategy.start(AnsweringGrid(M, reply), arrays, rounds)
        return result.arrays.to_numpy_ndarrays(), result.train_metrics_clientapp
    manager = SimpleClientManager()
    for number in range(M):
        manager.register(Client(number, reply))
    server = Server(client_manager=manager, strategy=strategy)
    server.set_max_workers(1)  # replies arrive in one order, and so are added up in one
    history, _ = server.fit(rounds, None)
    return parameters_to_ndarrays(server.parameters), vars(history)


def flower(api, name):
    return partial(getattr(api.flower, name), **OPTIONS[name])


def robust(api, name, **options):
    return partial(api.own.robust, getattr(api.flower, name), **OPTIONS[name], **options)


def hardened(api, name, **options):
    return lambda **own: api.own.Hardened(flower(api, name)(**own), **options)


def towards_one(client, server_round, arrays):
    """An honest client's training: a tenth of the way to one, with noise of its own."""
    rng = np.random.default_rng([client, server_round])
    return [(a + 0.1 * (1 - a) + 0.01 * rng.normal(size=a.shape)).astype(a.dtype) for a in arrays]


def attacked(client, server_round, arrays):
    honest = towards_one(client, server_round, arrays)
    if client >= Q:
        return honest
    return [(a - 10 * (new - a)).astype(a.dtype) for new, a in zip(honest, arrays, strict=True)]


def distance(one, other):
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


@BOTH
@ALL
@pytest.mark.parametrize("settings", [{"num_byzantine": 0}, {"num_batches": 1}])
def test_without_byzantine_clients_it_is_flower_s_own_class(api, name, settings):
    own, _ = train(api, flower(api, name), towards_one)
    assert distance(own, START) > 0.1
    assert distance(train(api, robust(api, name, **settings), towards_one)[0], own) < 1e-5


@BOTH
@ALL
def test_under_attack_it_stays_by_the_clean_run_and_flower_s_own_class_does_not(api, name):
    clean, _ = train(api, flower(api, name), towards_one)
    got, _ = train(api, robust(api, name, num_byzantine=Q), attacked)
    own, _ = train(api, flower(api, name), attacked)
    assert distance(got, clean) < 0.1
    assert distance(own, clean) > 0.3


def test_replies_that_are_added_up_on_arrival_give_nearly_the_same_model():
    held, streamed = (
        train(MESSAGE, robust(MESSAGE, "FedAdam", num_byzantine=Q, streaming=streaming), attacked)
        for streaming in (False, True)
    )
    assert distance(held[0], streamed[0]) < 1e-5


def counting(client, server_round, arrays):
    """Clients that train as `attacked` and count; the Byzantine ones count too far."""
    weights = attacked(client, server_round, arrays[1:])
    return [np.full(3, (10**9 if client < Q else 0) + 1000 * server_round + client), *weights]


@BOTH
@ALL
def test_counters_stay_integers_which_no_distance_is_taken_of(api, name):
    """Flower's optimizers make floats of them, beside which the weights would count for nothing."""
    make = robust(api, name, num_byzantine=Q)
    (counter, *weights), _ = train(api, make, counting, 2, [np.zeros(3, "i8"), *START])
    np.testing.assert_array_equal(counter, np.full(3, 2007), strict=True)
    assert distance(weights, train(api, make, attacked, 2)[0]) < 1e-5


def test_what_the_optimizer_s_class_sends_to_clients_is_sent():
    strategy = MESSAGE.own.robust(MESSAGE.flower.FedProx, num_byzantine=1, proximal_mu=0.25)
    sent = MESSAGE.begin(strategy, range(M))
    assert sent[0].content["config"]["proximal-mu"] == 0.25


# Restarts. --------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("last", [0, 2])
@pytest.mark.parametrize(("kind", "name"), [*((robust, n) for n in OPTIONS), (hardened, "FedAdam")])
def test_a_training_that_is_stopped_goes_on_to_the_bit(
    api, kind, name, last, tmp_path, monkeypatch
):
    whole, recorded = train(
        api, kind(api, name, num_byzantine=Q, checkpoints=tmp_path / "whole"), attacked, 4
    )
    make = kind(api, name, num_byzantine=Q, checkpoints=tmp_path / "halves")
    aggregate = getattr(api.own.Hardened, api.method)

    def stop(strategy, server_round, *arguments):
        if server_round > last:
            raise RuntimeError("stopped")
        return aggregate(strategy, server_round, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(api.own.Hardened, api.method, stop)
        with pytest.raises(RuntimeError, match="stopped"):
            train(api, make, attacked, 4)
    again, same_record = train(api, make, attacked, 4)
    assert [a.tobytes() for a in again] == [a.tobytes() for a in whole]
    assert same_record == recorded


def test_a_wider_dtype_that_the_optimizer_makes_is_no_other_model(tmp_path):
    """Classic FedAdam returns float64 from float32, as its class in Flower does."""
    make = hardened(CLASSIC, "FedAdam", checkpoints=tmp_path)
    first, _ = train(CLASSIC, make, towards_one, 1)
    assert {a.dtype.name for a in first} == {"float64"}
    assert distance(train(CLASSIC, make, towards_one, 2)[0], first) > 0


def test_a_checkpoint_of_another_strategy_is_refused_in_a_sentence(tmp_path):
    private = MESSAGE.flower.DifferentialPrivacyServerSideFixedClipping
    make = hardened(MESSAGE, "FedAdam", checkpoints=tmp_path)
    wrapped = private(flower(MESSAGE, "FedAdam")(), 0.0, 5.0, M)
    train(MESSAGE, lambda **_: MESSAGE.own.Hardened(wrapped, checkpoints=tmp_path), towards_one, 1)
    with pytest.raises(ValueError, match=r"'strategy\.\w+': .* another strategy than FedAdam"):
        train(MESSAGE, make, towards_one, 2)


def silent_at_first(client, server_round, arrays):
    return None if server_round == 1 else towards_one(client, server_round, arrays)


@BOTH
@ALL
@pytest.mark.parametrize("kind", [hardened, partial(robust, num_byzantine=Q)])
def test_a_first_round_that_keeps_the_model_is_no_end(api, name, kind):
    assert distance(train(api, kind(api, name), silent_at_first, 2)[0], START) > 0.01


@BOTH
@ALL
def test_an_optimizer_that_fails_once_keeps_the_model_and_goes_on(api, name, caplog):
    kind, calls = getattr(api.flower, name), []

    def aggregate(strategy, *arguments):
        made = getattr(kind, api.method)(strategy, *arguments)
        calls.append(made)
        if len(calls) == 1:
            raise RuntimeError("once")
        return made

    failing = type("Failing", (kind,), {api.method: aggregate})
    make = partial(api.own.robust, failing, num_byzantine=Q, **OPTIONS[name])
    assert distance(train(api, make, attacked, 2)[0], START) > 0.01
    assert "the strategy failed, the model is kept: RuntimeError" in caplog.text


# What can be given. -----------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("name", ["FedMedian", "Krum", "QFedAvg", "FedXgbBagging"])
def test_strategies_that_take_no_mean_are_refused_by_name(api, name):
    kind = getattr(api.flower, name)
    for each, named in ((kind, name), (type("Own", (kind,), {}), r"(Own|FedXgb)")):
        with pytest.raises(TypeError, match=rf"strategy must .* got {named}"):
            api.own.robust(each, num_byzantine=1)


def test_a_subclass_takes_the_options_that_it_hands_on():
    class Own(MESSAGE.flower.FedAdam):
        def __init__(self, mine, **options):
            super().__init__(**options)
            self.mine = mine

    made = MESSAGE.own.robust(Own, num_byzantine=1, mine=7, eta=0.5)
    assert (made.strategy.mine, made.strategy.eta, made.strategy.min_train_nodes) == (7, 0.5, 3)
    with pytest.raises(TypeError, match=r"robust\(Own\) has no option etta=0\.5: did you mean eta"):
        MESSAGE.own.robust(Own, num_byzantine=1, mine=7, etta=0.5)
