"""One round at the server, whatever the API: steps 3 to 5 of the paper's Algorithm 2.

Replies are opened one by one, what is malformed counts as no message, the rest goes into its
client's batch, and the geometric median of the batch means becomes the step.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from logging import ERROR, INFO, WARNING
from typing import Any, Generic, TypeVar

import numpy as np
from flwr.supercore import log
from numpy.typing import NDArray

from .aggregation import (
    BatchSums,
    aggregate_batches,
    aggregate_rows,
    permute_clients,
    split_into_batches,
)
from .aggregation._batch_means import Block, Vector
from .aggregation.median_of_means import (
    Aggregation,
    AllBatchesTrimmed,
    NotFinite,
    least_to_keep,
)
from .audit import BatchRecord, RoundRecord, Verdict
from .identity import ClientId, identity_order
from .logs import escaped
from .payload import Layout, MalformedReply, Model, read_number
from .settings import Settings

Payload = TypeVar("Payload")
Evaluation = TypeVar("Evaluation")
Content = TypeVar("Content")

_MAX_LOGGED_REJECTIONS = 10


@dataclass(frozen=True, eq=False, slots=True)
class Reply(Generic[Payload]):
    """A reply that passed every check.

    Attributes
    ----------
    client : int or str
    payload : FitRes or RecordDict
        As it came.
    metrics : mapping
        What the client claims, unchecked.
    """

    client: ClientId
    payload: Payload
    metrics: Mapping[str, object]


@dataclass(frozen=True, eq=False, slots=True)
class _Opened(Reply[Payload]):
    """A reply that is held until the round ends, with its arrays."""

    model: Model


@dataclass(frozen=True, eq=False)
class Outcome(Generic[Payload]):
    """What a round came to.

    Attributes
    ----------
    model : Model or None
        The new model; None where the old one is kept.
    report : dict
        Numbers for the strategy's metrics, by name (see `GeometricMedianOfMeans`).
    replies : list of Reply
        The accepted replies, in client order.
    record : RoundRecord
        The same, client by client, for an audit trail.
    """

    model: Model | None
    report: dict[str, int | float]
    replies: Sequence[Reply[Payload]]
    record: RoundRecord


@dataclass
class ServerRound(Generic[Payload]):
    """The server of Algorithm 2: knows what it sent to whom, and turns replies into a step.

    Parameters
    ----------
    settings : Settings
    layout_of : callable
        Reads a payload's own layout; needed only where the server does not know what it sent.
    open_reply : callable
        Opens a payload against the layout of the model: its arrays and its metrics. Raises
        `MalformedReply`; anything else that it raises counts as that, too.
    audited : bool, default False
        Whether replies' distances from the aggregate are wanted, for one more pass over them.
    """

    settings: Settings
    layout_of: Callable[[Payload], Layout]
    open_reply: Callable[[Payload, Layout], tuple[Model, Mapping[str, object]]]
    audited: bool = False
    _sent: Model | None = field(default=None, init=False)
    _asked: frozenset[ClientId] | None = field(default=None, init=False)
    _groups: dict[ClientId, float] = field(default_factory=dict, init=False)
    _announced: tuple[int, int] | None = field(default=None, init=False)
    _memory: NDArray[np.floating] | None = field(default=None, init=False)

    def sends(self, model: Model | None, clients: Sequence[ClientId] | None = None) -> None:
        """Remember the model sent (None where it is not readable) and the clients asked."""
        self._sent = model
        self._asked = None if clients is None else frozenset(clients)

    def finish(
        self,
        server_round: int,
        payloads: Sequence[tuple[ClientId, Payload]],
        failed: Sequence[ClientId | None],
    ) -> Outcome[Payload]:
        """Aggregate what came back, in any order.

        Parameters
        ----------
        server_round : int
            Its number, from 1 on; batches that are drawn afresh in each round depend on it.
        payloads : sequence of (client, payload)
        failed : sequence of client or None
            Those that answered with an error; None where Flower does not say who.
        """
        if self._asked is None:
            payloads = _told_apart(payloads)
        rejections = _Rejections()
        replies = self._open(payloads, rejections)
        for client in failed:
            rejections.add(client, "an error reply", is_error=True)
        answered = {client for client, _ in payloads} | {c for c in failed if c is not None}
        asked = frozenset(answered) if self._asked is None else self._asked
        num_silent = max(len(asked - answered) - failed.count(None), 0)
        while True:
            try:
                return self._settle(server_round, asked, replies, rejections, num_silent)
            except _NotFiniteReplies as error:
                for client, reason in error.clients.items():
                    rejections.add(client, reason)
                replies = [reply for reply in replies if reply.client not in error.clients]

    def _settle(
        self,
        server_round: int,
        asked: frozenset[ClientId],
        replies: list[_Opened[Payload]],
        rejections: "_Rejections",
        num_silent: int,
    ) -> Outcome[Payload]:
        """Make a step of the replies that are held, if one is justified.

        Raises
        ------
        _NotFiniteReplies
            Where replies turn out not to be finite, which is seen when they are added up.
        """
        batches = self._batches(server_round, asked, replies)
        if len(batches) <= 2 * self._num_hidden(asked, rejections, replies):
            _reject_if_not_finite(replies)
        members = [[reply.client for reply in batch] for batch in batches]
        return self._conclude(
            asked,
            replies,
            rejections,
            num_silent,
            members,
            lambda hidden: self._step(batches, hidden),
        )

    def _conclude(
        self,
        asked: frozenset[ClientId],
        replies: Sequence[Reply[Payload]],
        rejections: "_Rejections",
        num_silent: int,
        batches: Sequence[Sequence[ClientId]],
        step: Callable[[int], "_Step"],
    ) -> Outcome[Payload]:
        """Report on a round, and step unless half of the batches that answered could be Byzantine.

        `batches` holds the clients whose replies are used; `step` is given the number of Byzantine
        clients that may be among them.
        """
        num_hidden = self._num_hidden(asked, rejections, replies)
        holds = len(batches) > 2 * num_hidden
        made = step(num_hidden) if replies and holds else _Step(None, {})
        if not replies:
            log(WARNING, "no reply is usable: the model is kept")
        else:
            counts = len(batches), num_hidden
            if made.aggregation is not None:
                counts = _kept_and_hidden(made.aggregation, num_hidden)
            self._announce(len(asked), len(rejections) + num_silent, *counts)
            if not holds:
                log(
                    ERROR,
                    "%d batches answered and %d Byzantine clients may be among them: no median "
                    "holds against half of the batches, the model is kept",
                    len(batches),
                    num_hidden,
                )
        report: dict[str, int | float] = {
            "byz-clients": len(asked),
            "byz-rejected": len(rejections),
            "byz-missing": num_silent,
            "byz-batches": len(batches),
        }
        verdicts: dict[ClientId, Verdict] = dict.fromkeys(
            sorted(asked, key=identity_order), Verdict("silent")
        )
        verdicts |= rejections.verdicts()
        for number, clients in enumerate(batches):
            for client in clients:
                verdicts[client] = Verdict("used", number, distance=made.distances.get(client))
        records = [] if made.aggregation is None else _batch_records(made.aggregation)
        record = RoundRecord(made.model is None, made.report.get("byz-gap"), records, verdicts)
        return Outcome(made.model, report | made.report, replies, record)

    def _num_hidden(
        self,
        asked: frozenset[ClientId],
        rejections: "_Rejections",
        replies: Sequence[Reply[Payload]],
    ) -> int:
        """Return how many Byzantine clients may be among those whose replies were accepted.

        A client of which nothing but malformed replies came has shown itself and spoils no batch.
        """
        shown = asked.intersection(rejections.malformed).difference(r.client for r in replies)
        return max((self.settings.num_byzantine or 0) - len(shown), 0)

    def fold(
        self,
        server_round: int,
        arrivals: Iterable[tuple[ClientId, Payload | None]],
        drop_arrays: Callable[[Payload], None],
    ) -> Outcome[Payload]:
        """Aggregate replies as they arrive, holding no more than the batch means.

        Members of a batch are added up in the precision of the aggregation, as offsets from the
        model sent where they are weights, so that the result depends on the order of arrival in its
        last digits. Integer and bool arrays are the lower median over one reply a batch, that of
        the client that comes first in the order of identities.

        Parameters
        ----------
        server_round : int
            As in `finish`.
        arrivals : iterable of (client, payload)
            Without a payload where the client answered with an error. Of two replies of one client,
            the first one counts.
        drop_arrays : callable
            Empties a payload of its arrays, for what is left of it to be kept.
        """
        if self._sent is None or self._asked is None:
            raise RuntimeError("call configure_train before aggregating replies as they arrive")
        asked, layout = self._asked, self._sent.layout
        batches = self._grouping(server_round, asked)
        batch_of = {client: number for number, batch in enumerate(batches) for client in batch}
        sums = BatchSums(
            self._memory_of(len(batches), layout),
            self._sent.floats() if self.settings.reply == "weights" else None,
        )
        kept: list[Reply[Payload]] = []
        counters: dict[int, tuple[ClientId, list[NDArray[Any]]]] = {}
        answered: set[ClientId] = set()
        rejections = _Rejections()
        for client, payload in arrivals:
            try:
                if client not in asked:
                    raise MalformedReply("was not asked")
                if client in answered:
                    raise MalformedReply("answered more than once")
                answered.add(client)
                if payload is None:
                    raise MalformedReply("an error reply")
                model, metrics = self.open_reply(payload, layout)
                model.check_finite()
            except Exception as error:  # a reply of any make must not stop the round
                rejections.add(client, error, is_error=payload is None)
                if payload is not None:
                    drop_arrays(payload)
                continue
            batch = batch_of[client]
            sums.add(batch, model.floats())
            if batch not in counters or self._order(client) < self._order(counters[batch][0]):
                counters[batch] = client, [values.copy() for values in model.counters()]
            drop_arrays(payload)
            kept.append(Reply(client, payload, metrics))
            del model  # before the next one is waited for
        kept.sort(key=lambda reply: self._order(reply.client))

        means, filled = sums.means()
        held = [counters[batch][1] for batch in filled]
        members = [[r.client for r in kept if batch_of[r.client] == batch] for batch in filled]
        return self._conclude(
            asked,
            kept,
            rejections,
            len(asked) - len(answered),
            members,
            lambda num_hidden: self._step_of(means, layout, held, members, num_hidden),
        )

    def _step_of(
        self,
        means: NDArray[np.floating],
        layout: Layout,
        counters: Sequence[Sequence[NDArray[Any]]],
        members: Sequence[Sequence[ClientId]],
        num_hidden: int,
    ) -> "_Step":
        """Aggregate batch means, updates or gradients, and step; no model where it is refused."""
        sent, floats = self._sent_vector(), layout.empty_floats()
        assert sent is not None
        sizes = [spec.size for spec in layout.floats]
        ends = np.cumsum(sizes, dtype=np.intp)[:-1]
        distances = _Distances([np.split(row, ends) for row in means] if self.audited else [])

        def write(block: Block, aggregate: NDArray[np.floating]) -> None:
            distances.see(block, aggregate)
            step = self.settings.step_size * aggregate.astype(np.float64)
            _write(block.of(floats), block.of(sent) + step)

        try:
            aggregation = aggregate_rows(
                means,
                sizes,
                write,
                trim_norm=self.settings.trim_norm,
                gamma=self.settings.gamma,
                least_kept=self._least_kept(len(means), num_hidden),
            )
        except AllBatchesTrimmed as error:
            return _all_trimmed(error, len(means))
        except Exception as error:  # no numbers that clients send may end the run
            return _failed(error)
        of_batch = zip(members, distances.lengths(), strict=False)
        return _Step(
            self._stepped(layout, floats, counters),
            self._report(aggregation, num_hidden),
            aggregation,
            {client: distance for clients, distance in of_batch for client in clients},
        )

    def _least_kept(self, num_batches: int, num_hidden: int) -> int:
        """Return how many batches trimming has to leave for the median to hold."""
        given = self.settings.num_byzantine is not None
        return least_to_keep(num_batches, num_hidden if given else None)

    def _report(self, aggregation: Aggregation, num_hidden: int) -> dict[str, int | float]:
        if aggregation.left_out.any():
            log(
                WARNING,
                "%d batches are left out: their sums leave the range of their dtype",
                int(aggregation.left_out.sum()),
            )
        if (aggregation.too_long & ~aggregation.trimmed).any():
            log(
                WARNING,
                "not trimmed: that would leave %d batches, of which %d may be Byzantine",
                int((~(aggregation.too_long | aggregation.left_out)).sum()),
                self.settings.hidden_among(len(aggregation.trimmed), num_hidden),
            )
        return {
            "byz-trimmed": int(aggregation.trimmed.sum()),
            "byz-bound": self.settings.bound(*_kept_and_hidden(aggregation, num_hidden)),
            "byz-gap": aggregation.gap,
            "byz-iterations": aggregation.iterations,
            "byz-aggregate-norm": aggregation.norm,
        }

    def open_metrics(
        self,
        payloads: Sequence[tuple[ClientId, Evaluation]],
        read_metrics: Callable[[Evaluation], Mapping[str, object]],
        asked: frozenset[ClientId] | None = None,
    ) -> list[tuple[Evaluation, Mapping[str, object]]]:
        """Return the evaluation replies that are well-formed and their metrics, in client order.

        Those of clients that were not asked, or that answered twice, are left out; where `asked` is
        None, nobody knows who was.
        """
        opened = _open_all(payloads, read_metrics, _Rejections(), asked)
        opened.sort(key=lambda item: self._order(item[0]))
        return [(payload, metrics) for _, payload, metrics in opened]

    def _open(
        self, payloads: Sequence[tuple[ClientId, Payload]], rejections: "_Rejections"
    ) -> list[_Opened[Payload]]:
        """Open every payload; return the accepted replies in client order."""
        layout = self._sent.layout if self._sent else self._most_common_layout(payloads)

        def read(payload: Payload) -> tuple[Model, Mapping[str, object]]:
            if layout is None:
                raise MalformedReply("no reply has readable arrays")
            return self.open_reply(payload, layout)

        opened = _open_all(payloads, read, rejections, self._asked)
        replies = [
            _Opened(client, payload, metrics, model) for client, payload, (model, metrics) in opened
        ]
        for reply in replies:
            self._note_group(reply.client, reply.metrics)
        return sorted(replies, key=lambda reply: self._order(reply.client))

    def _most_common_layout(self, payloads: Sequence[tuple[ClientId, Payload]]) -> Layout | None:
        """Take a vote on the layout, for a server that was not told what it sent."""
        votes: Counter[Layout] = Counter()
        for _, payload in payloads:
            try:
                votes[self.layout_of(payload)] += 1
            except Exception:  # counted as malformed when it is opened
                continue
        return max(votes, key=lambda layout: (votes[layout], repr(layout)), default=None)

    def _note_group(self, client: ClientId, metrics: Mapping[str, object]) -> None:
        if self.settings.group_by_key is not None:
            try:
                self._groups[client] = read_number(metrics[self.settings.group_by_key], "the id")
            except (KeyError, MalformedReply):
                self._groups.pop(client, None)

    def _order(self, client: ClientId) -> tuple[float, tuple[int, int, str]]:
        return self._groups.get(client, float("inf")), identity_order(client)

    def _batches(
        self, server_round: int, asked: frozenset[ClientId], replies: Sequence[_Opened[Payload]]
    ) -> list[list[_Opened[Payload]]]:
        """Group the replies by their clients' batches; batches of which nobody answered are out."""
        if not replies:
            return []
        answered = {reply.client: reply for reply in replies}
        batches = self._grouping(server_round, asked)
        present = ([answered[c] for c in batch if c in answered] for batch in batches)
        return [batch for batch in present if batch]

    def _grouping(self, server_round: int, asked: frozenset[ClientId]) -> list[Sequence[ClientId]]:
        """Return the clients of each of the k batches: fixed, or those drawn for the round."""
        if not asked:
            return []
        clients = sorted(asked, key=self._order)
        seed = self.settings.bucketing_seed
        if seed is not None:
            clients = permute_clients(clients, seed, server_round)
        return split_into_batches(clients, self.settings.batches_for(len(clients)))

    def _announce(
        self, num_clients: int, num_unusable: int, num_kept: int, num_hidden: int
    ) -> None:
        """Say what rounds of m clients promise, and loudly where this one promises nothing."""
        if (
            self._announced is None
            or self._announced[0] != num_clients
            or self._announced[1] > num_kept
        ):
            self._announced = num_clients, num_kept
            promise = self.settings.promise(num_clients, num_kept, num_hidden)
            log(INFO, "%s", promise)
        q = self.settings.num_byzantine
        if q is not None and num_unusable > q:
            log(
                WARNING,
                "%d clients sent no usable reply, more than num_byzantine=%d: the round is outside "
                "of what the paper promises",
                num_unusable,
                q,
            )

    def _step(self, batches: Sequence[Sequence[_Opened[Payload]]], num_hidden: int) -> "_Step":
        """Aggregate the batches and step; no model where the step has to be refused."""
        settings = self.settings
        replies = [reply for batch in batches for reply in batch]
        layout = replies[0].model.layout
        sent = self._sent_vector()
        floats = layout.empty_floats()
        distances = _Distances([reply.model.floats() for reply in replies if self.audited])

        def write(block: Block, aggregate: NDArray[np.floating]) -> None:
            distances.see(block, aggregate)
            if settings.reply == "weights" and settings.server_learning_rate == 1.0:
                _write(block.of(floats), aggregate)
                return
            assert sent is not None
            step = aggregate.astype(np.float64)
            if settings.reply == "weights":
                step -= block.of(sent)
            _write(block.of(floats), block.of(sent) + settings.step_size * step)

        try:
            aggregation = aggregate_batches(
                [[reply.model.floats() for reply in batch] for batch in batches],
                write,
                trim_norm=settings.trim_norm,
                gamma=settings.gamma,
                origin=sent if settings.reply == "weights" else None,
                least_kept=self._least_kept(len(batches), num_hidden),
                dtype=layout.precision,
                memory=self._memory_for(batches, layout),
            )
        except NotFinite as error:
            raise _NotFiniteReplies(
                {batches[b][i].client: "holds NaN or infinity" for b, i in error.members}
            ) from None
        except AllBatchesTrimmed as error:
            return _all_trimmed(error, len(batches))
        except Exception as error:  # no numbers that clients send may end the run
            return _failed(error)
        of_reply = zip(replies, distances.lengths(), strict=False)
        return _Step(
            self._stepped(layout, floats, [reply.model.counters() for reply in replies]),
            self._report(aggregation, num_hidden),
            aggregation,
            {reply.client: distance for reply, distance in of_reply},
        )

    def _stepped(
        self,
        layout: Layout,
        floats: Sequence[NDArray[Any]],
        counters: Sequence[Sequence[NDArray[Any]]],
    ) -> Model | None:
        """Return the model after the step; None where a coordinate leaves its range."""
        for spec, values in zip(layout.floats, floats, strict=True):
            if not np.isfinite(values).all():
                log(
                    ERROR,
                    "array %s leaves the range of %s after the step: the model is kept",
                    escaped(spec.name),
                    spec.dtype,
                )
                return None
        if self.settings.reply == "gradients":
            assert self._sent is not None
            return layout.model(floats, self._sent.counters())
        return layout.model(floats, _median_counters(counters))

    def _memory_for(
        self, batches: Sequence[Sequence[_Opened[Payload]]], layout: Layout
    ) -> NDArray[np.floating] | None:
        """Return memory for the batch means; None where every batch is one reply."""
        if all(len(batch) == 1 for batch in batches):
            return None
        return self._memory_of(len(batches), layout)

    def _memory_of(self, num_batches: int, layout: Layout) -> NDArray[np.floating]:
        """Return memory for batch means, the last round's where it fits: new pages cost time."""
        shape = (num_batches, sum(spec.size for spec in layout.floats))
        if (
            self._memory is None
            or self._memory.shape != shape
            or self._memory.dtype != layout.precision
        ):
            self._memory = None
            self._memory = np.empty(shape, layout.precision)
        return self._memory

    def _sent_vector(self) -> list[NDArray[Any]] | None:
        """Return the coordinates θ of the model that was sent, where they are known or needed."""
        settings = self.settings
        if self._sent is not None:
            return self._sent.floats()
        if settings.reply == "gradients" or settings.server_learning_rate != 1.0:
            needed_by = "gradients and a server_learning_rate other than 1 need"
        elif settings.trim_norm is not None:
            needed_by = "trim_norm needs"
        else:
            return None
        raise RuntimeError(
            f"{needed_by} the model that the clients were sent: call configure_train "
            "(configure_fit) before aggregating, or give initial_parameters"
        )


