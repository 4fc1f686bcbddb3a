"""The state of strategies in checkpoints."""

from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.common import Parameters, ndarrays_to_parameters
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from flwr_byz import state
from flwr_byz.history import History
from tests.support import malformed

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
ARRAYS = npst.arrays(
    npst.floating_dtypes(sizes=(16, 32, 64)) | npst.integer_dtypes() | npst.boolean_dtypes(),
    npst.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3),
)
VALUES = st.recursive(
    PLAIN | ARRAYS,
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(), parts, max_size=3),
    max_leaves=6,
)


def through_a_checkpoint(folder, holder, before):
    History(folder).keep(1, {"w": np.zeros(2)}, state.state_of(holder, before))
    with closing(History.resume(folder)) as back:
        assert back.finished == 1
        restored = SimpleNamespace()
        state.restore(restored, back.state)
        return restored


@given(value=VALUES)
@settings(max_examples=30)
@example(value=malformed.named(malformed.model_arrays(0.9)))
@example(value=ndarrays_to_parameters(malformed.model_arrays(0.9)))
@example(value=Parameters([b"any"], "bytes"))
def test_any_state_of_numbers_text_and_arrays_comes_back_from_a_checkpoint(tmp_path_factory, value):
    holder = SimpleNamespace()
    before = state.attributes(holder)
    holder.value = value
    restored = through_a_checkpoint(tmp_path_factory.mktemp("state"), holder, before)
    with np.printoptions(floatmode="unique"):  # all digits, and dtypes
        assert repr(restored.value) == repr(value)


@pytest.mark.parametrize(
    "unknown",
    [
        *(np.zeros(2, kind) for kind in ("g", "c8", object, "V8", [("a" * 2000, "f4")])),
        *(np.array([text]) for text in ("a", "")),
        *([np.zeros(2), object()], {1: 2.0}, {1}, SimpleNamespace()),
    ],
)
def test_state_that_no_checkpoint_can_hold_is_named_and_left_out(unknown, tmp_path, caplog):
    state._log_once.cache_clear()
    holder = SimpleNamespace()
    holder.accountant, holder.options = SimpleNamespace(), (1, 2)  # the one may have changed inside
    before = state.attributes(holder)
    holder.unknown, holder.known = unknown, 7
    assert vars(through_a_checkpoint(tmp_path, holder, before)) == {"known": 7}
    named = [line for line in caplog.messages if "checkpoints do not hold the strategy's" in line]
    assert [line.split(":")[0].split()[-1] for line in named] == ["accountant", "unknown"]
