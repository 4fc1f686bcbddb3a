"""Apps of either API whose clients send momentum, and the formula that they send it by."""

import pickle
from itertools import accumulate

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.common.serde import context_from_proto, context_to_proto
from hypothesis import given
from hypothesis import strategies as st

from flwr_byz import attacks
from flwr_byz.clientapp.mod import ByzantineMod, ClientMomentum, momentum
from tests.support import apis, app_grid, malformed
from tests.support.node import SENT, Node

UPDATES = [1.0, -2.0, 0.5, 4.0]
BOTH = pytest.mark.parametrize("api", ["message", "classic"])


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 12), st.integers(0, 100))
def test_momentum_is_the_weighted_sum_of_all_updates(beta, num_rounds, seed):
    updates = np.random.default_rng(seed).normal(size=(num_rounds, 5, 3))
    kept, state = updates.copy(), None
    for update in updates:
        state = momentum(state, update, beta)
    ages = np.arange(num_rounds)[::-1]
    weights = beta**ages * np.where(ages == num_rounds - 1, 1.0, 1 - beta)
    assert sum(weights) == pytest.approx(1.0)
    assert np.allclose(state, np.tensordot(weights, updates, 1), rtol=1e-12, atol=1e-13)
    state += 1  # a new array
    assert np.array_equal(updates, kept)


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


def test_a_beta_a_momentum_and_a_reply_that_cannot_be_are_refused():
    said = "beta must be a finite number of at least 0 and below 1, got"
    for beta in (-0.1, 1.0, 2, np.nan, np.inf):
        for make in (ClientMomentum, lambda beta: momentum(None, np.ones(2), beta)):
            with pytest.raises(ValueError, match=said):
                make(beta)
    with pytest.raises(ValueError, match=r"update's shape \(3,\), got \(1,\)"):
        momentum(np.ones(1), np.ones(3), 0.9)
    with pytest.raises(ValueError, match="reply must be"):
        ClientMomentum(reply="models")


def by_hand(updates, beta=0.9):
    return np.array(list(accumulate(updates, lambda made, u: beta * made + (1 - beta) * u)))


def trains(node, updates):
    """Return the first number that comes back in each of some rounds."""
    return [node.ask(u, number)[0].flat[0] for number, u in enumerate(updates, start=1)]


def stored(node):
    """Return the dtypes of what a node keeps by name."""
    (record,) = node.context.state.array_records.values()
    return {name: array.numpy().dtype.str for name, array in record.items()}


@BOTH
@pytest.mark.parametrize("beta", [0.0, 0.9])
@pytest.mark.parametrize("reply", ["weights", "gradients"])
@pytest.mark.parametrize("dtypes", [("f4", "f8"), ("f2", "f2")])
def test_the_model_that_was_sent_plus_the_momentum_comes_back(api, beta, reply, dtypes):
    """Of gradients, the momentum itself; in at least float32, and no counter is kept."""
    node = Node(api, ClientMomentum(beta, reply=reply), gradients=reply == "gradients")
    for number, expected in enumerate(by_hand(UPDATES, beta)):
        sent = [np.full((2, 3), 5 + number, dtypes[0]), SENT[1] + number, np.array(1.0, dtypes[1])]
        made = node.ask(UPDATES[number], number + 1, sent)
        assert [(a.shape, a.dtype) for a in made] == [(a.shape, a.dtype) for a in sent]
        for array, origin in ((made[0], sent[0]), (made[2], sent[2])):
            exact = expected + (origin if reply == "weights" else 0)
            assert np.allclose(array, exact, rtol=4 * np.finfo(array.dtype).eps)
        assert np.array_equal(made[1], sent[1] + 1)  # as the app made it
    assert list(stored(node).values()) == ["<f4", "<f8" if dtypes[1] == "f8" else "<f4"]


@BOTH
@pytest.mark.parametrize(
    "store",  # as a SuperNode and as Ray do it
    [lambda c: context_from_proto(context_to_proto(c)), lambda c: pickle.loads(pickle.dumps(c))],
)
@pytest.mark.parametrize("numbered", [True, False])
def test_the_momentum_lasts_while_the_context_is_stored_between_rounds(api, store, numbered):
    node, made = Node(api, ClientMomentum(0.9)), []
    for number, update in enumerate(UPDATES, start=1):
        made.append(node.ask(update, number * numbered)[0].flat[0] - 5)
        node.context = store(node.context)
    assert np.allclose(made, by_hand(UPDATES), atol=1e-6)


@apis.BOTH
def test_in_a_training_the_momentum_lasts_from_round_to_round(api):
    """The first of the rounds trains with -3 times the update, through the mod listed after."""
    shift = np.mean([1 + 0.01 * np.sin(node) for node in range(app_grid.NUM_NODES)])
    everyone = range(app_grid.NUM_NODES)
    flip = ByzantineMod(attacks.SignFlip(3.0), when=lambda r: set(everyone if r == 1 else ()))
    mean = api.gmom(num_batches=1, **api.initial(app_grid.MODEL))
    model = app_grid.trained(api, mean, [ClientMomentum(0.8), flip], 3)
    expected = shift * by_hand([-3, 1, 1], 0.8).sum()
    assert np.allclose(np.concatenate([a.ravel() for a in model]), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "changed",
    [[np.ones((3, 3), "f4"), *SENT[1:]], SENT[:1], [SENT[0].reshape(3, 2), *SENT[1:]]],
    ids=["size", "number", "shape"],
)
def test_a_model_whose_shapes_have_changed_starts_afresh(changed):
    node = Node("message", ClientMomentum(0.9))
    trains(node, UPDATES)
    assert np.allclose(node.ask(3.0, 5, changed)[0], changed[0] + 3.0)
    assert np.allclose(node.ask(1.0, 6, changed)[0], changed[0] + 2.8)