def _write(out: NDArray[Any], values: NDArray[np.floating]) -> None:
    with np.errstate(over="ignore"):  # what leaves the range is seen in the whole
        out[...] = values


@dataclass(frozen=True, eq=False)
class _Step:
    """A step, or the refusal to make one, and what there is to report of it."""

    model: Model | None
    report: dict[str, int | float]
    aggregation: Aggregation | None = None
    distances: Mapping[ClientId, float] = field(default_factory=dict)


def _all_trimmed(error: AllBatchesTrimmed, num_batches: int) -> _Step:
    log(WARNING, "%s: the model is kept", error)
    return _Step(None, {"byz-trimmed": num_batches})


def _failed(error: Exception) -> _Step:
    log(ERROR, "the aggregation failed with %r: the model is kept", error)
    return _Step(None, {})


def _kept_and_hidden(aggregation: Aggregation, num_hidden: int) -> tuple[int, int]:
    """Return how many batches were kept, and how many Byzantine clients may be among those.

    A batch that was left out held one: finite vectors of honest clients do not overflow.
    """
    num_kept = int((~aggregation.trimmed).sum())
    return num_kept, max(num_hidden - int(aggregation.left_out.sum()), 0)


def _batch_records(aggregation: Aggregation) -> list[BatchRecord]:
    columns = (aggregation.batch_weights, aggregation.batch_norms, aggregation.trimmed)
    return [
        BatchRecord(float(weight), float(norm), bool(trimmed))
        for weight, norm, trimmed in zip(*columns, strict=True)
    ]


