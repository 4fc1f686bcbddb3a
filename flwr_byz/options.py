"""Options of Flower's strategies as a caller gives them: what is wrong gets an error that helps."""

from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from inspect import signature
from typing import Any, TypeVar

from .checks import check_function, check_kind, check_number, shown

Made = TypeVar("Made")

_OURS = {
    **dict.fromkeys(("q", "f", "num_malicious_nodes", "num_malicious_clients"), "num_byzantine"),
    "k": "num_batches",
    **dict.fromkeys(("lr", "eta"), "server_learning_rate"),
}
_MESSAGE_TO_CLASSIC = {
    "fraction_train": "fraction_fit",
    "min_train_nodes": "min_fit_clients",
    "min_evaluate_nodes": "min_evaluate_clients",
    "min_available_nodes": "min_available_clients",
    "train_metrics_aggr_fn": "fit_metrics_aggregation_fn",
    "evaluate_metrics_aggr_fn": "evaluate_metrics_aggregation_fn",
}
_CLASSIC_TO_MESSAGE = {
    **{classic: message for message, classic in _MESSAGE_TO_CLASSIC.items()},
    "initial_parameters": "start(initial_arrays=...)",
    "evaluate_fn": "start(evaluate_fn=...)",
    "on_fit_config_fn": "start(train_config=...)",
    "on_evaluate_config_fn": "start(evaluate_config=...)",
}


def parameters_of(kind: type) -> list[str]:
    """Return the names that a class takes, with those that it hands on to its base."""
    named = signature(kind).parameters
    own = [name for name, each in named.items() if each.kind is not each.VAR_KEYWORD]
    return own if len(own) == len(named) else own + parameters_of(kind.__mro__[1])


def own_options(kind: type) -> list[str]:
    """Return the names that a class adds to those of its base."""
    return [*(getattr(vars(kind).get("__init__"), "__kwdefaults__", None) or ())]


def picked(kind: Callable[..., Made], given: Mapping[str, Any]) -> Made:
    """Return an object made of those arguments that it takes."""
    return kind(**{name: given[name] for name in signature(kind).parameters if name in given})


def check_options(
    owner: str, options: Mapping[str, Any], strategy: type, others: Collection[str]
) -> None:
    """Check the options of a strategy of Flower's that a caller gave.

    `others` are what the caller may have meant beside them. Raises TypeError for an unknown name or
    a value of a wrong kind, ValueError for a number out of range.
    """
    known = parameters_of(strategy)
    for name, value in options.items():
        if name not in known:
            hint = _hint(name, [*known, *others])
            raise TypeError(f"{owner} has no option {name}={shown(value)}{hint}")
        if name.startswith("min_"):
            check_number(name, value, whole=True, least=0)
        elif name.startswith("fraction_"):
            check_number(name, value, least=0, most=1)
        elif name.endswith("_key"):
            check_kind(name, value, str, "a string")
        elif name.endswith("_fn") and value is not None:
            check_function(name, value)


def _hint(name: str, known: Collection[str]) -> str:
    if _OURS.get(name) in known:
        return f": give {_OURS[name]}"
    for names, api in ((_CLASSIC_TO_MESSAGE, "classic"), (_MESSAGE_TO_CLASSIC, "Message")):
        there = names.get(name, "")
        if there in known or there.startswith("start"):
            return f": that is the {api} API's name; here it is {there}"
    close = get_close_matches(name, known, n=1)
    return f": did you mean {close[0]}?" if close else ": leave it out"
