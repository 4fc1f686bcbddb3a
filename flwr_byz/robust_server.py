"""The server of the paper's Algorithm 2, whatever the API: it turns replies into a step.

``replies -> batches -> rows -> gram -> median -> step``. Malformed replies count as no message.
Replies that are held and replies that are added up on arrival fill the same rows.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from logging import ERROR, INFO, WARNING
from pathlib import Path
from typing import Any

import numpy as np
from flwr.supercore import log
from numpy.typing import NDArray

from .aggregation import GeometricMedianOfMeans, permute_clients, split_into_batches
from .aggregation.median_of_means import median_of_means
from .aggregation.pre_aggregation import NoRowsLeft
from .aggregation.rows import Vector
from .audit import AuditTrail
from .collect import Collected, Grouping, hold, model_of, stream
from .history import History
from .identity import ClientId, identity_order
from .logs import escaped
from .metrics import Metrics, common_metrics, robust_metrics
from .payload import Layout, MalformedReply, Model, read_number
from .records import distances_of, record_of
from .round import UNKNOWN, Rejections, Reply, median_counters, numbered, screen, step
from .settings import Settings


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of a round.

    Attributes
    ----------
    model : Model or None
        The new model; None where the old one is kept.
    report : dict
        Numbers for the strategy's metrics, by name (see `GeometricMedianOfMeans`).
    replies : list of Reply
        The accepted replies, in client order; of those that were added up on arrival without model.
    """

    model: Model | None
    report: dict[str, int | float]
    replies: Sequence[Reply]