class _Distances:
    """Distances of vectors from an aggregate that is handed out block by block, by any thread."""

    def __init__(self, vectors: Sequence[Vector]) -> None:
        self._vectors = vectors
        self._squares: dict[int, NDArray[np.float64]] = {}

    def see(self, block: Block, aggregate: NDArray[np.floating]) -> None:
        """Take in the aggregate's coordinates of a block."""
        if self._vectors:
            with np.errstate(over="ignore"):
                offsets = (block.of(v).astype(np.float64) - aggregate for v in self._vectors)
                self._squares[block.start] = np.array([float(x @ x) for x in offsets])

    def lengths(self) -> list[float]:
        """Return the distances; none where there are no vectors."""
        squares = [self._squares[start] for start in sorted(self._squares)]
        with np.errstate(over="ignore"):
            return [float(x) for x in np.sqrt(np.sum(squares, axis=0))] if squares else []


class _Rejections:
    """Replies that count as no message, and why; the first ones are logged."""

    def __init__(self) -> None:
        self.malformed: list[ClientId] = []
        self._reasons: list[tuple[ClientId | None, str, bool]] = []

    def __len__(self) -> int:
        return len(self._reasons)

    def add(self, client: ClientId | None, reason: object, *, is_error: bool = False) -> None:
        """Note and log a rejection; an error reply is not malformed."""
        text = escaped(reason)
        if len(self) < _MAX_LOGGED_REJECTIONS:
            log(WARNING, "\t> Rejected the reply of client %s: %s", escaped(client), text)
        elif len(self) == _MAX_LOGGED_REJECTIONS:
            log(WARNING, "\t> More replies were rejected; only the first ones are listed")
        self._reasons.append((client, text, is_error))
        if client is not None and not is_error:
            self.malformed.append(client)

    def verdicts(self) -> dict[ClientId, Verdict]:
        """Return a verdict on each client of whom a reply was rejected."""
        return {
            client: Verdict("error" if is_error else "rejected", reason=reason)
            for client, reason, is_error in self._reasons
            if client is not None
        }


