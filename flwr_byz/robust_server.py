"""The server of the paper's Algorithm 2, whatever the API: it turns replies into a step.

``replies -> batches -> rows -> gram -> pre-aggregation -> rule -> step``. Malformed
replies count as no message. Replies that are held and replies that are added up on arrival fill the
same rows.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from logging import ERROR, INFO, WARNING
from math import inf, isnan
from typing import Any

import numpy as np
from flwr.supercore import log
from numpy.typing import NDArray

from .aggregation import (
    AdaptiveClipping,
    Aggregate,
    NormTrimming,
    permute_clients,
    split_into_batches,
)
from .aggregation.median_of_means import aggregate
from .aggregation.pre_aggregation import NoRowsLeft
from .aggregation.rows import Vector
from .collect import Collected, Grouping, KeptRow, distances_of, hold, record_of, stream
from .hardening import Asked
from .identity import ClientId, identity_order
from .logs import escaped
from .metrics import common_metrics, robust_metrics
from .payload import Layout, MalformedReply, Model, read_number
from .round import COPIES, Rejections, Reply, median_counters, model_of, received, step
from .rounds import Rounds
from .settings import Settings

# Aggregates what was chosen of the metrics of each reply.
MetricsFunction = Callable[[Sequence[tuple[Reply, Any]]], Mapping[str, Any]]


class RobustServer:
    """Turns the replies of a round to a step."""

    def __init__(self, settings: Settings, rounds: Rounds) -> None:
        self.settings = settings
        self.rounds = rounds
        self._groups: dict[ClientId, float] = {}
        self._announced = 0, 0  # clients and rows of the guarantee that was logged last
        self._memory: NDArray[np.floating] | None = None
        self._kept: dict[int, KeptRow] = {}
        self._kept_of: tuple[Grouping, Layout] | None = None  # the rows that are kept

    def aggregate(
        self,
        server_round: int,
        replies: Iterable[Reply],
        custom: MetricsFunction | None = None,
        ignored: Collection[str] = (),
        *,
        accept_failures: bool = True,
        optimize: Callable[[Model], Model | None] | None = None,
        quorum: int | None = None,
        keep_steps: int = 0,
    ) -> tuple[Model | None, dict[str, Any]]:
        """Make a step of the replies to the last `Rounds.begin`, if one is justified.

        Replies come in any order; with `settings.streaming`, they are added up as they arrive, in
        the rows' precision, and the result depends on the order in its last digits. `custom`
        aggregates the clients' metrics in place of the median of batch means, without the names
        that are `ignored`; `optimize` returns what a server optimizer makes of the aggregate.
        Without `accept_failures`, no step is made where a reply is rejected. With a `quorum`, and
        `settings.streaming`, no more is read once so many batches are filled (see `stream`), and
        who has not replied by then is not missing; the row of a batch that holds no reply is the
        one that was made last, at most `keep_steps` rounds ago.

        Returns the new model, None where the old one is kept, and the metrics of the round (see
        `RobustFedAvg`).
        """
        rejections = Rejections()
        kept = self._rows_since(server_round - keep_steps) if quorum else {}
        asked, collected = self._collect(server_round, replies, rejections, quorum, kept)
        accepted = {reply.client for reply in collected.replies}
        num_malformed = 0 if quorum else len(asked & rejections.malformed - accepted)
        due = asked if quorum is None else asked & (accepted | rejections.verdicts.keys())
        counts = self.rounds.counts(due, accepted, rejections)

        result, num_trimmed = self._combined(server_round, collected, num_malformed)
        report = counts | {"byz-batches": len(collected.members), "byz-trimmed": num_trimmed}
        model = None
        distances: dict[ClientId, float] = {}
        if result is not None:
            report |= self._report(len(asked), result)
            if self.rounds.are_judged:  # the step takes over the memory of the point
                distances = distances_of(collected, self._centre(), result)
            model = self._step(collected, result)
        if rejections and not accept_failures:
            model = None
        if model is not None and optimize is not None:
            model = optimize(model)
        record = record_of(model is None, due, collected, rejections, result, distances)
        self.rounds.record(server_round, record)
        metrics, num_rejected = self._metrics(collected.replies if model else [], custom, ignored)
        metrics |= report | {"byz-metrics-rejected": num_rejected}
        self.rounds.history.train[server_round] = metrics
        return model, metrics

    def evaluate(
        self,
        replies: Iterable[Reply],
        asked: Asked,
        custom: MetricsFunction | None,
        ignored: Collection[str] = (),
    ) -> tuple[list[Reply], dict[str, Any]]:
        """Return the usable evaluation replies in client order, and the aggregate of their metrics.

        No reply is returned where they have no honest majority. `custom` and `ignored` are as in
        `aggregate`.
        """
        rejections = Rejections()
        asked, usable = received(replies, asked, rejections)
        counts = self.rounds.counts(asked, [reply.client for reply in usable], rejections)
        usable.sort(key=lambda reply: self._order(reply.client))
        if 0 < len(usable) < self.settings.honest_majority(len(usable)):
            text = "%d clients evaluated, too few for an honest majority over %d: no metric of "
            text += "theirs is reported"
            log(WARNING, text, len(usable), self.settings.num_byzantine)
            usable = []
        return usable, self._metrics(usable, custom, ignored)[0] | counts

    def _metrics(
        self, replies: Sequence[Reply], custom: MetricsFunction | None, ignored: Collection[str]
    ) -> tuple[dict[str, Any], int]:
        """Aggregate what clients claim; also count the replies that are left out."""
        if not replies:
            return {}, 0
        claims = [reply.metrics for reply in replies]
        least = self.settings.honest_majority(len(claims))
        if custom is None:
            not_metrics = {*ignored, self.settings.group_by_key}
            return robust_metrics(claims, least, self.settings.batches_for, not_metrics)
        pairs = zip(replies, common_metrics(claims, least), strict=True)
        chosen = [(reply, metrics) for reply, metrics in pairs if metrics is not None]
        num_rejected = len(replies) - len(chosen)
        try:
            return dict(custom(chosen)), num_rejected
        except Exception as error:  # a caller's function, fed with clients' claims
            text = escaped(repr(error))
            log(ERROR, "the metrics of this round could not be aggregated: %s", text)
            return {}, num_rejected

    def _collect(
        self,
        server_round: int,
        replies: Iterable[Reply],
        rejections: Rejections,
        quorum: int | None,
        kept: Mapping[int, KeptRow],
    ) -> tuple[frozenset[ClientId], Collected]:
        """Return the clients that were asked, and the rows of their replies."""
        asked, layout, centre = self.rounds.asked, self.rounds.layout, self._centre()
        if self.settings.streaming:
            assert layout is not None
            assert asked is not None
            grouping = self._grouping(server_round, asked)
            memory = self._memory_for(grouping, layout)
            if self._kept_of != (grouping, layout):
                kept = {}
            self._kept_of = None  # the memory is written to
            rest = memory, rejections, quorum, kept
            collected = stream(replies, grouping, centre, layout, *rest)
            self._keep(server_round, kept, collected)
            self._kept_of = grouping, layout
            return asked, collected
        asked, usable = received(replies, asked, rejections)
        if self.settings.group_by_key is not None:
            self._note_groups(usable, self.settings.group_by_key)
        grouping = self._grouping(server_round, asked)
        held = None
        if usable and len(set(grouping.values())) < len(grouping):
            held = self._memory_for(grouping, model_of(usable[0]).layout)
        return asked, hold(usable, grouping, centre, held, rejections)

    def forget_rows(self) -> None:
        """Begin a training in which no row of an earlier one counts."""
        self._kept_of = None

    def _keep(self, server_round: int, before: Mapping[int, KeptRow], collected: Collected) -> None:
        """Remember which rows are in the memory: finite ones, unless they are one author's."""
        self._kept = {}
        finite = None if collected.measured is None else collected.measured.finite
        columns = zip(collected.batches, collected.members, collected.counters, strict=True)
        for place, (batch, members, counters) in enumerate(columns):
            if collected.are_copies or (finite is not None and not finite[place]):
                continue
            step = server_round if members else before[batch].step
            self._kept[batch] = KeptRow(step, place, counters)

    def _rows_since(self, server_round: int) -> dict[int, KeptRow]:
        """Return the rows that are in the memory and not older."""
        return {batch: row for batch, row in self._kept.items() if row.step >= server_round}

    def _combined(
        self, server_round: int, collected: Collected, num_malformed: int
    ) -> tuple[Aggregate | None, int]:
        """Aggregate the rows unless half could be Byzantine; also say how many are left out."""
        rows, measured = collected.rows, collected.measured
        if rows is None or measured is None:
            log(WARNING, "no reply is usable: the model is kept")
            return None, 0
        num_batches = self.settings.batches_for(len(collected.replies))
        if collected.are_copies and num_batches > 1 and measured.norms.any():
            log(ERROR, COPIES, len(collected.replies))
            return None, 0
        num_rows, num_broken = len(rows), int((~measured.finite).sum())
        if num_broken:
            text = "%d of %d batch means are not finite: they are left out, as Byzantine"
            log(WARNING, text, num_broken, num_rows)
        settings = self.settings
        num_hidden = max((settings.num_byzantine or 0) - num_malformed, 0)
        if num_rows - num_broken <= 2 * max(num_hidden - num_broken, 0):
            text = "%d batches answered and %d Byzantine clients may be among them: no rule holds "
            text += "against half of the batches, the model is kept"
            log(ERROR, text, num_rows, num_hidden)
            return None, num_broken
        self._check_centre_known()
        try:
            result = aggregate(
                rows,
                measured,
                rule=settings.rule,
                pre_aggregation=settings.pre_aggregation,
                num_byzantine=settings.num_byzantine,
                num_malformed=num_malformed,
                server_round=server_round,
            )
        except NoRowsLeft as error:
            log(WARNING, "%s: the model is kept", error)
            return None, num_rows
        except Exception as error:  # whatever replies make a solver raise
            log(ERROR, "%s: the model is kept", escaped(repr(error)))
            return None, 0
        return result, int(result.trimmed.sum())

    def _step(self, collected: Collected, result: Aggregate) -> Model | None:
        """Return the model after the step; None where a coordinate leaves its range."""
        sent = self.rounds.sent
        layout = self.rounds.layout or model_of(collected.replies[0]).layout
        base = None if sent is None else sent.floats()
        floats = step(layout, base, result.point, self.settings.step_size)
        if floats is None:
            return None
        if sent is not None and self.settings.reply == "gradients":
            return layout.model(floats, sent.counters())
        return layout.model(floats, median_counters(collected.counters))

    def _report(self, num_clients: int, result: Aggregate) -> dict[str, int | float]:
        """Return the numbers of a round that was aggregated; log a guarantee that is worse."""
        if self._announced[0] != num_clients or self._announced[1] > result.num_rows:
            self._announced = num_clients, result.num_rows
            level = INFO if num_clients >= self.settings.min_clients else WARNING
            log(level, "%s", self.settings.guarantee(num_clients, result.num_rows))
        if result.too_long.any() and not (result.too_long & result.trimmed).any():
            text = "not trimmed: %d of %d batches are longer than trim_norm, and too few would be "
            text += "left for an honest majority"
            log(WARNING, text, int(result.too_long.sum()), len(result.too_long))
        made = result.combination
        if made.doubt:
            log(WARNING, "%s", made.doubt)
        of_rule = {"gap": made.gap, "residual": made.residual, "spread": made.spread}
        return {
            "byz-bound": made.bound,
            **{f"byz-{name}": value for name, value in of_rule.items() if not isnan(value)},
            "byz-iterations": made.iterations,
            "byz-aggregate-norm": result.norm,
        }

    def _order(self, client: ClientId) -> tuple[float, tuple[int, int, str]]:
        """Return a key to sort clients by."""
        return self._groups.get(client, inf), identity_order(client)

    def _grouping(self, server_round: int, asked: frozenset[ClientId]) -> Grouping:
        """Return the batch of each client, in client order: fixed, or drawn for the round."""
        if not asked:
            return {}
        clients, seed = sorted(asked, key=self._order), self.settings.bucketing_seed
        drawn = clients if seed is None else permute_clients(clients, seed, server_round)
        batches = split_into_batches(drawn, self.settings.batches_for(len(drawn)))
        batch_of = {client: number for number, batch in enumerate(batches) for client in batch}
        return {client: batch_of[client] for client in clients}

    def _note_groups(self, replies: Sequence[Reply], key: str) -> None:
        for reply in replies:
            try:
                self._groups[reply.client] = read_number(reply.metrics.get(key), "the id")
            except MalformedReply:
                self._groups.pop(reply.client, None)
        if replies and not self._groups:
            names = escaped(", ".join(sorted({str(n) for reply in replies for n in reply.metrics})))
            text = (
                "group_by_key=%r: no reply reports a number under it; the metrics reported are %s"
            )
            log(WARNING, text, key, names)

    def _centre(self) -> Vector | None:
        """Return what rows are offsets from: the model sent, where replies are weights."""
        sent = self.rounds.sent
        return None if sent is None or self.settings.reply == "gradients" else sent.floats()

    def _memory_for(self, grouping: Grouping, layout: Layout) -> NDArray[np.floating]:
        """Return memory for batch means, the last round's where it fits: new pages cost time."""
        shape = (len(set(grouping.values())), sum(spec.size for spec in layout.floats))
        held = self._memory
        if held is None or held.shape != shape or held.dtype != layout.precision:
            self._memory = held = np.empty(shape, layout.precision)
        return held

    def _check_centre_known(self) -> None:
        settings = self.settings
        by_norm = any(
            isinstance(entry, NormTrimming | AdaptiveClipping) for entry in settings.pre_aggregation
        )
        if (by_norm or settings.step_size != 1.0) and self.rounds.sent is None:
            raise RuntimeError(
                "trim_norm, clipping, gradients and a server_learning_rate other than 1 "
                "need the model that the clients were sent: call configure_train (configure_fit) "
                "before aggregating, or give initial_parameters"
            )
