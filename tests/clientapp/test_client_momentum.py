"""Apps of either API whose clients send momentum, and the formula that they send it by."""

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import FitIns, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common.recorddict_compat import fitins_to_recorddict, recorddict_to_fitres
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.simulation import run_simulation
from hypothesis import given
from hypothesis import strategies as st

from clients.app import ChoosingClientApp
from flwr_byz import attacks
from flwr_byz.clientapp.mod import ByzantineMod, ClientMomentum, momentum
from flwr_byz.server.strategy import GeometricMedianOfMeans as ClassicStrategy
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans as MessageStrategy
from simulations.play import BACKEND
from tests.support import malformed

# The formula. ----------------------------------------------------------------------------------


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 12), st.integers(0, 100))
def test_momentum_is_the_weighted_sum_of_all_updates(beta, num_rounds, seed):
    updates = np.random.default_rng(seed).normal(size=(num_rounds, 5, 3))
    state = None
    for update in updates:
        state = momentum(state, update, beta)
    weights = [
        beta ** (num_rounds - 1 - t) * (1.0 if t == 0 else 1 - beta) for t in range(num_rounds)
    ]
    assert sum(weights) == pytest.approx(1.0)
    assert np.allclose(state, np.tensordot(weights, updates, 1), rtol=1e-12, atol=1e-13)


def test_beta_0_keeps_no_history_and_nothing_is_changed_in_place():
    first, second = np.ones(3), np.arange(3.0)
    state = momentum(None, first, 0.0)
    after = momentum(state, second, 0.0)
    assert np.array_equal(after, second)
    after += 1
    state += 1
    assert first.tolist() == [1, 1, 1]
    assert second.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("dtype", "kept"), [("f2", "f4"), ("f4", "f4"), (">f4", "f4"), ("f8", "f8"), ("i8", "f8")]
)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 2)])
def test_momentum_is_an_array_of_the_update_s_precision_and_at_least_float32(dtype, kept, shape):
    state = None
    for _ in range(2):
        state = momentum(state, np.ones(shape, dtype), 0.9)
        assert isinstance(state, np.ndarray)
        assert (state.shape, state.dtype) == (shape, np.dtype(kept))
    assert np.allclose(state, 1.0, rtol=1e-7)


def test_small_updates_of_float16_are_not_lost():
    """In float16 alone the momentum would be 12 % off after these 300 rounds, on average."""
    updates = (1e-6 * np.random.default_rng(0).normal(1.0, 3.0, size=(300, 1000))).astype("f2")
    state, alone, exact = None, updates[0], updates[0].astype("f8")
    beta = np.float16(0.9)
    for update in updates[1:]:
        state = momentum(updates[0] if state is None else state, update, 0.9)
        alone = beta * alone + (1 - beta) * update
        exact = momentum(exact, update.astype("f8"), 0.9)
    assert alone.dtype == np.float16
    scale = np.abs(exact).mean()
    assert np.abs(state - exact).mean() < 1e-6 * scale
    assert np.abs(alone - exact).mean() > 1e-2 * scale


@pytest.mark.parametrize("beta", [-0.1, 1.0, 2, float("nan"), float("inf")])
@pytest.mark.parametrize("make", [ClientMomentum, lambda beta: momentum(None, np.ones(2), beta)])
def test_a_beta_out_of_range_is_refused(make, beta):
    with pytest.raises(
        ValueError, match="beta must be a finite number of at least 0 and below 1, got"
    ):
        make(beta)


def test_a_momentum_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"update's shape \(3,\), got \(1,\)"):
        momentum(np.ones(1), np.ones(3), 0.9)


def test_a_reply_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="reply must be"):
        ClientMomentum(reply="models")


# The mod. --------------------------------------------------------------------------------------

SENT = [np.full((2, 3), 5.0, "f4"), np.array([4, 4], "i8"), np.array(1.0, "f8")]
UPDATES = [1.0, -2.0, 0.5, 4.0]


def by_hand(updates, beta=0.9):
    made = [updates[0]]
    for update in updates[1:]:
        made.append(beta * made[-1] + (1 - beta) * update)
    return made


class Client(NumPyClient):
    def __init__(self, trained):
        self.trained = trained

    def fit(self, parameters, config):
        return self.trained(parameters), 7, {"loss": 0.5}