class _NotFiniteReplies(Exception):
    """Clients whose replies are not finite, and what they hold."""

    def __init__(self, clients: dict[ClientId, str]) -> None:
        super().__init__()
        self.clients = clients


def _reject_if_not_finite(replies: Sequence[_Opened[Payload]]) -> None:
    rejected: dict[ClientId, str] = {}
    for reply in replies:
        try:
            reply.model.check_finite()
        except MalformedReply as error:
            rejected[reply.client] = str(error)
    if rejected:
        raise _NotFiniteReplies(rejected)


def _told_apart(
    payloads: Sequence[tuple[ClientId, Payload]],
) -> list[tuple[ClientId, Payload]]:
    """Tell replies of one identity apart by number, where nobody knows who was asked."""
    times_seen: Counter[ClientId] = Counter()
    apart: list[tuple[ClientId, Payload]] = []
    for client, payload in payloads:
        apart.append((f"{client} #{times_seen[client]}" if times_seen[client] else client, payload))
        times_seen[client] += 1
    return apart


def _open_all(
    payloads: Sequence[tuple[ClientId, Payload]],
    read: Callable[[Payload], Content],
    rejections: _Rejections,
    asked: frozenset[ClientId] | None = None,
) -> list[tuple[ClientId, Payload, Content]]:
    """Read every payload, and note those that cannot be read."""
    times_answered = Counter(client for client, _ in payloads)
    opened: list[tuple[ClientId, Payload, Content]] = []
    for client, payload in payloads:
        try:
            if asked is not None and client not in asked:
                raise MalformedReply("was not asked")
            if times_answered[client] > 1:
                raise MalformedReply("answered more than once")
            opened.append((client, payload, read(payload)))
        except Exception as error:  # a reply of any make must not stop the round
            rejections.add(client, error)
    return opened


def _median_counters(counters: Sequence[Sequence[NDArray[Any]]]) -> list[NDArray[Any]]:
    """Take the lower median over replies of every integer and bool entry."""
    columns = zip(*counters, strict=True)
    return [np.sort(np.stack(values), axis=0)[(len(values) - 1) // 2] for values in columns]
