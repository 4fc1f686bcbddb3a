"""Replies to rows: held until all are in, or added up as they arrive. Both fill the same rows.

Also what a round leaves of them in the audit trail.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .aggregation import Aggregate
from .aggregation.batches import replies_that_fill
from .aggregation.gram import Gram, form_and_measure, gram
from .aggregation.rows import BatchSums, Rows, StoredRows, Vector
from .audit import BatchRecord, RoundRecord, Verdict
from .identity import ClientId, identity_order
from .payload import Layout, Model
from .round import (
    Rejections,
    Reply,
    are_copies,
    distances_from,
    end,
    is_finite,
    model_of,
    screen,
)

# The batch of every client that was asked, in client order.
Grouping = Mapping[ClientId, int]


@dataclass(frozen=True, eq=False)
class Collected:
    """The accepted replies of a round, and the rows that they make."""

    replies: Sequence[Reply]  # in client order; without models where they were added up on arrival
    rows: Rows | None = None  # None where there is no reply
    measured: Gram | None = None
    members: Sequence[Sequence[ClientId]] = ()  # of each row
    vectors: Sequence[Vector] = ()  # of the members, row by row, where they are still held
    counters: Sequence[Sequence[NDArray[Any]]] = ()  # integer and bool arrays, reply by reply
    are_copies: bool = False  # whether all replies, at least two, are the same numbers
    batches: Sequence[int] = ()  # of each row, where replies were added up on arrival


@dataclass(frozen=True, eq=False)
class KeptRow:
    """A row of an earlier step, which counts until its batch holds a new reply."""

    step: int  # in which its last reply came
    place: int  # in the memory
    counters: Sequence[NDArray[Any]]


def hold(
    replies: Sequence[Reply],
    grouping: Grouping,
    centre: Vector | None,
    memory: NDArray[np.floating] | None,
    rejections: Rejections,
) -> Collected:
    """Form the rows of replies that are all in, one of each client; reject what is not finite.

    Whether a reply is finite is seen of its row: only members of a row that is not are looked at.
    A row of finite replies is not finite where their sum leaves the range of its dtype. Rows
    are offsets from `centre`; those of more than one member are stored in `memory` (k, d).
    """
    of_client = {reply.client: reply for reply in replies}
    members = _members(grouping, of_client)
    if not members:
        return Collected([])
    models = [[model_of(of_client[client]) for client in batch] for batch in members]
    vectors = [[model.floats() for model in batch] for batch in models]
    dtype = models[0][0].layout.precision
    own = None if memory is None else memory[: len(members)]
    rows, measured = form_and_measure(vectors, dtype, centre, own)
    broken = np.flatnonzero(~measured.finite)
    suspects = {client for row in broken for client in members[row]}
    finite = [r for r in replies if r.client not in suspects or is_finite(r, rejections)]
    if len(finite) < len(replies):
        return hold(finite, grouping, centre, memory, rejections)
    return Collected(
        [of_client[client] for client in grouping if client in of_client],
        rows,
        measured,
        members,
        [vector for batch in vectors for vector in batch],
        [model.counters() for batch in models for model in batch],
        are_copies([model for batch in models for model in batch]),
    )


def stream(
    replies: Iterable[Reply],
    grouping: Grouping,
    centre: Vector | None,
    layout: Layout,
    memory: NDArray[np.floating],
    rejections: Rejections,
    quorum: int | None = None,
    kept: Mapping[int, KeptRow] = {},
) -> Collected:
    """Add replies to their rows as they arrive, and let them go; of a client, the first counts.

    With a `quorum`, no more is read once so many batches hold the replies of half of their clients;
    those that hold none are represented by the row that is `kept` of them. Integer and bool arrays
    are kept of one reply a batch, that of the client that comes first.
    """
    place = {client: number for number, client in enumerate(grouping)}
    places = {batch: row.place for batch, row in kept.items()}
    sums = BatchSums(memory, [spec.size for spec in layout.floats], places)
    used: dict[ClientId, Reply] = {}
    counters = {batch: (len(place), row.counters) for batch, row in kept.items()}
    answered: set[ClientId] = set()
    missing = replies_that_fill(grouping.values())
    first: Model | None = None  # held until another reply differs
    for reply in replies:
        client = reply.client
        if client in answered:
            rejections.add(client, "answered more than once")
            continue
        answered |= grouping.keys() & {client}
        usable = screen([reply], grouping, rejections)
        if usable and is_finite(reply, rejections):
            if not used:
                first = reply.model
            elif first is not None and not are_copies([first, model_of(reply)]):
                first = None
            batch, number = grouping[client], place[client]
            base = centre if reply.base is None else reply.base
            sums.add(batch, model_of(reply).floats(), base, reply.scale)
            if batch not in counters or number < counters[batch][0]:
                counters[batch] = number, [values.copy() for values in model_of(reply).counters()]
            used[client] = replace(reply, model=None, base=None)
            missing[batch] -= 1
            if quorum is not None and sum(n <= 0 for n in missing.values()) == quorum:
                break
        del reply, usable  # before the next one is waited for
    end(replies)
    rows, filled = sums.rows()
    members = {batch: list[ClientId]() for batch in filled}
    for client, batch in grouping.items():
        if client in used:
            members[batch].append(client)
    return Collected(
        [used[client] for client in grouping if client in used],
        rows if used else None,
        gram(rows) if used else None,
        list(members.values()),
        counters=[counters[batch][1] for batch in filled],
        are_copies=first is not None and not kept and len(used) > 1,
        batches=filled,
    )


def record_of(
    kept: bool,
    asked: frozenset[ClientId],
    collected: Collected,
    rejections: Rejections,
    result: Aggregate | None,
    distances: Mapping[ClientId, float],
) -> RoundRecord:
    """Return what every client did, and how the batches fared."""
    clients = dict.fromkeys(sorted(asked, key=identity_order), Verdict("silent"))
    clients |= rejections.verdicts
    for number, members in enumerate(collected.members):
        for client in members:
            clients[client] = Verdict("used", number, distance=distances.get(client))
    if result is None:
        return RoundRecord(kept, None, [], clients)
    columns = (result.batch_weights.tolist(), result.batch_norms.tolist(), result.trimmed.tolist())
    batches = [BatchRecord(*column) for column in zip(*columns, strict=True)]
    gap = None if isnan(result.gap) else result.gap
    return RoundRecord(kept, gap, batches, clients)


def distances_of(
    collected: Collected, centre: Vector | None, result: Aggregate
) -> dict[ClientId, float]:
    """Return the distance of each reply from the aggregate; of its row, where it is not held."""
    vectors, groups = collected.vectors, collected.members
    if vectors:
        groups = [[client] for members in collected.members for client in members]
    else:
        assert isinstance(collected.rows, StoredRows)
        vectors, centre = [[row] for row in collected.rows.matrix], None
    measured = zip(groups, distances_from(vectors, centre, result.point), strict=True)
    return {client: distance for clients, distance in measured for client in clients}


def _members(grouping: Grouping, answered: Container[ClientId]) -> list[list[ClientId]]:
    """Return who answered of every batch of which anybody did, in client order."""
    batches: dict[int, list[ClientId]] = {}
    for client, batch in grouping.items():
        if client in answered:
            batches.setdefault(batch, []).append(client)
    return [batches[batch] for batch in sorted(batches)]
