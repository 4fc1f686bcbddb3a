"""What a rule of the registry is, and what a server has besides the replies."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray

from flwr_byz.attacks.arrays import flatten, unflatten

from .problem import Arrays, Problem, TrustedData

Vectors = NDArray[np.float64]
Settings = tuple[type, dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Trusted:
    """What a server makes of data that it trusts, in one round.

    Attributes
    ----------
    update : ndarray (d,)
        What it would reply itself: its update, or gradient.
    loss : callable
        Maps an aggregate (d,) to the loss, on those data, of the model that it leads to.
    after : callable
        Maps an aggregate (d,) to the one that leads to where that model is after the server has
        trained it on those data.
    """

    update: Vectors
    loss: Callable[[Vectors], float]
    after: Callable[[Vectors], Vectors]


@dataclass(frozen=True, eq=False)
class ServerSide:
    """What a server has besides the replies of a round; an adversary knows it, too.

    Attributes
    ----------
    last : ndarray (d,), optional
        The aggregate of the round before; none before the first.
    trusted : Trusted, optional
    """

    last: Vectors | None = None
    trusted: Trusted | None = None


@dataclass(frozen=True)
class Rule:
    """A rule of the registry.

    Attributes
    ----------
    title : str
    aggregate : callable
        Maps vectors (m, d), q, what the server has and the rule's options to the aggregate (d,), as
        the Message API's strategy does. Of a random choice an adversary knows the mean, which is
        what it gets on average.
    message, classic : callable
        Map m and q to the strategy's class and what it is set to.
    options : mapping
        The options that a text may set, and their titles, such as ``"radius {}"``.
    needs_trusted_data : bool
    """

    title: str
    aggregate: Callable[..., Vectors]
    message: Callable[[int, int], Settings]
    classic: Callable[[int, int], Settings] | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    needs_trusted_data: bool = False


def signed_step(problem: Problem) -> float:
    """Return the factor of an aggregate in the step: η for updates, −η for gradients."""
    step = problem.server_learning_rate
    return step if problem.reply_kind == "weights" else -step


def has_trusted_data(problem: Problem) -> bool:
    """Whether the server of a problem holds data."""
    return getattr(problem, "trusted", 0) > 0


def trusted_in(problem: TrustedData, server_round: int, arrays: Arrays) -> Trusted:
    """Return what the server's own data say of the model that is sent in a round."""
    sent, step = flatten(arrays), signed_step(problem)
    update = flatten(problem.server_update(server_round, arrays))
    if problem.reply_kind == "weights":
        update -= sent

    def model(aggregate: Vectors) -> Arrays:
        return unflatten(sent + step * aggregate, arrays)

    def loss(aggregate: Vectors) -> float:
        return problem.trusted_loss(model(aggregate))

    def after(aggregate: Vectors) -> Vectors:
        trained = problem.server_update(server_round, model(aggregate))
        return np.asarray((flatten(trained) - sent) / step)

    return Trusted(update, loss, after)


def step_between(problem: Problem, before: Arrays, arrays: Arrays) -> Vectors:
    """Return the aggregate that led from one round's model to the next one's (d,)."""
    return (flatten(arrays) - flatten(before)) / signed_step(problem)


def server_update_fn(api: str, problem: TrustedData) -> Callable[[int, Any], Any]:
    """Return a problem's `server_update` on models as the strategies of an API have them."""
    if api == "classic":
        return problem.server_update

    def update(server_round: int, arrays: ArrayRecord) -> ArrayRecord:
        trained = problem.server_update(server_round, arrays.to_numpy_ndarrays())
        return ArrayRecord({n: Array(a) for n, a in zip(arrays, trained, strict=True)})

    return update
