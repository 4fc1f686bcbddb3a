"""Pulls within limits: for each, a copy of Flower's HTTP grid in which every answer is checked.

Nothing of Flower or httpx is changed, nor the grid: the copy has a copy of its HTTP client, and
Flower's own code does the pull. What this relies on is looked for when a grid is wrapped.
"""

import inspect
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from logging import WARNING
from typing import Any, get_type_hints

import httpx
import numpy as np
from flwr.app import Array, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.supercore import log

from .limits import Limits

_METHODS = {
    "PullMessages": (("messages_list", "message_object_trees"), Limits.pull_messages),
    "PullObject": (("object_found", "object_available", "object_content"), Limits.pull_object),
}

_PLAIN = {"accept-encoding": "identity"}  # a little that is packed unpacks to a lot
_OFF = "PROTECTION IS OFF: %s (%s: no %s as expected)"
_WITHOUT = {
    "_runtime_client": "a reply may take any number of bytes, in one object or in many, unfold to "
    "any number, have metrics of any size, name one object any number of times and take any time",
    "PullMessages": "an object that a reply names many times is pulled as many times",
    "PullObject": "a reply may take any number of bytes, unfold to any number, have metrics of any "
    "size and take any time",
    "event_hooks": "one object of a reply may take any number of bytes and any time",
    "Array.deflate": "the arrays of a reply may unfold to any number of bytes, and its metrics be "
    "of any size",
}


class BoundedPull:
    """Pulls the replies that wait in a grid, within limits unless the grid is in memory."""

    def __init__(self, grid: Grid) -> None:
        self._grid: Any = grid
        self._hooks = frozenset[str]()
        if is_in_memory(grid):
            return
        self._hooks = frozenset(_hooks(grid))
        missing = [hook for hook in _WITHOUT if hook not in self._hooks]
        for hook in missing if self._hooks else missing[:1]:  # the others need the first
            log(WARNING, _OFF, _WITHOUT[hook], type(grid).__name__, hook)

    def __call__(self, message_id: str, limits: Limits) -> list[Message]:
        """Return the replies there are; ReplyTooLarge or TimeoutError where one takes too much."""
        grid = self._within(limits) if self._hooks else self._grid
        return list(grid.pull_messages([message_id]))

    def _within(self, limits: Limits) -> Any:
        """Return a copy of the grid for one pull."""
        limits.is_counting = "Array.deflate" in self._hooks
        inner = copy_of(self._grid._runtime_client)
        if "event_hooks" in self._hooks:
            hooks = inner._client.event_hooks
            inner._client = copy_of(inner._client)  # on the same connections
            inner._client.event_hooks = {
                "request": [*hooks["request"], lambda request: request.headers.update(_PLAIN)],
                "response": [*hooks["response"], limits.bound],
            }
        grid = copy_of(self._grid)
        grid._client = outer = copy_of(inner)  # another: no cycle of references keeps a reply
        for name, (_, check) in _METHODS.items():
            if name in self._hooks:
                setattr(outer, name, partial(check, limits, getattr(inner, name)))
        return grid


def copy_of(thing: Any) -> Any:
    """Return a shallow copy of an object; `copy.copy` would leave an attribute at its class."""
    made = object.__new__(type(thing))
    vars(made).update(vars(thing))
    return made


def is_in_memory(grid: Grid) -> bool:
    """Say whether a grid is that of a simulation, whose replies are in this process already."""
    return any(kind.__name__ == "InMemoryGrid" for kind in type(grid).__mro__)


def _hooks(grid: Any) -> Iterator[str]:
    """Yield those keys of `_WITHOUT` that are as the limits rely on them."""
    try:
        stub, view = copy_of(grid._runtime_client), copy_of(grid)
        view._client = stub
        if view._runtime_client is not stub:
            return
    except Exception:  # it is no grid of Flower's that can be copied
        return
    yield "_runtime_client"
    for name, (fields, _) in _METHODS.items():
        with suppress(Exception):  # it is another method, or none
            method = getattr(stub, name)
            inspect.signature(method).bind(None)
            if set(fields) <= set(get_type_hints(method)["return"].DESCRIPTOR.fields_by_name):
                yield name
    client = getattr(stub, "_client", None)
    if isinstance(client, httpx.Client) and hasattr(client, "event_hooks"):
        yield "event_hooks"
    with suppress(Exception):  # Flower's objects are of another form than what `Limits` counts
        array, limits = Array(np.arange(3.0)), Limits(1 << 20, 0.0)
        records = [MetricRecord({"loss": 0.5}), ConfigRecord({"a": "b"})]
        for part in (*array.children.values(), array, *records):
            limits.count(part.object_id, part.deflate())
        size = sum(len(record.deflate()) for record in records)
        if (limits.unfolded, limits.metrics) == (len(array.data), size):
            yield "Array.deflate"
