"""Any rule behind the checks: what reaches it, and what becomes of what it returns.

``replies -> checked, of one form, in client order -> the rule -> a finite model of its layout``.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from logging import ERROR, WARNING
from typing import Any, TypeVar

import numpy as np
from flwr.supercore import log
from numpy.typing import NDArray

from .audit import Verdict
from .identity import ClientId, identity_order
from .logs import escaped
from .payload import Layout, MalformedReply, Model, read_number
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
from .state import attributes, put_back

_NO_MOVE = 1e-18  # a distance whose square float32 rounds to 0
Asked = frozenset[ClientId] | None  # None where that is not known
Trained = tuple[Model | None, dict[str, Any]]  # None keeps the old model; metrics of the round
Evaluated = tuple[float | None, dict[str, Any]]  # the loss, in the classic API, and metrics
Form = frozenset[tuple[str, str]]  # names and types
Function = TypeVar("Function")  # a caller's
FormOf = Callable[[Reply], Form | None]  # None where a reply has no form that could be usual


def accepted(
    replies: Iterable[Reply], asked: Asked, rejections: Rejections, form_of: FormOf | None
) -> tuple[frozenset[ClientId], list[Reply]]:
    """Return the clients that were asked, and the replies that a rule may see, in client order.

    They are those of the most common form, where forms count.
    """
    asked, usable = received(replies, asked, rejections)
    usable = [r for r in usable if r.model is None or is_finite(r, rejections)]
    if form_of is not None:
        usable = _of_one_form(usable, form_of, rejections)
    return asked, sorted(usable, key=lambda reply: identity_order(reply.client))


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
    sent = [] if rounds.sent is None else [rounds.sent]
    if q != 0 and are_copies(models) and not are_copies([*sent, models[0]]):
        log(ERROR, COPIES, len(models))
        return False
    return True


def attempted(make: Callable[[], Trained], strategy: object, rounds: Rounds) -> Trained:
    """Return the model that a strategy makes of replies, ordered as that sent, and its metrics.

    No model, a line in the log and the strategy's attributes as they were, where it raises, or what
    it makes is not finite or not of the arrays that were sent.
    """
    before, metrics = attributes(strategy), dict[str, Any]()
    try:
        model, metrics = make()
        if model is not None:
            model.check_finite()
            model = model if rounds.layout is None else _in_order(model, rounds.layout)
        return model, metrics
    except Exception as error:  # whatever that code trips over
        log(ERROR, "the strategy failed, the model is kept: %s", escaped(repr(error)))
        put_back(strategy, before)
        return None, metrics


def last_word(
    function: Function | None, call: Callable[[Function, int, Model], Model], server_round: int
) -> Callable[[Model], Model] | None:
    """Return what maps a model to what the server's own function makes of it in a round.

    `call` calls it with a model as its API has it. The model itself is returned where it fails;
    without a function there is no map.
    """
    if function is None:
        return None

    def update(model: Model) -> Model:
        try:
            made = call(function, server_round, model)
            made.check_finite()
            return made
        except Exception as error:  # whatever that code trips over
            log(ERROR, "server_update_fn failed, it is left out: %s", escaped(repr(error)))
            return model

    return update


def form_of_metrics(reply: Reply) -> Form | None:
    """Return the names and types of a reply's metrics; None where one is not finite."""
    form = set()
    for name, value in reply.metrics.items():
        kind, numbers = type(value).__name__, list[object]()
        if isinstance(value, list):
            kind, numbers = f"{len(value)} numbers", value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            kind, numbers = "number", [value]
        try:
            for number in numbers:
                read_number(number, "a metric")
        except MalformedReply:
            return None
        form.add((name, kind))
    return frozenset(form)


def _in_order(model: Model, sent: Layout) -> Model:
    """Return a model with its arrays in the order of the one sent."""
    made = {spec.name: (spec, value) for spec, value in model.items()}
    shapes = {name: spec.shape for name, (spec, _) in made.items()}
    if shapes != {spec.name: spec.shape for spec in sent.arrays}:
        raise MalformedReply("its arrays are not the model's")
    specs, values = zip(*(made[spec.name] for spec in sent.arrays), strict=True)
    return Model(Layout(specs), values)


def judged(
    usable: Sequence[Reply], model: Model | None, weights: frozenset[str]
) -> dict[ClientId, Verdict]:
    """Return the verdicts on replies that were used, with the distances of their weights."""
    distances: list[float | None] = [None] * len(usable)
    if model is not None:
        specs = model_of(usable[0]).layout.arrays

        def vector(of: Model) -> list[NDArray[Any]]:
            pairs = zip(specs, of.values, strict=True)
            return [value.ravel(spec.order) for spec, value in pairs if spec.name in weights]

        floats = vector(model)
        point = np.concatenate(floats) if floats else np.empty(0)
        distances = [*distances_from([vector(model_of(r)) for r in usable], None, point)]
    pairs = zip(usable, distances, strict=True)
    return {reply.client: Verdict("used", distance=distance) for reply, distance in pairs}


def moved(replies: Sequence[Reply], sent: Model, rejections: Rejections) -> list[Reply]:
    """Return the replies that differ from the model sent: Flower divides by how far they do."""
    point = np.concatenate([np.empty(0), *sent.floats()])
    distances = distances_from([model_of(r).floats() for r in replies], None, point)
    for reply, distance in zip(replies, distances, strict=True):
        if distance <= _NO_MOVE:
            rejections.add(reply.client, "it is the model that was sent", is_error=True)
    return [r for r, distance in zip(replies, distances, strict=True) if distance > _NO_MOVE]


def _of_one_form(replies: Sequence[Reply], form_of: FormOf, rejections: Rejections) -> list[Reply]:
    """Return the replies of the form that most have.

    Another form is no evidence against a client: q of them can make the rarer of two the usual one.
    """
    forms = [form_of(reply) for reply in replies]
    votes = Counter(form for form in forms if form is not None)
    usual = max(votes, key=lambda form: (votes[form], sorted(map(repr, form))), default=frozenset())
    kept = []
    for reply, form in zip(replies, forms, strict=True):
        if form == usual:
            kept.append(reply)
            continue
        text = "a metric is not finite, or beyond 64 bits"
        if form is not None:
            names = sorted({str(name) for name, _ in usual ^ form})
            text = f"its metrics or records differ from those of most clients in {names[:2]}"
        rejections.add(reply.client, text, is_error=True)
    return kept