@BOTH
def test_another_training_with_the_same_node_starts_afresh(api):
    node = Node(api, ClientMomentum(0.9))
    assert trains(node, UPDATES) == trains(node, UPDATES)
    last = len(UPDATES)
    assert node.ask(UPDATES[-1], last)[0].flat[0] == 5 + UPDATES[-1]  # the same number is no later
    trains(node, UPDATES)
    assert node.ask(0.0, 9)[0].flat[0] == pytest.approx(5 + 0.9 * by_hand(UPDATES)[-1])


def test_two_functions_that_train_have_a_momentum_each():
    node = Node("message", ClientMomentum(0.9))
    node.app.train("other")(node.train)
    node.ask(1.0, 1)
    assert node.ask(3.0, 2, kind="train.other")[0].flat[0] == 8.0
    assert node.ask(0.0, 2)[0].flat[0] == pytest.approx(5.9)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_an_update_that_is_not_finite_goes_out_and_leaves_no_trace(broken):
    made = trains(Node("message", ClientMomentum(0.9)), [1.0, broken, 0.0])
    assert made == pytest.approx([6.0, broken, 5.9], nan_ok=True)


@BOTH
def test_mods_before_it_change_what_is_sent_and_mods_after_it_what_enters_the_momentum(api):
    flip = ByzantineMod(attacks.SignFlip(3.0), when=lambda r: {3} if r != 2 else {})
    sent = [m if r == 2 else -3 * m for r, m in enumerate(by_hand(UPDATES), start=1)]
    made = trains(Node(api, flip, ClientMomentum(0.9)), UPDATES)
    assert np.allclose(made, np.add(5, sent), rtol=1e-6)
    entered = [u if r == 2 else -3 * u for r, u in enumerate(UPDATES, start=1)]
    made = trains(Node(api, ClientMomentum(0.9), flip), UPDATES)
    assert np.allclose(made, 5 + by_hand(entered), rtol=1e-6)


def reply_of(made, kind="train"):
    """Hand the mod what an app made of SENT; return what becomes of it, and the node's state."""
    malformed.in_a_run()
    context = Context(11, 1003, {}, RecordDict(), {})
    message = Message(RecordDict({"arrays": malformed.named(SENT)}), 1, kind)
    reply = ClientMomentum()(message, context, lambda m, _: Message(made, reply_to=m))
    return reply, context.state


def test_errors_and_evaluations_go_out_as_they_are_and_leave_no_trace():
    reply, state = reply_of(Error(2, "x"))
    assert (reply.error.code, reply.error.reason, dict(state)) == (2, "x", {})
    loss = RecordDict({"metrics": MetricRecord({"loss": 0.5})})
    reply, state = reply_of(loss, "evaluate")
    assert (reply.content, dict(state)) == (loss, {})
    node = Node("message", ClientMomentum(0.9))
    trains(node, [1.0])
    made = [node.ask(update, r, kind="evaluate")[0].flat[0] for r, update in ((1, 3.0), (2, 9.0))]
    assert made == [8.0, 14.0]
    assert node.ask(1.0, 2)[0].flat[0] == pytest.approx(6.0)


def test_arrays_are_matched_by_their_names_whatever_their_order():
    trained = {"b": np.array(3.0), "v": SENT[1], "w": SENT[0] + np.float32(1)}
    record = ArrayRecord({name: Array(array) for name, array in trained.items()})
    made = reply_of(RecordDict({"arrays": record}))[0].content["arrays"]
    assert list(made) == ["b", "v", "w"]
    assert all(np.array_equal(made[name].numpy(), trained[name]) for name in trained)


def test_replies_of_another_dtype_keep_it_and_a_counter_that_became_float_is_one_still():
    node, like = Node("message", ClientMomentum()), [a.astype("f8") for a in SENT]
    for server_round in (1, 2):
        made = node.ask(1e-12, server_round, like=like)
        assert [array.dtype for array in made] == ["f8"] * 3
        assert np.allclose(made[0] - 5.0, 1e-12, rtol=1e-2, atol=0)
        assert (made[1] == SENT[1] + 1e-12).all()
    assert list(stored(node)) == ["w", "b"]


def test_a_reply_that_is_no_model_of_the_one_sent_is_refused():
    for record in (malformed.named([np.zeros((5, 5))]), ArrayRecord({"x": Array(np.zeros(3))})):
        with pytest.raises(ValueError, match="is not in the model that was sent"):
            reply_of(RecordDict({"arrays": record}))
    for names in ("", "ab"):
        said = f"needs one ArrayRecord in a message, got {len(names)}"
        with pytest.raises(ValueError, match=said):
            reply_of(RecordDict({name: malformed.named(SENT) for name in names}))