class Node:
    """A node of either API whose app adds, or as gradients replies, an update of numbers."""

    def __init__(self, api, *mods, gradients=False):
        malformed.in_a_run()
        self.api, self.gradients = api, gradients
        self.context = Context(11, 1003, {"partition-id": 3}, RecordDict(), {})
        if api == "message":
            self.app = ClientApp(mods=list(mods))
            self.app.train()(self._train)
            self.app.evaluate()(self._train)
        else:
            self.app = ClientApp(
                client_fn=lambda context: Client(self.trained).to_client(), mods=list(mods)
            )

    def trained(self, arrays):
        origin = [0 * a if self.gradients and a.dtype.kind == "f" else a for a in arrays]
        return [
            np.asarray(a + (self.update if a.dtype.kind == "f" else 1), a.dtype) for a in origin
        ]

    def _train(self, message, context):
        record = message.content["arrays"]
        made = self.trained(record.to_numpy_ndarrays())
        record.clear()  # as an app does that is short of memory
        names = malformed.NAMES[: len(made)]
        arrays = ArrayRecord({n: Array(a) for n, a in zip(names, made, strict=True)})
        metrics = MetricRecord({"num-examples": 7, "loss": 0.5})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    def play(self, update, server_round=0, sent=SENT, kind="train"):
        """Return the arrays that come back in a round, where the app's update is this number."""
        self.update = update
        config = {"server-round": server_round} if server_round else {}
        if self.api == "message":
            records = {"arrays": malformed.named(sent), "config": ConfigRecord(config)}
            message = Message(RecordDict(records), dst_node_id=1, message_type=kind)
            content = self.app(message, self.context).content
            assert dict(content["metrics"]) == {"num-examples": 7, "loss": 0.5}
            return content["arrays"].to_numpy_ndarrays()
        content = fitins_to_recorddict(FitIns(ndarrays_to_parameters(sent), config), True)
        message = Message(content, dst_node_id=1, message_type=kind)
        result = recorddict_to_fitres(self.app(message, self.context).content, True)
        assert (result.num_examples, result.metrics) == (7, {"loss": 0.5})
        return parameters_to_ndarrays(result.parameters)

    def trains(self, updates, **options):
        """Return the first number that comes back in each of some rounds."""
        return [self.play(u, r, **options)[0].flat[0] for r, u in enumerate(updates, start=1)]


BOTH = pytest.mark.parametrize("api", ["message", "classic"])


@BOTH
@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_the_model_that_was_sent_plus_the_momentum_comes_back(api, beta):
    node = Node(api, ClientMomentum(beta))
    for server_round, expected in enumerate(by_hand(UPDATES, beta)):
        sent = [np.asarray(a + server_round, a.dtype) for a in SENT]  # the model moves, too
        arrays = node.play(UPDATES[server_round], server_round + 1, sent)
        assert [(a.shape, a.dtype) for a in arrays] == [(a.shape, a.dtype) for a in SENT]
        assert np.allclose(arrays[0], sent[0] + expected, rtol=1e-6)
        assert np.allclose(arrays[2], sent[2] + expected, rtol=1e-14)
        assert np.array_equal(arrays[1], sent[1] + 1)  # a counter: as the app made it


@BOTH
def test_of_gradients_the_momentum_itself_comes_back(api):
    node = Node(api, ClientMomentum(0.9, reply="gradients"), gradients=True)
    assert np.allclose(node.trains(UPDATES), by_hand(UPDATES), rtol=1e-6)
    _, counter, _ = node.play(0.0, 9, [SENT[0], SENT[1] + 20, SENT[2]])
    assert (counter.dtype, counter.tolist()) == (np.int64, [25, 25])


@BOTH
def test_rounds_without_a_number_go_on_as_well(api):
    node = Node(api, ClientMomentum(0.9))
    made = [node.play(update)[0].flat[0] - 5 for update in UPDATES]
    assert np.allclose(made, by_hand(UPDATES), atol=1e-6)


def test_the_state_holds_float_arrays_in_their_precision_and_no_others():
    node = Node("message", ClientMomentum(0.9))
    node.trains(UPDATES)
    (record,) = node.context.state.array_records.values()
    assert {name: array.numpy().dtype.str for name, array in record.items()} == {
        "w": "<f4",
        "b": "<f8",
    }


def test_evaluation_stays_as_it_is_with_arrays_or_without():
    node = Node("message", ClientMomentum(0.9))
    node.trains([1.0])
    made = [node.play(update, r, kind="evaluate")[0].flat[0] for r, update in ((1, 3.0), (2, 9.0))]
    assert made == [8.0, 14.0]
    assert node.play(1.0, 2)[0].flat[0] == pytest.approx(6.0)
    request = Message(RecordDict({"arrays": malformed.named(SENT)}), 1, "evaluate")
    loss = RecordDict({"metrics": MetricRecord({"loss": 0.5})})
    reply = ClientMomentum()(request, node.context, lambda m, _: Message(loss, reply_to=m))
    assert reply.content == loss


