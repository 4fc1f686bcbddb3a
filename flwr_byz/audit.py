"""The audit trail: what every client did in each round, as JSON lines, and how suspect it is.

A line holds one round::

    {"round": 3, "time": "2026-01-31T12:00:00.000+00:00", "kept": false, "gap": 1e-10,
     "batches": [{"weight": 0.25, "norm": 1.5, "trimmed": false}, ...],
     "clients": {"7": {"batch": 0, "reply": "used", "reason": "", "distance": 0.9,
                       "rounds": 3, "suspicion": 0.02}, ...}}

``kept`` says that the old model was kept; ``batches`` are those that answered, in the order of the
numbers that ``clients`` name; ``reply`` is one of "used", "rejected", "error" (also where a reply
has other metrics than most, see `Hardened`) and "silent"; a number that does not exist is null.
Where a round was run again after a restart, its last line holds. Nothing of a model is written
down.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from logging import WARNING
from pathlib import Path
from typing import Any, Literal

import numpy as np
from flwr.supercore import log

from . import json_lines
from .identity import ClientId

Scores = dict[str, tuple[int, float]]  # by client: rounds in which it answered, sum of evidence

_LEAST_ROUNDS = 3  # that a client has answered before it is excluded
_PROBATION = 10  # in every round of this multiple, excluded clients are asked again


@dataclass(frozen=True)
class Verdict:
    """How the server took one client in a round."""

    reply: Literal["used", "rejected", "error", "silent"]
    batch: int | None = None  # among those that answered
    reason: str = ""  # why the reply was rejected
    distance: float | None = None  # of its reply (with `streaming`, its row) from the aggregate


@dataclass(frozen=True)
class BatchRecord:
    """A batch: its weight in the median, the norm of its mean, whether it was trimmed."""

    weight: float
    norm: float
    trimmed: bool


@dataclass(frozen=True)
class RoundRecord:
    """A line of the trail."""

    kept: bool
    gap: float | None
    batches: list[BatchRecord]  # none where nothing was aggregated
    clients: dict[ClientId, Verdict]  # on every one that was asked or that answered


@dataclass
class Suspicion:
    """How suspect each client is: the mean of the evidence against it.

    It is taken over the rounds in which the client answered: 1 for a malformed reply, and for one
    that was used how much farther it is from the aggregate than the median reply, from 0 (as far,
    or nearer) to 1 (twice as far, or more). Silence and errors are no evidence: devices fail.
    Neither is an attack within the honest spread, and honest clients whose data are rare are
    suspected.
    """

    scores: Scores = field(default_factory=dict)

    def add(self, verdicts: Mapping[ClientId, Verdict]) -> None:
        """Add the evidence of a round."""
        distances = [v.distance for v in verdicts.values() if v.distance is not None]
        with np.errstate(all="ignore"):
            typical = float(np.median(distances)) if distances else math.nan
        for client, verdict in verdicts.items():
            distance = verdict.distance
            if verdict.reply == "rejected":
                evidence = 1.0
            elif distance is None:
                continue
            elif distance > typical:
                evidence = min(distance / typical - 1.0, 1.0) if typical > 0 else 1.0
            else:
                evidence = 0.0
            rounds, total = self.scores.get(str(client), (0, 0.0))
            self.scores[str(client)] = rounds + 1, total + evidence

    def entry(self, client: ClientId) -> dict[str, int | float | None]:
        """Return the rounds in which a client answered, and its suspicion."""
        rounds, total = self.scores.get(str(client), (0, 0.0))
        return {"rounds": rounds, "suspicion": round(total / rounds, 4) if rounds else None}

    def excluded(self, server_round: int, above: float) -> list[str]:
        """Return the clients that are better not asked in a round, the most suspect first.

        They have answered in three rounds, and their suspicion stays above the threshold. In every
        tenth round all are asked, so that an exclusion can be reversed.
        """
        if server_round % _PROBATION == 0:
            return []
        means = {c: total / n for c, (n, total) in self.scores.items() if n >= _LEAST_ROUNDS}
        suspects = [client for client, mean in means.items() if mean > above]
        return sorted(suspects, key=lambda client: (-means[client], client))


@dataclass
class AuditTrail:
    """Writes a line a round, with the suspicion of each client.

    Lines are added to `path`; at `max_bytes` it becomes ``<path>.1``, and a new file begins.
    """

    path: Path
    max_bytes: int = 64 << 20
    suspicion: Suspicion = field(default_factory=Suspicion, init=False)

    def write(self, server_round: int, record: RoundRecord) -> None:
        """Add a round. An error of the disk is logged: it must not end a training."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"round": server_round, "time": now, **json_lines.plain(asdict(record))}
        self.suspicion.add(record.clients)
        for client, entry in line["clients"].items():
            entry |= self.suspicion.entry(client)
        try:
            if self.path.exists() and self.path.stat().st_size > self.max_bytes:
                self.path.replace(self.path.with_name(self.path.name + ".1"))
            json_lines.append(self.path, [line])
        except OSError as error:
            log(WARNING, "round %d is missing in the audit trail: %s", server_round, error)


def read(path: Path) -> list[dict[str, Any]]:
    """Read the rounds of a trail, in the order written; lines that are cut off are skipped."""
    return list(json_lines.read(path))
