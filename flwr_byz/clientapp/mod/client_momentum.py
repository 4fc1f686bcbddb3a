"""A mod that makes the clients of an existing ClientApp send their momentum."""

from dataclasses import KW_ONLY, dataclass
from logging import WARNING
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from flwr.supercore import log
from numpy.typing import NDArray

from ...checks import check_number
from ...settings import ReplyKind, check_reply_kind
from . import messages

Arrays = dict[str, NDArray[Any]]


def momentum(
    previous: NDArray[np.floating] | None, update: NDArray[Any], beta: float
) -> NDArray[np.floating]:
    """Return a client's momentum m_t = β·m_{t−1} + (1 − β)·u_t, with m_1 = u_1; 0 ≤ β < 1.

    Where updates scatter independently from round to round, the momentum scatters less, in the end
    by the factor √((1 − β)/(1 + β)): an attack has less to hide in (Karimireddy, He, Jaggi 2021,
    "Learning from History for Byzantine Robust Optimization").

    The `update` u_t holds real numbers in any shape: one array of a model, or the vectors of all
    clients, one a row. `previous` is m_{t−1}, of the same shape, or None in a client's first round.
    The result is a new array in the update's precision, but in float32 for float16, whose 11 bits
    round away what (1 − β)·u adds. Raises ValueError where β is out of range, or the shapes differ.
    """
    check_number("beta", beta, least=0, below=1)
    dtype = np.result_type(np.float32, update.dtype)
    if previous is None:
        return update.astype(dtype)
    if previous.shape != update.shape:
        shapes = f"{update.shape}, got {previous.shape}"
        raise ValueError(f"previous must be of the update's shape {shapes}")
    kept = np.multiply(previous, beta, dtype=dtype)
    return np.asarray(kept + np.multiply(update, 1 - beta, dtype=dtype))


@dataclass(eq=False)
class ClientMomentum:
    """Make the clients of a ClientApp, of either API, send momentum in place of their updates.

    ``ClientApp(..., mods=[ClientMomentum(beta=0.9)])`` replaces the float arrays of the app's
    training replies by the model that was sent plus the client's `momentum` (or, of gradients, by
    the momentum itself); integer and bool arrays, metrics and evaluation stay as they are. It
    averages a client's own noise away, but not what its data make it differ by; against that, its
    authors add batches drawn anew in each round, the strategies' `bucketing_seed`.

    The node's ``context.state`` keeps the momentum, in at least float32, over rounds in which the
    client is not asked. It starts afresh in a new run, so also where a server resumes from a
    checkpoint; where the names or shapes of the arrays have changed; and where the number of the
    round has not grown, since another training has begun.

    An update that is not finite is sent as it is, for the server to reject, and does not change the
    momentum. A mod listed before this one, such as `ByzantineMod`, changes what is sent, and one
    listed after it changes what enters the momentum.

    Parameters
    ----------
    beta : float, default 0.9
        β of the momentum, 0 ≤ β < 1.
    reply : {"weights", "gradients"}, default "weights"
        What the app returns: of weights, the update is the offset from the model that was sent.

    Raises ValueError where an option is out of range; when called, where weights are not of the
    model's names and shapes, or a message does not hold one ArrayRecord.
    """

    beta: float = 0.9
    _: KW_ONLY
    reply: ReplyKind = "weights"

    def __post_init__(self) -> None:
        check_number("beta", self.beta, least=0, below=1)
        check_reply_kind(self.reply)

    def __call__(self, message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Let the app reply, and replace its update by its momentum."""
        if not messages.asks_to_train(message):
            return call_next(message, context)
        sent = _arrays(messages.only_array_record(message)) if self.reply == "weights" else None
        if (reply := call_next(message, context)).has_error():
            return reply
        record = messages.only_array_record(reply)
        replied = _arrays(record)
        updates = _updates(replied, sent)
        if not all(np.isfinite(update).all() for update in updates.values()):
            log(WARNING, "the update is not finite: it is sent as it is, without momentum")
            return reply
        key = f"flwr-byz.momentum.{message.metadata.message_type}"
        number = messages.server_round(message)
        previous = _previous(context.state, key, number, updates)
        momenta = {n: momentum(previous.get(n), update, self.beta) for n, update in updates.items()}
        context.state[key] = ArrayRecord({name: Array(made) for name, made in momenta.items()})
        context.state[f"{key}.round"] = ConfigRecord({"server-round": number})
        with np.errstate(over="ignore"):  # the server rejects what leaves the range
            for name, made in momenta.items():
                whole = made if sent is None else made + sent[name]
                record[name] = Array(np.asarray(whole, replied[name].dtype))
        return reply


def _previous(state: RecordDict, key: str, number: int, updates: Arrays) -> Arrays:
    """Return the momentum of an earlier round and of the updates' shapes; empty without one."""
    if key not in state:
        return {}
    last = int(str(state.config_records[f"{key}.round"]["server-round"]))
    kept = _arrays(state.array_records[key])
    return {} if 0 < number <= last or _shapes(kept) != _shapes(updates) else kept


def _updates(replied: Arrays, sent: Arrays | None) -> Arrays:
    """Return how far a reply's float arrays lie from the model sent; without it, themselves."""
    floats = {name: array for name, array in replied.items() if array.dtype.kind == "f"}
    if sent is None:
        return floats
    offsets = {}
    for name, array in floats.items():
        origin = sent.get(name)
        if origin is None or origin.shape != array.shape:
            given = f"array {name!r} of the reply, of shape {array.shape},"
            raise ValueError(f"{given} is not in the model that was sent: {_shapes(sent)}")
        if origin.dtype.kind == "f":
            dtype = np.result_type(np.float32, array.dtype, origin.dtype)
            with np.errstate(over="ignore", invalid="ignore"):
                offsets[name] = np.asarray(np.subtract(array, origin, dtype=dtype))
    return offsets


def _shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


def _arrays(record: ArrayRecord) -> Arrays:
    return {name: array.numpy() for name, array in record.items()}
