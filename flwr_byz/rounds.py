"""What is kept of the rounds of a training, and what their ends set off, whatever the rule."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from logging import ERROR, INFO, WARNING
from math import inf, isnan
from pathlib import Path
from typing import Any, TypeVar

from flwr.supercore import log
from numpy.typing import NDArray

from .audit import AuditTrail, RoundRecord, Suspicion
from .checks import check_function, check_kind, check_number
from .history import BEST, Checkpoint, History
from .identity import ClientId, identity_order
from .logs import escaped
from .payload import Layout, Model
from .round import Rejections
from .state import State

StrPath = str | os.PathLike[str]
Metrics = Mapping[str, Mapping[str, Any]]  # by kind: "train", "evaluate", "server"
Arrays = TypeVar("Arrays")  # the model as an API has it
Outcome = TypeVar("Outcome")
Id = TypeVar("Id", int, str)
RoundEnd = Callable[[int, Arrays, Metrics], object]
StopWhen = Callable[[int, Metrics], bool]
BestBy = Callable[[Metrics], float]


@dataclass(frozen=True, kw_only=True)
class RoundOptions:
    """What to keep of the rounds and to do at their ends, checked; see `Hardened`."""

    num_byzantine: int | None = None
    checkpoints: StrPath | None = None
    audit: StrPath | None = None
    on_round_end: RoundEnd[Any] | None = None
    stop_when: StopWhen | None = None
    best_by: BestBy | None = None
    exclude_above: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if "num_byzantine" in given:
            check_number("num_byzantine", self.num_byzantine, whole=True, least=0)
        for name in given.keys() & {"checkpoints", "audit"}:
            check_kind(name, given[name], (str, os.PathLike), "a path")
        for name in given.keys() & {"on_round_end", "stop_when", "best_by"}:
            check_function(name, given[name])
        if "best_by" in given and "checkpoints" not in given:
            text = "best_by keeps the best model beside the checkpoints: give checkpoints"
            raise ValueError(text)
        if "exclude_above" in given:
            check_number("exclude_above", self.exclude_above, above=0, below=1)
            if not self.num_byzantine:
                text = f"exclude_above={self.exclude_above} excludes at most q clients"
                raise ValueError(f"{text}: give num_byzantine, at least 1")

    @property
    def at_round_ends(self) -> list[str]:
        """Names of the options given that act when a round ends."""
        names = ("checkpoints", "on_round_end", "stop_when", "best_by")
        return [name for name in names if getattr(self, name) is not None]


class Rounds:
    """Knows what was sent to whom, keeps what came of it, and ends the rounds."""

    def __init__(self, options: RoundOptions) -> None:
        self.options = options
        self.audit = None if options.audit is None else AuditTrail(Path(options.audit))
        self.suspicion = self.audit.suspicion if self.audit else Suspicion()
        self.history = History()
        self.sent: Model | None = None
        self.asked: frozenset[ClientId] | None = None
        self.weights: frozenset[str] = frozenset()  # names of arrays that distances are taken of
        self._is_stopped = False
        self._best = -inf
        self.excluded: frozenset[str] = frozenset()  # who is not asked in this round

    @property
    def layout(self) -> Layout | None:
        """Layout of the model that was sent, where it is known."""
        return None if self.sent is None else self.sent.layout

    @property
    def are_judged(self) -> bool:
        """Whether anything follows from how far each client is from the aggregate."""
        return self.audit is not None or self.options.exclude_above is not None

    def resume(self, initial: Mapping[str, NDArray[Any]] | None) -> History:
        """Begin a training, or go on with the one in the folder of checkpoints.

        Raises ValueError or OSError, as `History.resume` does.
        """
        self.history.close()
        folder = self.options.checkpoints
        self.history = history = History.resume(None if folder is None else Path(folder), initial)
        # As they were given: a strategy may make floats of counters.
        self.weights = frozenset(n for n, a in (initial or {}).items() if a.dtype.kind == "f")
        self.suspicion.scores = history.suspicion
        self._is_stopped, self._best = False, -inf
        if history.finished > 0:
            self._stop_if_wanted(history.finished)
            best = Path(folder or "") / BEST
            if self.options.best_by is not None and best.is_file():
                self._best = self._value(Checkpoint.read(best).metrics)
        return history

    def are_over(self, server_round: int) -> bool:
        """Whether no client is asked in a round: it is in a checkpoint, or training has ended."""
        return server_round <= self.history.finished or self._is_stopped

    def begin(self, model: Model | None, clients: Collection[ClientId] | None = None) -> None:
        """Remember the model sent and the clients asked: None where that is not known."""
        self.sent, self.asked = model, None if clients is None else frozenset(clients)
        if model is not None and not self.weights:
            self.weights = frozenset(spec.name for spec in model.layout.floats)

    def end(
        self,
        server_round: int,
        model: Any,
        arrays: Callable[[], Mapping[str, NDArray[Any]]],
        state: Callable[[], State] = State,
    ) -> None:
        """End a round: write its checkpoint, call the user's functions, note whether to stop.

        `on_round_end` gets `model`; `arrays` returns it as NumPy arrays, `state` the optimizer's.
        """
        metrics = self.history.metrics(server_round)
        value = self._value(metrics) if server_round > 0 else -inf
        is_best = value > self._best
        self._best = max(value, self._best)
        if self.history.folder is not None:
            self.history.keep(server_round, arrays(), state(), is_best=is_best)
        if server_round > 0:
            if (call := self.options.on_round_end) is not None:
                _tried("on_round_end", lambda: call(server_round, model, metrics), None)
            self._stop_if_wanted(server_round)

    def admitted(self, server_round: int, clients: Sequence[Id], least: int) -> list[Id]:
        """Return the clients that may be asked in a round, at least so many where there are."""
        above, most = self.options.exclude_above, self.options.num_byzantine or 0
        if above is None:
            return list(clients)
        most = min(most, max(len(clients) - least, 0))
        here = {str(client) for client in clients}
        suspects = self.suspicion.excluded(server_round, above)
        excluded = [client for client in suspects if client in here][:most]
        for client in sorted(here & (self.excluded ^ set(excluded)), key=identity_order):
            verb = "no longer" if client in excluded else "again"
            entry = self.suspicion.entry(client)
            text = "client %s is %s asked: its suspicion is %s over %s rounds"
            log(WARNING, text, escaped(client), verb, entry["suspicion"], entry["rounds"])
        self.excluded = frozenset(excluded)
        return [client for client in clients if str(client) not in self.excluded]

    def counts(
        self, asked: Collection[ClientId], accepted: Collection[ClientId], rejections: Rejections
    ) -> dict[str, int | float]:
        """Count who was asked, rejected and silent; warn where that is more than the rule holds."""
        silent = set(asked).difference(accepted, rejections.verdicts)
        missing = max(len(silent) - rejections.num_unknown, 0)
        unusable = len(rejections) + missing
        q = self.options.num_byzantine
        if q is not None and unusable > q:
            text = "%d clients sent no usable reply, above num_byzantine=%d: there is no guarantee"
            log(WARNING, text, unusable, q)
        number, reason, what = rejections.most_common(asked)
        if number > len(asked) / 2:
            text = "%d of %d clients %s: this looks like your app, not an attack (%s)"
            log(ERROR, text, number, len(asked), what, reason)
        return {"byz-clients": len(asked), "byz-rejected": len(rejections), "byz-missing": missing}

    def record(self, server_round: int, record: RoundRecord) -> None:
        """Add a round to the audit trail, if there is one, and to the suspicion of its clients."""
        if self.audit is not None:
            self.audit.write(server_round, record)
        else:
            self.suspicion.add(record.clients)

    def _value(self, metrics: Metrics) -> float:
        """Return the value of a model by its metrics, -inf where it has none."""
        if (best_by := self.options.best_by) is None:
            return -inf
        value = _tried("best_by", lambda: float(best_by(metrics)), -inf)
        return -inf if isnan(value) else value

    def _stop_if_wanted(self, server_round: int) -> None:
        metrics, wanted = self.history.metrics(server_round), self.options.stop_when
        if wanted and _tried("stop_when", lambda: wanted(server_round, metrics), False):
            self._is_stopped = True
            log(INFO, "stop_when ends training after round %d", server_round)


def _tried(name: str, call: Callable[[], Outcome], default: Outcome) -> Outcome:
    """Return what a user's function returns of clients' metrics: one can be missing any time."""
    try:
        return call()
    except Exception as error:
        log(ERROR, "%s failed: %s", name, escaped(repr(error)))
        return default
