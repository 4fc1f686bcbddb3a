"""Replies to rows: held until all are in, or added up as they arrive. Both fill the same rows."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .aggregation.gram import Gram, form_and_measure, gram
from .aggregation.rows import BatchSums, Rows, Vector
from .identity import ClientId
from .payload import Layout, MalformedReply, Model
from .round import Rejections, Reply, screen

# The batch of every client that was asked, in client order.
Grouping = Mapping[ClientId, int]


@dataclass(frozen=True, eq=False)
class Collected:
    """The accepted replies of a round, and the rows that they make.

    Attributes
    ----------
    replies : list of Reply
        In client order; of those that were added up on arrival without their models.
    rows, measured : Rows and Gram, or None
        None where there is no reply.
    members : list of lists of clients
        Of each row.
    vectors : list of Vector
        Of the members, row by row, where they are still held; else empty.
    counters : list
        Integer and bool arrays to take the median of.
    """

    replies: Sequence[Reply]
    rows: Rows | None = None
    measured: Gram | None = None
    members: Sequence[Sequence[ClientId]] = ()
    vectors: Sequence[Vector] = ()
    counters: Sequence[Sequence[NDArray[Any]]] = ()


def hold(
    replies: Sequence[Reply],
    grouping: Grouping,
    centre: Vector | None,
    memory: NDArray[np.floating] | None,
    rejections: Rejections,
) -> Collected:
    """Form the rows of replies that are all in; those that are not finite are rejected.

    Whether a reply is finite is seen of its row, so that only members of a row that is not are
    looked at.

    Parameters
    ----------
    replies : sequence of Reply
        One of each client, with a model.
    grouping : Grouping
    centre : Vector, optional
        What rows are offsets from.
    memory : ndarray (k, d), optional
        Where to store rows of more than one member.
    rejections : Rejections
    """
    collected = _form(replies, grouping, centre, memory)
    if collected.measured is None or collected.measured.finite.all():
        return collected
    broken = np.flatnonzero(~collected.measured.finite)
    suspects = frozenset(client for row in broken for client in collected.members[int(row)])
    finite = [r for r in replies if r.client not in suspects or is_finite(r, rejections)]
    if len(finite) == len(replies):  # their sum leaves the range of float32
        return collected
    return _form(finite, grouping, centre, memory)


def stream(
    replies: Iterable[Reply],
    asked: frozenset[ClientId],
    grouping: Grouping,
    centre: Vector | None,
    layout: Layout,
    memory: NDArray[np.floating],
    rejections: Rejections,
) -> Collected:
    """Add replies to their rows as they arrive, and let them go; of a client, the first counts.

    Integer and bool arrays are kept of one reply a batch, that of the client that comes first.
    """
    place = {client: number for number, client in enumerate(grouping)}
    sums = BatchSums(memory, [spec.size for spec in layout.floats], centre)
    kept: list[Reply] = []
    counters: dict[int, tuple[int, list[NDArray[Any]]]] = {}
    answered: set[ClientId] = set()
    for reply in replies:
        client = reply.client
        if client in answered:
            rejections.add(client, "answered more than once")
            continue
        answered |= asked & {client}
        usable = screen([reply], asked, rejections)
        if usable and is_finite(reply, rejections):
            model, batch = model_of(reply), grouping[client]
            sums.add(batch, model.floats())
            if batch not in counters or place[client] < counters[batch][0]:
                counters[batch] = place[client], [values.copy() for values in model.counters()]
            kept.append(Reply(client, None, reply.metrics, reply.payload))
            del model
        del reply, usable  # before the next one is waited for
    kept.sort(key=lambda reply: place[reply.client])
    if not kept:
        return Collected([])
    rows, filled = sums.rows()
    return Collected(
        kept,
        rows,
        gram(rows),
        members=[[r.client for r in kept if grouping[r.client] == batch] for batch in filled],
        counters=[counters[batch][1] for batch in filled],
    )


def model_of(reply: Reply) -> Model:
    """Return the model of a reply that has one."""
    assert reply.model is not None
    return reply.model


def is_finite(reply: Reply, rejections: Rejections) -> bool:
    """Tell whether a reply's arrays are finite; note it where they are not."""
    try:
        model_of(reply).check_finite()
    except MalformedReply as error:
        rejections.add(reply.client, str(error))
        return False
    return True


def _form(
    replies: Sequence[Reply],
    grouping: Grouping,
    centre: Vector | None,
    memory: NDArray[np.floating] | None,
) -> Collected:
    of_client = {reply.client: reply for reply in replies}
    batches: dict[int, list[ClientId]] = {}
    for client, batch in grouping.items():
        if client in of_client:
            batches.setdefault(batch, []).append(client)
    if not batches:
        return Collected([])
    members = [batches[batch] for batch in sorted(batches)]
    models = [[model_of(of_client[client]) for client in batch] for batch in members]
    vectors = [[model.floats() for model in batch] for batch in models]
    dtype = models[0][0].layout.precision
    memory = None if memory is None else memory[: len(members)]
    rows, measured = form_and_measure(vectors, dtype, centre, memory)
    return Collected(
        [of_client[client] for client in grouping if client in of_client],
        rows,
        measured,
        members,
        [vector for batch in vectors for vector in batch],
        [model.counters() for batch in models for model in batch],
    )
