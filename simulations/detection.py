"""How well the evidence of the audit trail tells Byzantine clients from honest ones."""

import math
from collections.abc import Mapping

import numpy as np

from clients.byzantine import Adversary, Scheduled
from clients.problem import Arrays, Problem
from clients.rule import step_between
from flwr_byz.attacks import Fixed
from flwr_byz.audit import Suspicion, Verdict
from flwr_byz.identity import ClientId
from flwr_byz.round import distances_from

FLAGGED = 0.5
"""Clients whose suspicion ends above it are flagged."""


class Detection:
    """Suspicion of every client of a run, whatever the rule, as the audit trail takes it.

    Each well-formed reply is judged by its distance from the model after the step (of gradients,
    from the one that leads there), and one that is malformed counts as rejected. The model is that
    after a server's training on its own data, too, where the audit trail takes the clients'
    aggregate.
    """

    def __init__(self, problem: Problem, byzantine: frozenset[int]) -> None:
        self.problem = problem
        self.byzantine = byzantine
        self.suspicion = Suspicion()

    @classmethod
    def of(cls, problem: Problem, adversary: Adversary | None) -> "Detection | None":
        """Begin with no evidence; None where no client is Byzantine in every round."""
        choose = None if adversary is None else adversary.choose
        if isinstance(choose, Scheduled) and isinstance(choose.schedule, Fixed):
            return cls(problem, choose.schedule.clients)
        return None

    def add(self, replies: Mapping[int, Arrays], sent: Arrays, after: Arrays | None) -> None:
        """Add the evidence of a round; `after` is None where the model that was sent is kept."""
        usable = [client for client, reply in replies.items() if _is_well_formed(reply, sent)]
        verdicts: dict[ClientId, Verdict]
        verdicts = {client: Verdict("rejected") for client in {*replies} - {*usable}}
        if after is not None and all(np.isfinite(array).all() for array in after):
            vectors = [[np.ravel(array) for array in replies[client]] for client in usable]
            is_weights = self.problem.reply_kind == "weights"
            centre = [np.ravel(array) for array in sent] if is_weights else None
            point = step_between(self.problem, sent, after)
            measured = zip(usable, distances_from(vectors, centre, point), strict=True)
            verdicts |= {client: Verdict("used", distance=value) for client, value in measured}
        self.suspicion.add(verdicts)

    def numbers(self) -> dict[str, float]:
        """Return precision, NaN where no client is flagged, and recall."""
        entries = {client: self.suspicion.entry(client) for client in self.suspicion.scores}
        flagged = {int(c) for c, entry in entries.items() if (entry["suspicion"] or 0) > FLAGGED}
        right = len(flagged & self.byzantine)
        precision = right / len(flagged) if flagged else math.nan
        return {"precision": precision, "recall": right / len(self.byzantine)}


def _is_well_formed(reply: Arrays, sent: Arrays) -> bool:
    """Say whether a reply has the shapes of the model sent, and is finite in its dtypes."""
    if [array.shape for array in reply] != [array.shape for array in sent]:
        return False
    with np.errstate(all="ignore"):
        return all(
            array.dtype.kind in "fiu" and bool(np.isfinite(array.astype(like.dtype)).all())
            for array, like in zip(reply, sent, strict=True)
        )
