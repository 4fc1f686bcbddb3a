"""The robust strategy in exchange for an app's own."""

from inspect import signature
from typing import Any

from flwr.server import strategy as classic
from flwr.serverapp import strategy as message
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords

from ..server.strategy import GeometricMedianOfMeans as ClassicGeometricMedianOfMeans
from ..serverapp.strategy import AsyncGeometricMedianOfMeans
from ..serverapp.strategy import GeometricMedianOfMeans as MessageGeometricMedianOfMeans
from ..wrapped import trees_in
from .runs import ROBUST

_RULES = ("aggregate_train", "aggregate_fit", "aggregate_evaluate")


class Refused(Exception):
    """The app is of a kind that a trial cannot judge."""


def refuse_trees(own: object) -> None:
    """Raise Refused for Flower's strategies over XGBoost's trees, of either API."""
    if trees := trees_in(own):
        text = f"the app's strategy is {trees}, which collects trees; {ROBUST} averages arrays of"
        raise Refused(f"{text} fixed shape, no trees")


def exchange(own: Any, num_byzantine: int) -> tuple[Any, list[str]]:
    """Return the robust strategy with the options of an app's own, and what is not carried over.

    Of a subclass of ``FedAvg`` everything stays but how replies are aggregated: the config for
    clients, its loop, its attributes, as in ``class Robust(GeometricMedianOfMeans, YourStrategy)``.
    """
    settings: dict[str, Any] = {"num_byzantine": num_byzantine, "trim_norm": "auto"}
    is_message, theirs = isinstance(own, message.Strategy), type(own)
    kind: Any = MessageGeometricMedianOfMeans if is_message else ClassicGeometricMedianOfMeans
    base: type = message.FedAvg if is_message else classic.FedAvg
    if not isinstance(own, base):
        return kind(**settings), [f"{theirs.__name__} is no FedAvg: {ROBUST} keeps nothing of it"]
    for name in signature(base).parameters:
        value: Any = getattr(own, name, aggregate_metricrecords)
        if value is not aggregate_metricrecords:  # instead of this default, a robust one
            is_minimum = name.startswith("min_")
            settings[name] = max(value, 2 * num_byzantine + 1) if is_minimum else value
    robust = kind(**settings)
    if isinstance(own, AsyncGeometricMedianOfMeans):
        return robust, [f"{ROBUST} waits for all clients in each round, {theirs.__name__} does not"]
    if theirs is base or isinstance(own, kind):
        return robust, []
    robust.__class__ = type(ROBUST, (kind, theirs), {})
    for name, value in vars(own).items():
        vars(robust).setdefault(name, value)
    replaced = [n for n in _RULES if getattr(theirs, n, None) is not getattr(base, n, None)]
    notes = [f"{theirs.__name__}'s own {' and '.join(replaced)} is not carried over to {ROBUST}"]
    return robust, notes if replaced else []