@BOTH
@pytest.mark.parametrize(
    "changed",
    [[np.ones((3, 3), "f4"), *SENT[1:]], SENT[:1], [SENT[0].reshape(3, 2), *SENT[1:]]],
    ids=["size", "number", "shape"],
)
def test_a_model_whose_shapes_have_changed_starts_afresh(api, changed):
    node = Node(api, ClientMomentum(0.9))
    node.trains(UPDATES)
    assert np.allclose(node.play(3.0, 5, changed)[0], changed[0] + 3.0)
    assert np.allclose(node.play(1.0, 6, changed)[0], changed[0] + 2.8)


def test_another_training_with_the_same_node_starts_afresh():
    node = Node("message", ClientMomentum(0.9))
    first, second = node.trains(UPDATES), node.trains(UPDATES)
    assert first == second
    last = len(UPDATES)
    assert node.play(UPDATES[-1], last)[0].flat[0] == 5 + UPDATES[-1]  # the same number is no later
    node.trains(UPDATES)
    assert node.play(0.0, 9)[0].flat[0] == pytest.approx(5 + 0.9 * by_hand(UPDATES)[-1])


def test_two_functions_that_train_have_a_momentum_each():
    node = Node("message", ClientMomentum(0.9))
    node.app.train("other")(node._train)
    node.play(1.0, 1)
    assert node.play(3.0, 2, kind="train.other")[0].flat[0] == 8.0
    assert node.play(0.0, 2)[0].flat[0] == pytest.approx(5.9)


@BOTH
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_an_update_that_is_not_finite_goes_out_and_leaves_no_trace(api, broken):
    node = Node(api, ClientMomentum(0.9))
    first, second, third = node.trains([1.0, broken, 0.0])
    assert not np.isfinite(second)
    assert (first, third) == (6.0, pytest.approx(5.9))


def test_an_error_goes_out_as_it_is_and_leaves_no_trace():
    malformed.in_a_run()
    message = Message(RecordDict({"arrays": malformed.named(SENT)}), 1, "train")
    context = Context(11, 1003, {}, RecordDict(), {})
    reply = ClientMomentum()(message, context, lambda m, _: Message(Error(2, "x"), reply_to=m))
    assert (reply.error.code, reply.error.reason) == (2, "x")
    assert not context.state


@BOTH
def test_a_byzantine_client_sends_a_false_momentum_and_keeps_the_true_one(api):
    node = Node(api, ByzantineMod(attacks.SignFlip(3.0)), ClientMomentum(0.9))
    assert np.allclose(node.trains(UPDATES), [5 - 3 * m for m in by_hand(UPDATES)], rtol=1e-6)


def test_a_mod_listed_after_it_changes_what_enters_the_momentum():
    node = Node(
        "message",
        ClientMomentum(0.9),
        ByzantineMod(attacks.SignFlip(3.0), when=lambda r: {3} if r == 1 else {}),
    )
    assert np.allclose(node.trains(UPDATES), np.add(5, by_hand([-3.0, *UPDATES[1:]])), rtol=1e-6)


def reply_of(made, mod, context=None):
    """Hand a mod the arrays that an app made of SENT, and return what becomes of them."""
    malformed.in_a_run()
    content = RecordDict({"arrays": malformed.named(SENT)})
    message = Message(content, dst_node_id=1, message_type="train")
    context = context or Context(11, 1003, {}, RecordDict(), {})
    return mod(message, context, lambda m, _: Message(made, reply_to=m)).content["arrays"]


def test_arrays_are_matched_by_their_names_whatever_their_order():
    trained = {"b": np.array(3.0), "v": SENT[1], "w": SENT[0] + np.float32(1)}
    record = ArrayRecord({name: Array(array) for name, array in trained.items()})
    made = reply_of(RecordDict({"arrays": record}), ClientMomentum())
    assert list(made) == ["b", "v", "w"]
    assert all(np.array_equal(made[name].numpy(), trained[name]) for name in trained)


def test_a_float16_model_stays_float16_and_its_momentum_is_float32():
    node = Node("message", ClientMomentum(0.9))
    sent = [array.astype("f2") for array in SENT]
    for server_round, expected in enumerate(by_hand(UPDATES)):
        made = node.play(UPDATES[server_round], server_round + 1, sent)
        assert all(array.dtype == np.float16 for array in made)
        assert np.allclose(made[0], 5 + expected, rtol=1e-3)
    (record,) = node.context.state.array_records.values()
    assert all(array.numpy().dtype == np.float32 for array in record.values())


def test_a_counter_that_comes_back_as_float_is_a_counter_still():
    record = malformed.named([SENT[0], np.array([7.0, 9.0]), SENT[2]])
    mod, context = ClientMomentum(), Context(11, 1003, {}, RecordDict(), {})
    for _ in range(2):
        made = reply_of(RecordDict({"arrays": record}), mod, context)
        assert made["v"].numpy().tolist() == [7.0, 9.0]
    (state,) = context.state.array_records.values()
    assert list(state) == ["w", "b"]


