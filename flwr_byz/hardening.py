"""Any rule behind the checks: what reaches it, and what becomes of what it returns.

``replies -> checked, of one form, in client order -> the rule -> a finite model of its layout``.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from logging import ERROR, WARNING
from typing import Any

import numpy as np
from flwr.supercore import log

from .audit import RoundRecord, Verdict
from .identity import ClientId, identity_order
from .logs import escaped
from .payload import MalformedReply, Model, read_number
from .round import (
    COPIES,
    Rejections,
    Reply,
    are_copies,
    distances_from,
    is_finite,
    model_of,
    received,
)
from .rounds import Rounds

Rule = Callable[[list[Reply]], tuple[Model | None, Mapping[str, Any]]]


def accepted(
    replies: Iterable[Reply],
    asked: frozenset[ClientId] | None,
    rejections: Rejections,
    have_one_form: bool,
) -> tuple[frozenset[ClientId], list[Reply]]:
    """Return the clients that were asked, and the replies that a rule may see, in client order.

    Where `have_one_form`, they are those whose metrics have the names and types that most have.
    """
    asked, usable = received(replies, asked, rejections)
    usable = [r for r in usable if r.model is None or is_finite(r, rejections)]
    if have_one_form:
        usable = _of_one_form(usable, rejections)
    return asked, sorted(usable, key=lambda reply: identity_order(reply.client))


def aggregate(
    rule: Rule,
    rounds: Rounds,
    server_round: int,
    replies: Iterable[Reply],
    have_one_form: bool,
) -> tuple[Model | None, dict[str, Any]]:
    """Let a rule make a step of the replies to the last `Rounds.begin`, if one is justified.

    Returns the new model, None where the old one is kept, and the rule's metrics with the counts of
    the round. What the rule raises is logged.
    """
    rejections = Rejections()
    asked, usable = accepted(replies, rounds.asked, rejections, have_one_form)
    counts = rounds.counts(asked, [reply.client for reply in usable], rejections)
    model, metrics = _step(rule, rounds, usable)
    verdicts = dict.fromkeys(sorted(asked, key=identity_order), Verdict("silent"))
    verdicts |= rejections.verdicts
    verdicts |= _judged(usable, model if rounds.are_judged else None)
    rounds.record(server_round, RoundRecord(model is None, None, [], verdicts))
    rounds.history.train[server_round] = report = {**metrics, **counts}
    return model, report


def evaluate(
    rule: Callable[[list[Reply]], Mapping[str, Any]],
    rounds: Rounds,
    replies: Iterable[Reply],
    asked: frozenset[ClientId] | None,
    have_one_form: bool,
) -> dict[str, Any]:
    """Let a rule aggregate the metrics of an evaluation; return them with the counts."""
    rejections = Rejections()
    asked, usable = accepted(replies, asked, rejections, have_one_form)
    counts = rounds.counts(asked, [reply.client for reply in usable], rejections)
    metrics: Mapping[str, Any] = {}
    if usable:
        try:
            metrics = rule(usable)
        except Exception as error:  # of another's code, fed with clients' replies
            log(ERROR, "the strategy failed, no metrics are reported: %s", escaped(repr(error)))
    return {**metrics, **counts}


def may_step(rounds: Rounds, models: Sequence[Model]) -> bool:
    """Say whether replies with these models may move the model; log why not."""
    q = rounds.options.num_byzantine
    if not models:
        log(WARNING, "no reply is usable: the model is kept")
        return False
    if q is not None and len(models) <= 2 * q:
        text = "%d usable replies, not more than 2q = %d: the model is kept"
        log(ERROR, text, len(models), 2 * q)
        return False
    if q != 0 and are_copies(models) and not _is_sent(rounds, models[0]):
        log(ERROR, COPIES, len(models))
        return False
    return True


def attempted(make: Callable[[], Model | None], rounds: Rounds) -> Model | None:
    """Return the model that another's code makes of clients' replies.

    None, and a line in the log, where it raises, or what it makes is not finite or not of the
    arrays that were sent.
    """
    try:
        model = make()
        if model is None:
            return None
        model.check_finite()
        shapes = {spec.name: spec.shape for spec in model.layout.arrays}
        if rounds.layout and shapes != {spec.name: spec.shape for spec in rounds.layout.arrays}:
            raise MalformedReply("its arrays are not the model's")
        return model
    except Exception as error:  # whatever that code trips over
        log(ERROR, "the strategy failed, the model is kept: %s", escaped(repr(error)))
        return None


def _step(
    rule: Rule, rounds: Rounds, usable: list[Reply]
) -> tuple[Model | None, Mapping[str, Any]]:
    if not may_step(rounds, [model_of(reply) for reply in usable]):
        return None, {}
    metrics: Mapping[str, Any] = {}

    def make() -> Model | None:
        nonlocal metrics
        model, metrics = rule(usable)
        return model

    return attempted(make, rounds), metrics


def _is_sent(rounds: Rounds, model: Model) -> bool:
    return rounds.sent is not None and are_copies([rounds.sent, model])


def _judged(usable: Sequence[Reply], model: Model | None) -> dict[ClientId, Verdict]:
    """Return the verdicts on replies that were used, with their distances from a model."""
    distances: list[float | None] = [None] * len(usable)
    if model is not None:
        floats = model.floats()
        point = np.concatenate(floats) if floats else np.empty(0)
        distances = [*distances_from([model_of(r).floats() for r in usable], None, point)]
    return {
        reply.client: Verdict("used", distance=distance)
        for reply, distance in zip(usable, distances, strict=True)
    }


def _of_one_form(replies: Sequence[Reply], rejections: Rejections) -> list[Reply]:
    """Return the replies whose metrics have the most common names and types."""
    forms = [_form(reply.metrics) for reply in replies]
    votes = Counter(form for form in forms if form is not None)
    usual = max(votes, key=lambda form: (votes[form], sorted(form)), default=frozenset())
    kept = []
    for reply, form in zip(replies, forms, strict=True):
        if form == usual:
            kept.append(reply)
        else:
            names = sorted(name for name, _ in usual ^ (form or frozenset()))
            text = f"its metrics differ from those of most clients in {names[:2]}"
            rejections.add(reply.client, text if form is not None else "a metric is not finite")
    return kept


def _form(metrics: Mapping[str, object]) -> frozenset[tuple[str, str]] | None:
    """Return the names and types of metrics; None where one is no metric or not finite."""
    form = set()
    for name, value in metrics.items():
        kind = type(value).__name__
        if isinstance(value, list):
            kind = f"{len(value)} numbers"
        elif isinstance(value, int | float) and not isinstance(value, bool):
            kind = "number"
        with suppress(MalformedReply):
            for entry in value if isinstance(value, list) else [value]:
                if kind.endswith(("number", "numbers")):
                    read_number(entry, "a metric")
            form.add((name, kind))
            continue
        return None
    return frozenset(form)
