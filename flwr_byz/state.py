"""The state of a strategy of Flower's, such as an optimizer's moments, for a checkpoint.

Flower's strategies keep their state in plain attributes: numbers, arrays, records. Those that have
changed since training began are its state; options, which stay as they were given, are not.
"""

from dataclasses import dataclass, field
from functools import cache, reduce
from logging import WARNING
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.common import Parameters
from flwr.supercore import log
from numpy.typing import NDArray

_log_once = cache(log)
_PLAIN = (type(None), bool, int, float, str)


@dataclass(frozen=True, eq=False)
class State:
    """Attributes by their dotted names, as JSON in which numbers stand for `arrays`."""

    tree: dict[str, Any] = field(default_factory=dict)
    arrays: list[NDArray[Any]] = field(default_factory=list)


def attributes(strategy: object, prefix: str = "") -> dict[str, Any]:
    """Return the attributes of a strategy, and of a strategy that it wraps, by dotted name."""
    package = __name__.partition(".")[0] + "."
    is_ours = any(kind.__module__.startswith(package) for kind in type(strategy).__mro__)
    found: dict[str, Any] = {}
    for name, value in vars(strategy).items():
        if is_ours and (name.startswith("_") or name == "settings"):
            continue  # set anew in each round
        if name == "strategy" and hasattr(value, "__dict__"):
            found |= attributes(value, f"{prefix}{name}.")
        elif not callable(value):
            found[prefix + name] = value
    return found


def state_of(strategy: object, before: dict[str, Any]) -> State:
    """Return what has changed since `before`, what `attributes` returned then."""
    state = State()
    for name, value in attributes(strategy).items():
        if name in before and _is_same(before[name], value):
            continue
        try:
            state.tree[name] = _packed(value, state.arrays)
        except TypeError as error:
            _log_once(WARNING, "checkpoints do not hold the strategy's %s: %s", name, str(error))
    return state


def restore(strategy: object, state: State) -> None:
    """Set the attributes of a strategy to those of a state.

    Raises ValueError where the state is of one that wraps another, and the strategy does not.
    """
    owners = {"", *(name.rpartition(".")[0] for name in attributes(strategy))}
    if others := [name for name in state.tree if name.rpartition(".")[0] not in owners]:
        text = f"the checkpoint holds {others[0]!r}: it is of another strategy than"
        raise ValueError(f"{text} {type(strategy).__name__}")
    put_back(strategy, {n: _unpacked(packed, state.arrays) for n, packed in state.tree.items()})


def put_back(strategy: object, values: dict[str, Any]) -> None:
    """Set the attributes of a strategy by their dotted names, as `attributes` returns them."""
    for name, value in values.items():
        *path, last = name.split(".")
        setattr(reduce(getattr, path, strategy), last, value)


def _is_same(before: object, after: object) -> bool:
    """Say whether a value is the one before; what may have been written to counts as another."""
    if isinstance(after, _PLAIN):
        return before == after
    return before is after and isinstance(after, bytes | tuple | Parameters | ArrayRecord)


def _packed(value: object, arrays: list[NDArray[Any]]) -> Any:
    """Return a value as JSON; put its arrays into the list."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf" and value.itemsize <= 8:
        arrays.append(value)
        return {"array": len(arrays) - 1}
    if isinstance(value, ArrayRecord):
        return {"record": {k: _packed(a.numpy(), arrays) for k, a in value.items()}}
    if isinstance(value, Parameters):
        tensors = [_packed(np.frombuffer(data, np.uint8), arrays) for data in value.tensors]
        return {"parameters": tensors, "type": value.tensor_type}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _packed(part, arrays) for key, part in value.items()}}
    if isinstance(value, list):
        return {"list": [_packed(part, arrays) for part in value]}
    raise TypeError(f"{type(value).__name__} is neither numbers, text, arrays nor records of them")


def _unpacked(packed: Any, arrays: list[NDArray[Any]]) -> Any:
    match packed:
        case {"array": number}:
            return arrays[number].copy()
        case {"record": entries}:
            return ArrayRecord({k: Array(_unpacked(e, arrays)) for k, e in entries.items()})
        case {"parameters": tensors, "type": kind}:
            return Parameters([_unpacked(data, arrays).tobytes() for data in tensors], kind)
        case {"dict": entries}:
            return {key: _unpacked(entry, arrays) for key, entry in entries.items()}
        case {"list": entries}:
            return [_unpacked(entry, arrays) for entry in entries]
        case _:
            return packed
