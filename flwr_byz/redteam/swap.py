"""Our strategies in the place of an app's own."""

from inspect import signature
from typing import Any

from flwr.server import strategy as classic
from flwr.serverapp import strategy as message
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords

from ..server.strategy import GeometricMedianOfMeans as ClassicGeometricMedianOfMeans
from ..serverapp.strategy import GeometricMedianOfMeans as MessageGeometricMedianOfMeans
from .outcome import OURS

_RULES = ("aggregate_train", "aggregate_fit", "aggregate_evaluate")


def message_swap(own: message.Strategy, num_byzantine: int) -> tuple[message.Strategy, list[str]]:
    """Return ours with the options of a Message API app's strategy, and what is not carried over.

    Of a subclass of ``FedAvg`` everything stays but how replies are aggregated: what it sends to
    clients, its loop, its attributes. That is what ``class Ours(GeometricMedianOfMeans, TheirOwn)``
    gives.
    """
    if not isinstance(own, message.FedAvg):
        return _ours_alone(MessageGeometricMedianOfMeans, own, num_byzantine)
    options = _options(own, message.FedAvg, num_byzantine)
    for name in ("train_metrics_aggr_fn", "evaluate_metrics_aggr_fn"):
        if options[name] is aggregate_metricrecords:
            del options[name]  # not the app's: ours has a robust default
    ours = MessageGeometricMedianOfMeans(num_byzantine=num_byzantine, trim_norm="auto", **options)
    return _with_the_rest_of(own, ours, message.FedAvg)


def classic_swap(own: classic.Strategy, num_byzantine: int) -> tuple[classic.Strategy, list[str]]:
    """Do the same for the strategy of a classic app."""
    if not isinstance(own, classic.FedAvg):
        return _ours_alone(ClassicGeometricMedianOfMeans, own, num_byzantine)
    options = _options(own, classic.FedAvg, num_byzantine)
    ours = ClassicGeometricMedianOfMeans(num_byzantine=num_byzantine, trim_norm="auto", **options)
    return _with_the_rest_of(own, ours, classic.FedAvg)


def _ours_alone(kind: type[Any], own: object, num_byzantine: int) -> tuple[Any, list[str]]:
    note = f"{type(own).__name__} is no FedAvg: nothing of it is carried over to {OURS}"
    return kind(num_byzantine=num_byzantine, trim_norm="auto"), [note]


def _options(own: object, base: type[Any], num_byzantine: int) -> dict[str, Any]:
    """Return the options of FedAvg's that a strategy has, with enough clients to outvote q."""
    least = 2 * num_byzantine + 1
    names = signature(base).parameters
    options = {name: getattr(own, name) for name in names if hasattr(own, name)}
    return {
        name: max(value, least) if name.startswith("min_") else value
        for name, value in options.items()
    }


def _with_the_rest_of(own: Any, ours: Any, base: type) -> tuple[Any, list[str]]:
    theirs, kind = type(own), type(ours)
    if theirs is base or isinstance(own, kind):
        return ours, []
    ours.__class__ = type(OURS, (kind, theirs), {})
    for name, value in vars(own).items():
        vars(ours).setdefault(name, value)
    replaced = [
        name for name in _RULES if getattr(theirs, name, None) is not getattr(base, name, None)
    ]
    if not replaced:
        return ours, []
    return ours, [f"{theirs.__name__}'s own {' and '.join(replaced)} is not carried over to {OURS}"]