@dataclass
class RobustServer:
    """Knows what it sent to whom, and turns replies into a step.

    Parameters
    ----------
    settings : Settings
    audit : AuditTrail, optional
    checkpoints : Path, optional
        Folder of the history's checkpoints.
    """

    settings: Settings
    audit: AuditTrail | None = None
    checkpoints: Path | None = None
    history: History = field(default_factory=History, init=False)
    _sent: Model | None = field(default=None, init=False)
    _asked: frozenset[ClientId] | None = field(default=None, init=False)
    _groups: dict[ClientId, float] = field(default_factory=dict, init=False)
    _announced: tuple[int, int] | None = field(default=None, init=False)
    _memory: NDArray[np.floating] | None = field(default=None, init=False)

    @property
    def layout(self) -> Layout | None:
        """Layout of the model that was sent, where it is known."""
        return None if self._sent is None else self._sent.layout

    def resume(self, initial: Mapping[str, NDArray[Any]] | None) -> History:
        """Begin a training, or go on with the one in the folder of checkpoints.

        Raises
        ------
        ValueError, OSError
            As `History.resume` does.
        """
        self.history.close()
        self.history = History.resume(self.checkpoints, initial)
        if self.audit is not None:
            self.audit.begin(self.history.finished)
        return self.history

    def begin(self, model: Model | None, clients: Sequence[ClientId] | None = None) -> None:
        """Remember the model sent (None where it is not readable) and the clients asked."""
        self._sent = model
        self._asked = None if clients is None else frozenset(clients)

    def aggregate(self, server_round: int, replies: Iterable[Reply]) -> Outcome:
        """Make a step of the replies to the last `begin`, if one is justified.

        Parameters
        ----------
        server_round : int
            Its number, from 1 on; batches that are drawn afresh in each round depend on it.
        replies : iterable of Reply
            In any order. Where `settings.streaming`, they are added up as they arrive, in the
            rows' precision, so that the result depends on the order in its last digits.
        """
        rejections = Rejections()
        asked, collected = self._collect(server_round, replies, rejections)
        accepted = {reply.client for reply in collected.replies}
        num_silent = max(
            len(asked - accepted - rejections.verdicts.keys()) - rejections.num_unknown, 0
        )
        shown = asked & rejections.malformed - accepted
        num_hidden = max((self.settings.num_byzantine or 0) - len(shown), 0)

        result, num_trimmed = self._median(collected, num_hidden)
        report: dict[str, int | float] = {
            "byz-clients": len(asked),
            "byz-rejected": len(rejections),
            "byz-missing": num_silent,
            "byz-batches": len(collected.members),
            "byz-trimmed": num_trimmed,
        }
        if result is not None:
            report |= self._report(len(asked), result, num_hidden)
        q = self.settings.num_byzantine
        if q is not None and len(rejections) + num_silent > q:
            log(
                WARNING,
                "%d clients sent no usable reply, more than num_byzantine=%d: the round has no "
                "guarantee",
                len(rejections) + num_silent,
                q,
            )
        record = None
        if self.audit is not None:
            distances = distances_of(collected, self._centre(), result)
            record = record_of(asked, collected, rejections, result, distances)
        model = None if result is None else self._step(collected, result)
        if self.audit is not None and record is not None:
            self.audit.write(server_round, replace(record, kept=model is None))
        return Outcome(model, report, collected.replies)

    def evaluations(
        self, replies: Sequence[Reply], asked: frozenset[ClientId] | None
    ) -> list[Reply]:
        """Return the usable evaluation replies in client order; none where q outvote them."""
        usable = screen(replies, asked, Rejections())
        usable.sort(key=lambda reply: self.order(reply.client))
        return usable if self.settings.outvotes(len(usable)) else []

    def metrics(
        self,
        replies: Sequence[Reply],
        custom: Callable[[Sequence[Metrics | None]], Mapping[str, Any]] | None,
        ignored: Collection[str | None] = (),
    ) -> tuple[dict[str, Any], int]:
        """Aggregate what clients claim; also count the replies that are left out.

        `custom` aggregates the metrics chosen for each reply, None for one that is left out;
        `ignored` are names that are no metrics.
        """
        if not replies:
            return {}, 0
        claims = [reply.metrics for reply in replies]
        least = self.settings.least_to_outvote(len(claims))
        if custom is None:
            ignored = {*ignored, self.settings.group_by_key}
            return robust_metrics(claims, least, self.settings.batches_for, ignored)
        chosen = common_metrics(claims, least)
        try:
            return dict(custom(chosen)), chosen.count(None)
        except Exception as error:  # a caller's function, fed with clients' claims
            text = escaped(repr(error))
            log(ERROR, "the metrics of this round could not be aggregated: %s", text)
            return {}, chosen.count(None)

    def _collect(
        self, server_round: int, replies: Iterable[Reply], rejections: Rejections
    ) -> tuple[frozenset[ClientId], Collected]:
        """Return the clients that were asked, and the rows of their replies."""
        if self.settings.streaming:
            if self._sent is None or self._asked is None:
                raise RuntimeError("call configure_train before aggregating replies as they arrive")
            layout, grouping = self._sent.layout, self._grouping(server_round, self._asked)
            memory = self._memory_for(grouping, layout)
            centre = self._centre()
            collected = stream(replies, self._asked, grouping, centre, layout, memory, rejections)
            return self._asked, collected
        replies = numbered(replies) if self._asked is None else list(replies)
        asked = self._asked
        if asked is None:
            asked = frozenset(reply.client for reply in replies) - {UNKNOWN}
        usable = screen(replies, self._asked, rejections)
        for reply in usable:
            self._note_group(reply)
        grouping = self._grouping(server_round, asked)
        held = None
        if usable and len(set(grouping.values())) < len(grouping):
            held = self._memory_for(grouping, model_of(usable[0]).layout)
        return asked, hold(usable, grouping, self._centre(), held, rejections)

    def _median(
        self, collected: Collected, num_hidden: int
    ) -> tuple[GeometricMedianOfMeans | None, int]:
        """Aggregate the rows, unless half of them or more could be Byzantine.

        Also return how many of them were left out.
        """
        if collected.rows is None or collected.measured is None:
            log(WARNING, "no reply is usable: the model is kept")
            return None, 0
        num_rows, num_finite = len(collected.rows), int(collected.measured.finite.sum())
        if num_finite < num_rows:
            log(
                WARNING,
                "%d of %d batch means are not finite: they are left out, as Byzantine",
                num_rows - num_finite,
                num_rows,
            )
        if num_finite <= 2 * max(num_hidden - (num_rows - num_finite), 0):
            log(
                ERROR,
                "%d batches answered and %d Byzantine clients may be among them: no median holds "
                "against half of the batches, the model is kept",
                num_rows,
                num_hidden,
            )
            return None, num_rows - num_finite
        self._check_centre_known()
        try:
            result = median_of_means(
                collected.rows,
                collected.measured,
                trim_norm=self.settings.trim_norm,
                gamma=self.settings.gamma,
                num_byzantine=None if self.settings.num_byzantine is None else num_hidden,
            )
        except NoRowsLeft as error:
            log(WARNING, "%s: the model is kept", error)
            return None, num_rows
        except Exception as error:  # whatever replies make a solver raise
            log(ERROR, "%s: the model is kept", escaped(repr(error)))
            return None, 0
        return result, int(result.trimmed.sum())

    def _step(self, collected: Collected, result: GeometricMedianOfMeans) -> Model | None:
        """Return the model after the step; None where a coordinate leaves its range."""
        layout = self.layout or model_of(collected.replies[0]).layout
        base = None if self._sent is None else self._sent.floats()
        floats = step(layout, base, result.point, self.settings.step_size)
        if floats is None:
            return None
        if self.settings.reply == "gradients":
            assert self._sent is not None
            return layout.model(floats, self._sent.counters())
        return layout.model(floats, median_counters(collected.counters))

    def _report(
        self, num_clients: int, result: GeometricMedianOfMeans, num_hidden: int
    ) -> dict[str, int | float]:
        """Return the numbers of a round that was aggregated; log its guarantee where it changes."""
        num_hidden = max(num_hidden - int(result.not_finite.sum()), 0)
        if self._announced != (num_clients, result.num_kept):
            self._announced = num_clients, result.num_kept
            log(INFO, "%s", self.settings.guarantee(num_clients, result.num_kept, num_hidden))
        if result.too_long.any() and not (result.too_long & result.trimmed).any():
            log(
                WARNING,
                "not trimmed: %d of %d batches are longer than trim_norm, and too few would be "
                "left for an honest majority",
                int(result.too_long.sum()),
                len(result.too_long),
            )
        if result.gap > self.settings.gamma:
            log(
                WARNING,
                "the geometric median is certified to a gap of %.2g only, not gamma=%.2g",
                result.gap,
                self.settings.gamma,
            )
        return {
            "byz-bound": self.settings.bound(result.num_kept, num_hidden),
            "byz-gap": result.gap,
            "byz-iterations": result.iterations,
            "byz-aggregate-norm": result.norm,
        }

    def order(self, client: ClientId) -> tuple[float, tuple[int, int, str]]:
        """Return a key to sort clients by."""
        return self._groups.get(client, float("inf")), identity_order(client)

    def _grouping(self, server_round: int, asked: frozenset[ClientId]) -> Grouping:
        """Return the batch of each client, in client order: fixed, or drawn for the round."""
        clients = sorted(asked, key=self.order)
        if not clients:
            return {}
        seed = self.settings.bucketing_seed
        drawn = clients if seed is None else permute_clients(clients, seed, server_round)
        batches: Sequence[Sequence[ClientId]] = split_into_batches(
            drawn, self.settings.batches_for(len(clients))
        )
        batch_of = {client: number for number, batch in enumerate(batches) for client in batch}
        return {client: batch_of[client] for client in clients}

    def _note_group(self, reply: Reply) -> None:
        if self.settings.group_by_key is not None:
            try:
                claim = reply.metrics[self.settings.group_by_key]
                self._groups[reply.client] = read_number(claim, "the id")
            except (KeyError, MalformedReply):
                self._groups.pop(reply.client, None)

    def _centre(self) -> Vector | None:
        """Return what rows are offsets from: the model sent, where replies are weights."""
        if self._sent is None or self.settings.reply == "gradients":
            return None
        return self._sent.floats()

    def _memory_for(self, grouping: Grouping, layout: Layout) -> NDArray[np.floating]:
        """Return memory for batch means, the last round's where it fits: new pages cost time."""
        shape = (len(set(grouping.values())), sum(spec.size for spec in layout.floats))
        held = self._memory
        if held is None or held.shape != shape or held.dtype != layout.precision:
            self._memory = None
            self._memory = held = np.empty(shape, layout.precision)
        return held

    def _check_centre_known(self) -> None:
        settings = self.settings
        if self._sent is not None:
            return
        if settings.reply == "gradients" or settings.server_learning_rate != 1.0:
            needed_by = "gradients and a server_learning_rate other than 1 need"
        elif settings.trim_norm is not None:
            needed_by = "trim_norm needs"
        else:
            return
        raise RuntimeError(
            f"{needed_by} the model that the clients were sent: call configure_train "
            "(configure_fit) before aggregating, or give initial_parameters"
        )
