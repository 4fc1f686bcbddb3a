"""Apps of either API whose clients send momentum, and the formula that they send it by."""

import pickle
from itertools import accumulate

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Error, Message, RecordDict
from flwr.common.serde import context_from_proto, context_to_proto
from hypothesis import given
from hypothesis import strategies as st

from flwr_byz import attacks
from flwr_byz.clientapp.mod import ByzantineMod, ClientMomentum, momentum
from tests.support import apis, app_grid, malformed
from tests.support.node import SENT, Node

UPDATES = [1.0, -2.0, 0.5, 4.0]
BOTH = pytest.mark.parametrize("api", ["message", "classic"])


@given(
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 12),
    st.sampled_from([(), (0, 3), (5, 3)]),
    st.sampled_from([("f2", "f4"), ("f4", "f4"), (">f4", "f4"), ("f8", "f8"), ("i8", "f8")]),
)
def test_momentum_is_the_weighted_sum_of_all_updates(beta, num_rounds, shape, dtypes):
    """In the precision of the updates, and at least float32."""
    updates = np.random.default_rng(0).normal(scale=9, size=(num_rounds, *shape)).astype(dtypes[0])
    kept, state = updates.copy(), None
    for update in updates:
        state = momentum(state, np.asarray(update), beta)
        assert isinstance(state, np.ndarray)
        assert (state.shape, state.dtype) == (shape, np.dtype(dtypes[1]))
    ages = np.arange(num_rounds)[::-1]
    weights = beta**ages * np.where(ages == num_rounds - 1, 1.0, 1 - beta)
    expected = np.tensordot(weights, updates.astype("f8"), 1)
    assert np.allclose(state, expected, rtol=1e-12, atol=500 * np.finfo(dtypes[1]).eps)
    state += 1  # a new array
    assert np.array_equal(updates, kept)


def test_a_beta_a_momentum_and_a_reply_that_cannot_be_are_refused():
    for beta in (-0.1, 1.0, np.nan):
        for make in (ClientMomentum, lambda beta: momentum(None, np.ones(2), beta)):
            with pytest.raises(ValueError, match=r"beta must be .* at least 0 and below 1, got"):
                make(beta)
    with pytest.raises(ValueError, match=r"update's shape \(3,\), got \(1,\)"):
        momentum(np.ones(1), np.ones(3), 0.9)
    with pytest.raises(ValueError, match="reply must be"):
        ClientMomentum(reply="models")


def by_hand(updates, beta):
    return np.array(list(accumulate(updates, lambda made, u: beta * made + (1 - beta) * u)))


def stored(node):
    """Return the dtypes of what a node keeps by name."""
    (record,) = node.context.state.array_records.values()
    return {name: array.numpy().dtype.str for name, array in record.items()}


@BOTH
@pytest.mark.parametrize(("beta", "numbered"), [(0.0, True), (0.9, True), (0.9, False)])
@pytest.mark.parametrize("reply", ["weights", "gradients"])
@pytest.mark.parametrize("dtypes", [("f4", "f8"), ("f2", "f2")])
def test_the_model_that_was_sent_plus_the_momentum_comes_back(api, beta, numbered, reply, dtypes):
    """Of gradients, the momentum itself; in at least float32, and no counter is kept."""
    node = Node(api, ClientMomentum(beta, reply=reply), gradients=reply == "gradients")
    for number, expected in enumerate(by_hand(UPDATES, beta)):
        sent = [np.full((2, 3), 5 + number, dtypes[0]), SENT[1] + number, np.array(1.0, dtypes[1])]
        made = node.ask(UPDATES[number], (number + 1) * numbered, sent)
        assert [(a.shape, a.dtype) for a in made] == [(a.shape, a.dtype) for a in sent]
        for array, origin in ((made[0], sent[0]), (made[2], sent[2])):
            exact = expected + (origin if reply == "weights" else 0)
            assert np.allclose(array, exact, rtol=4 * np.finfo(array.dtype).eps)
        assert np.array_equal(made[1], sent[1] + 1)  # as the app made it
        stored_by_ray = pickle.loads(pickle.dumps(node.context))
        node.context = context_from_proto(context_to_proto(stored_by_ray))  # by a SuperNode
    assert list(stored(node).values()) == ["<f4", "<f8" if dtypes[1] == "f8" else "<f4"]


@apis.BOTH
def test_in_a_training_mods_after_it_change_what_enters_it_and_mods_before_it_what_is_sent(api):
    shift = np.mean([1 + 0.01 * np.sin(node) for node in range(app_grid.NUM_NODES)])
    everyone, flipped = range(app_grid.NUM_NODES), np.array([-3, 1, 1])
    flip = ByzantineMod(attacks.SignFlip(3.0), when=lambda r: set(everyone if r == 1 else ()))
    own = ClientMomentum(0.8)
    for mods, sent in (([own, flip], by_hand(flipped, 0.8)), ([flip, own], flipped)):
        mean = api.gmom(num_batches=1, **api.initial(app_grid.MODEL))
        model = app_grid.trained(api, mean, mods, 3)
        assert np.allclose(np.concatenate([a.ravel() for a in model]), shift * sent.sum())


@pytest.mark.parametrize(
    "asked",  # update, round and momentum
    [
        [(2.0, 1, 2.0), (5.0, 2, 2.3), (4.0, 2, 4.0), (0.0, 9, 3.6)],  # another training: no later
        [(1.0, 1, 1.0), (np.nan, 2, np.nan), (0.0, 3, 0.9)],
        [(1.0, 1, 1.0), (np.inf, 2, np.inf), (0.0, 3, 0.9)],
        [(1.0, 1, 1.0), (3.0, 2, 3.0, {"kind": "train.other"}), (0.0, 2, 0.9)],
        [(1.0, 1, 1.0), *((u, u, u, {"kind": "evaluate"}) for u in (1, 2)), (0.0, 2, 0.9)],
        *(
            [(1.0, 1, 1.0), (3.0, 2, 3.0, {"sent": changed}), (1.0, 3, 2.8, {"sent": changed})]
            for changed in (SENT[:1], *([w, *SENT[1:]] for w in (SENT[0][:1], SENT[0].T)))
        ),
    ],
)
def test_what_is_no_later_finite_update_of_the_same_model_leaves_no_trace(asked):
    node = Node("message", ClientMomentum(0.9))
    node.app.train("other")(node.train)
    for update, server_round, expected, *options in asked:
        made = node.ask(update, server_round, **options[0] if options else {})
        assert made[0].flat[0] - 5 == pytest.approx(expected, nan_ok=True)


def reply_of(made):
    """Hand the mod what an app made of SENT; return what becomes of it, and the node's state."""
    malformed.in_a_run()
    context = Context(11, 1003, {}, RecordDict(), {})
    message = Message(RecordDict({"arrays": malformed.named(SENT)}), 1, "train")
    reply = ClientMomentum()(message, context, lambda m, _: Message(made, reply_to=m))
    return reply, context.state


def test_an_error_goes_out_as_it_is_and_leaves_no_trace():
    reply, state = reply_of(Error(2, "x"))
    assert (reply.error.code, reply.error.reason, dict(state)) == (2, "x", {})


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
        with pytest.raises(ValueError, match=f"needs one ArrayRecord .*, got {len(names)}"):
            reply_of(RecordDict({name: malformed.named(SENT) for name in names}))
