"""What a round is made of, whatever the API: replies, rejections, batches, the step."""

from collections import Counter
from collections.abc import (
    Collection,
    Container,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field, replace
from logging import ERROR, WARNING
from typing import Any

import numpy as np
from flwr.supercore import log
from numpy.typing import NDArray

from .aggregation.rows import Columns, Vector, cut
from .aggregation.threads import map_in_threads, one_blas_thread
from .audit import Verdict
from .identity import ClientId
from .logs import escaped
from .payload import Layout, MalformedReply, Model, OtherLayout, pieces

UNKNOWN = ""
COPIES = (
    "all %d replies are the same numbers: no rule protects against one author of all of them, so "
    "the model is kept. Flower's SecAgg workflows write one mean into every reply: leave them out"
)

_MAX_LOGGED_REJECTIONS = 10
_MAX_REASON = 300  # characters
_STEPPED = 1 << 17  # coordinates that are stepped together


@dataclass(frozen=True, eq=False, slots=True)
class Reply:
    """What came back from a client; its arrays are checked against the model that was sent."""

    client: ClientId  # `UNKNOWN` where Flower does not say whose error it is
    model: Model | None  # None where it cannot be used, is no longer held, or was not asked for
    metrics: Mapping[str, object] = field(default_factory=dict)  # claimed, unchecked
    payload: Any = None  # the reply as it came: FitRes, RecordDict, ...
    reason: str | Exception = ""  # why it cannot be used; empty where it can
    is_error: bool = False  # an error does not show that the client is Byzantine
    base: Vector | None = None  # the weights that it was trained from; None for those sent last
    scale: float = 1.0  # what its update, or gradient, is multiplied by


class Rejections(list[tuple[ClientId, Verdict]]):
    """Replies that count as no message, in order, and why; the first ones are logged."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[str, str] = {}

    def add(self, client: ClientId, reason: str | Exception, *, is_error: bool = False) -> None:
        """Note and log a rejection; an error does not show that a client is Byzantine."""
        text = escaped(str(reason) or repr(reason), _MAX_REASON)
        self._kinds[text] = "failed alike" if is_error else "were rejected alike"
        if isinstance(reason, OtherLayout):
            self._kinds[text] = "sent the same other layout"
        if len(self) < _MAX_LOGGED_REJECTIONS:
            log(WARNING, "\t> Rejected the reply of client %s: %s", escaped(client), text)
        elif len(self) == _MAX_LOGGED_REJECTIONS:
            log(WARNING, "\t> More replies were rejected; only the first ones are listed")
        self.append((client, Verdict("error" if is_error else "rejected", reason=text)))

    def most_common(self, asked: Collection[ClientId]) -> tuple[int, str, str]:
        """Return how many clients were rejected for the most common reason, it, and what it was."""
        reasons = {client: verdict.reason for client, verdict in self if client in asked}
        if not reasons:
            return 0, "", ""
        ((reason, number),) = Counter(reasons.values()).most_common(1)
        return number, reason, self._kinds[reason]

    @property
    def num_unknown(self) -> int:
        """Number of errors of which it is not known whose they are."""
        return sum(client == UNKNOWN for client, _ in self)

    @property
    def malformed(self) -> set[ClientId]:
        """Clients of whom a reply was malformed."""
        return {client for client, verdict in self if verdict.reply == "rejected"} - {UNKNOWN}

    @property
    def verdicts(self) -> dict[ClientId, Verdict]:
        """The last verdict on each client of whom a reply was rejected."""
        return {client: verdict for client, verdict in self if client != UNKNOWN}


def numbered(replies: Iterable[Reply]) -> Iterator[Reply]:
    """Tell replies of one identity apart by number, where it is not known who was asked."""
    times_seen: Counter[ClientId] = Counter()
    for reply in replies:
        seen = times_seen[reply.client]
        times_seen[reply.client] += 1
        is_again = seen > 0 and reply.client != UNKNOWN
        yield replace(reply, client=f"{reply.client} #{seen}") if is_again else reply


def received(
    replies: Iterable[Reply], asked: frozenset[ClientId] | None, rejections: Rejections
) -> tuple[frozenset[ClientId], list[Reply]]:
    """Return the clients that were asked, who answered where that is not known, and `screen`."""
    replies = list(numbered(replies) if asked is None else replies)
    usable = screen(replies, asked, rejections)
    if asked is None:
        asked = frozenset(reply.client for reply in replies) - {UNKNOWN}
    return asked, usable


def screen(
    replies: Sequence[Reply], asked: Container[ClientId] | None, rejections: Rejections
) -> list[Reply]:
    """Return the usable replies, of each client the only one; note the others.

    Where `asked` is None, it is not known who was asked.
    """
    times = Counter(reply.client for reply in replies if not reply.is_error)
    usable = []
    for reply in replies:
        reason = reply.reason
        if not reply.is_error:
            if asked is not None and reply.client not in asked:
                reason = "was not asked"
            elif times[reply.client] > 1:
                reason = "answered more than once"
        if reason:
            rejections.add(reply.client, reason, is_error=reply.is_error)
        else:
            usable.append(reply)
    return usable


def end(replies: Iterable[Reply]) -> None:
    """End a generator of replies that may have more; it lets go of the last one that it gave."""
    if isinstance(replies, Generator):
        replies.close()


def model_of(reply: Reply) -> Model:
    """Return the model of a reply that has one."""
    assert reply.model is not None
    return reply.model


def is_finite(reply: Reply, rejections: Rejections) -> bool:
    """Tell whether a reply's arrays are finite; note it where they are not."""
    try:
        model_of(reply).check_finite()
    except MalformedReply as error:
        rejections.add(reply.client, error)
        return False
    return True


def are_copies(models: Sequence[Model]) -> bool:
    """Say whether models, at least two, are the same numbers: a median of copies means nothing."""
    first, *others = models
    return bool(others) and all(
        a is b or all(map(np.array_equal, pieces(a, spec.order), pieces(b, spec.order)))
        for other in others
        for (spec, a), b in zip(first.items(), other.values, strict=True)
    )


def step(
    layout: Layout, base: Vector | None, point: NDArray[np.floating], step_size: float
) -> list[NDArray[Any]] | None:
    """Return ``base + step_size * point`` as the layout's flat float arrays, in its dtypes.

    None, and a line in the log, where a coordinate leaves the range of its dtype. `base` is zero
    where it is None. The memory of `point` becomes that of the arrays whose dtype it has.
    """
    sizes = [spec.size for spec in layout.floats]
    pieces = np.split(point, np.cumsum(sizes, dtype=np.intp))[:-1]
    stepped = [
        piece if piece.dtype == spec.dtype else np.empty(spec.size, spec.dtype)
        for piece, spec in zip(pieces, layout.floats, strict=True)
    ]

    def write(columns: Columns) -> bool:
        with np.errstate(all="ignore"):
            values = np.multiply(point[columns.start : columns.stop], point.dtype.type(step_size))
            if base is not None:
                values += columns.of(base)
            columns.write(stepped, values)
            return bool(np.isfinite(columns.of(stepped)).all())

    if all(list(map_in_threads(write, cut(sizes, _STEPPED)))):
        return stepped
    finite = [np.isfinite(values).all() for values in stepped]
    name = escaped(layout.floats[finite.index(False)].name)
    log(ERROR, "array %s leaves the range of its dtype after the step: the model is kept", name)
    return None


def distances_from(
    vectors: Sequence[Vector], centre: Vector | None, point: NDArray[np.floating]
) -> list[float]:
    """Return the distances of vectors, as offsets from a centre, from a point."""
    blocks = cut([len(piece) for piece in vectors[0]], _STEPPED) if vectors else []

    def squares(columns: Columns) -> NDArray[np.float64]:
        position = point[columns.start : columns.stop].astype(np.float64)
        if centre is not None:
            position += columns.of(centre)
        result = np.empty(len(vectors))
        with np.errstate(all="ignore"):
            for number, vector in enumerate(vectors):
                offsets = columns.of(vector) - position
                result[number] = offsets @ offsets
        return result

    total = np.zeros(len(vectors))
    with one_blas_thread(), np.errstate(all="ignore"):
        for part in map_in_threads(squares, blocks):
            total += part
        return [float(distance) for distance in np.sqrt(total)]


def median_counters(counters: Sequence[Sequence[NDArray[Any]]]) -> list[NDArray[Any]]:
    """Take the lower median over replies of every integer and bool entry."""
    columns = zip(*counters, strict=True)
    return [np.sort(np.stack(values), axis=0)[(len(values) - 1) // 2] for values in columns]
