"""Strategies of Flower's around others: each has the other in its attribute ``strategy``."""

from typing import Any

_TREES = ("FedXgbBagging", "FedXgbCyclic", "FedXgbNnAvg")
_RULES = ("FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum", "Bulyan", "QFedAvg")


def check_strategy(strategy: object, base: type) -> None:
    """Raise TypeError where a strategy is not an object of an API's base class that can be wrapped.

    `base` is the class that all strategies of the API have.
    """
    api = "Message" if base.__module__.startswith("flwr.serverapp") else "classic"
    name = strategy.__name__ if isinstance(strategy, type) else type(strategy).__name__
    if trees := _trees(strategy):
        raise TypeError(f"{trees}: only arrays of fixed shape can be checked, no trees")
    if isinstance(strategy, type):
        raise TypeError(f"give a strategy, not its class: {name}(...)")
    if not isinstance(strategy, base):
        raise TypeError(f"strategy must be of Flower's {api} API ({base.__module__}), got {name}")


def check_optimizer(strategy: object, base: type) -> None:
    """Raise TypeError where a strategy is no class whose rule is FedAvg's mean (`base`)."""
    if not isinstance(strategy, type):
        text = f"give the class of the strategy and its options, got {type(strategy).__name__}(...)"
        raise TypeError(f"{text}: robust(FedAdam, num_byzantine=2, eta=0.1)")
    others = {kind.__name__ for kind in strategy.__mro__}.intersection((*_RULES, *_TREES))
    if not issubclass(strategy, base) or others:
        raise TypeError(
            f"robust() takes FedAvg and what steps along its mean (FedAdam, FedAdagrad, FedYogi, "
            f"FedAvgM, FedProx) from {base.__module__}, got {strategy.__name__}"
        )


def check_rule(kind: type, own: type, method: str) -> None:
    """Raise TypeError where a class aggregates by a class of Flower's, before `own` is reached."""
    for base in kind.__mro__[: kind.__mro__.index(own)]:
        if base.__module__.startswith("flwr.") and method in vars(base):
            raise TypeError(
                f"{kind.__name__} aggregates by {base.__name__}.{method}, not robustly: use "
                f"robust({base.__name__}, num_byzantine=...) or Hardened({base.__name__}(...))"
            )


def option(strategy: object, name: str, default: Any) -> Any:
    """Return an option of a strategy, or of the first one it wraps that has it."""
    known = getattr(strategy, "__dict__", {})
    if name in known:
        return known[name]
    return option(known["strategy"], name, default) if "strategy" in known else default


def _trees(strategy: object) -> str:
    """Return the class of trees that a strategy, or one that it wraps, is made from, if any."""
    kind = strategy if isinstance(strategy, type) else type(strategy)
    names = [base.__name__ for base in kind.__mro__ if base.__name__ in _TREES]
    inner = getattr(strategy, "strategy", None)
    return names[-1] if names else "" if inner is None else _trees(inner)