def test_float64_replies_of_a_float32_model_stay_float64():
    record = malformed.named([SENT[0] + np.float64(1e-12), SENT[1], SENT[2]])
    made = reply_of(RecordDict({"arrays": record}), ClientMomentum())
    assert made["w"].numpy().dtype == np.float64
    assert np.allclose(made["w"].numpy() - 5.0, 1e-12, rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    "made",
    [malformed.named([np.zeros((5, 5))]), ArrayRecord({"x": Array(np.zeros(3))})],
    ids=["shape", "name"],
)
def test_weights_that_are_not_in_the_model_are_refused(made):
    with pytest.raises(ValueError, match="is not in the model that was sent"):
        reply_of(RecordDict({"arrays": made}), ClientMomentum())


@pytest.mark.parametrize("records", [0, 2])
def test_a_reply_of_more_or_fewer_models_than_one_is_refused(records):
    made = RecordDict({f"arrays-{n}": malformed.named(SENT) for n in range(records)})
    with pytest.raises(ValueError, match=f"needs one ArrayRecord in a message, got {records}"):
        reply_of(made, ClientMomentum())


# Through Flower. -------------------------------------------------------------------------------

NUM_CLIENTS, NUM_ROUNDS = 4, 4


def update(client, server_round):
    return np.random.default_rng([client, server_round]).normal(size=6)


def trajectory(beta):
    """Return the model after each round, of the mean of the clients' momenta, by hand."""
    model, models = np.zeros(6), []
    momenta = [by_hand([update(c, r) for r in range(1, NUM_ROUNDS + 1)], beta) for c in range(4)]
    for made in zip(*momenta, strict=True):
        model = model + np.mean(made, axis=0)
        models.append(model)
    return models


@pytest.mark.slow
def test_in_a_simulation_the_momentum_lasts_from_round_to_round_in_both_apis():
    """Two trainings of the same virtual nodes in one run, of which the second starts afresh."""
    mods = [ClientMomentum(0.8)]
    message_app = ClientApp(mods=mods)

    @message_app.train()
    def train(message, context):
        server_round = message.content["config"]["server-round"]
        (model,) = message.content["arrays"].to_numpy_ndarrays()
        trained = model + update(context.node_config["partition-id"], server_round)
        metrics = MetricRecord({"num-examples": 1})
        records = {"arrays": ArrayRecord([trained]), "metrics": metrics}
        return Message(RecordDict(records), reply_to=message)

    class Partition(NumPyClient):
        def __init__(self, partition):
            self.partition = partition

        def fit(self, parameters, config):
            return [parameters[0] + update(self.partition, config["round"])], 1, {}

    def client_fn(context):
        return Partition(context.node_config["partition-id"]).to_client()

    classic_app = ClientApp(client_fn=client_fn, mods=mods)
    options = {
        "num_batches": 1,
        "fraction_evaluate": 0.0,
    }  # the mean: whose node is whose is all one
    models = {"message": {}, "classic": {}}
    server_app = ServerApp()

    @server_app.main()
    def main(grid, context):
        MessageStrategy(min_train_nodes=4, min_available_nodes=4, **options).start(
            grid,
            ArrayRecord([np.zeros(6)]),
            NUM_ROUNDS,
            60,
            evaluate_fn=lambda r, a: models["message"].update({r: a.to_numpy_ndarrays()[0]}),
        )
        strategy = ClassicStrategy(
            initial_parameters=ndarrays_to_parameters([np.zeros(6)]),
            evaluate_fn=lambda r, arrays, _: models["classic"].update({r: arrays[0]}),
            on_fit_config_fn=lambda server_round: {"round": server_round},
            min_fit_clients=4,
            min_available_clients=4,
            **options,
        )
        components = ServerAppComponents(
            strategy=strategy, config=ServerConfig(num_rounds=NUM_ROUNDS, round_timeout=60)
        )
        ServerApp(server_fn=lambda _: components)(grid, context)

    def choose(message, context):
        return message_app if "arrays" in message.content else classic_app

    run_simulation(server_app, ChoosingClientApp(choose), NUM_CLIENTS, backend_config=BACKEND)
    for api, of_rounds in models.items():
        assert set(of_rounds) == set(range(NUM_ROUNDS + 1)), api
        made = [of_rounds[r] for r in range(1, NUM_ROUNDS + 1)]
        assert np.allclose(made, trajectory(0.8), rtol=1e-12, atol=1e-13), api
    assert not np.allclose(trajectory(0.8), trajectory(0.0))
