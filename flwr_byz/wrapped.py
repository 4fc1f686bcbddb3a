"""Strategies of Flower's around others: each has the other in its attribute ``strategy``."""

from collections.abc import Iterator
from typing import Any

from .checks import check_kind, wrong_kind

_TREES = ("FedXgbBagging", "FedXgbCyclic", "FedXgbNnAvg")
_RULES = ("FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum", "Bulyan", "QFedAvg")


def check_strategy(strategy: object, base: type) -> None:
    """Raise TypeError unless a strategy is an object of its API's `base` that can be wrapped."""
    _check_no_trees(strategy)
    if isinstance(strategy, type):
        raise TypeError(f"strategy must be an object, got a class: give {strategy.__name__}(...)")
    package = base.__module__.rpartition(".")[0]
    check_kind("strategy", strategy, base, f"one of {package}, such as FedAvg()")


def check_optimizer(strategy: object, base: type) -> None:
    """Raise TypeError where a strategy is no class whose rule is FedAvg's mean (`base`)."""
    if not isinstance(strategy, type):
        needed = "a class, as in robust(FedAdam, num_byzantine=2, eta=0.1)"
        raise wrong_kind("strategy", needed, strategy)
    _check_no_trees(strategy)
    name, package = strategy.__name__, base.__module__.rpartition(".")[0]
    if not issubclass(strategy, base) or {k.__name__ for k in strategy.__mro__} & {*_RULES}:
        raise TypeError(
            f"strategy must be FedAdam, FedAdagrad, FedYogi, FedAvgM, FedProx or FedAvg of "
            f"{package}, got {name}, which takes no mean: Hardened({name}(...)) checks its replies"
        )


def _check_no_trees(strategy: object) -> None:
    if trees := trees_in(strategy):
        needed = "strategy must aggregate arrays of fixed shape, no trees"
        raise TypeError(f"{needed}, got {trees}: give one such as FedAvg()")


def trees_in(strategy: object) -> str:
    """Return the class of XGBoost's trees that a strategy, or one it wraps, is made from, or ""."""
    kinds = [each if isinstance(each, type) else type(each) for each in _chain(strategy)]
    names = [base.__name__ for kind in kinds for base in kind.__mro__]
    return next((name for name in names if name in _TREES), "")


def check_rule(kind: type, own: type, method: str) -> None:
    """Raise TypeError where a class aggregates by a class of Flower's, before `own` is reached."""
    for base in kind.__mro__[: kind.__mro__.index(own)]:
        if base.__module__.startswith("flwr.") and method in vars(base):
            raise TypeError(
                f"{kind.__name__} aggregates by {base.__name__}.{method}, not robustly: use "
                f"robust({base.__name__}, num_byzantine=...) or Hardened({base.__name__}(...))"
            )


def clips_at_server(strategy: object) -> bool:
    """Say whether a strategy, or one that it wraps, clips updates at the server for privacy."""
    names = [type(each).__name__ for each in _chain(strategy)]
    return any(name.startswith("DifferentialPrivacyServerSide") for name in names)


def option(strategy: object, name: str, default: Any) -> Any:
    """Return an option of a strategy, or of the first one it wraps that has it."""
    known = [getattr(each, "__dict__", {}) for each in _chain(strategy)]
    return next((options[name] for options in known if name in options), default)


def _chain(strategy: object) -> Iterator[object]:
    """Yield a strategy, or a class of them, and what it wraps, from the outside in."""
    while strategy is not None:
        yield strategy
        strategy = getattr(strategy, "strategy", None)
