"""Options as a caller gives them: unknown names, and what is no number, get an error that helps."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

_OURS = {
    "q": "num_byzantine",
    "f": "num_byzantine",
    "num_malicious_nodes": "num_byzantine",
    "num_malicious_clients": "num_byzantine",
    "k": "num_batches",
    "lr": "server_learning_rate",
    "eta": "server_learning_rate",
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


def check_options(owner: str, options: Mapping[str, Any], known: Collection[str]) -> None:
    """Check the options of Flower's strategies that a caller gave.

    Raises TypeError for a name that is not `known`, or a number of clients or a fraction that is no
    number; ValueError for one out of range.
    """
    for name, value in options.items():
        if name not in known:
            raise TypeError(f"{owner} has no option {name!r}{_hint(name, known)}")
        if name.startswith("min_"):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be a whole number, got {value!r}")
            if value < 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if name.startswith("fraction_"):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number from 0 to 1, got {value!r}")
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {value}")


def _hint(name: str, known: Collection[str]) -> str:
    if _OURS.get(name) in known:
        return f": give {_OURS[name]}"
    for names, api in ((_CLASSIC_TO_MESSAGE, "classic"), (_MESSAGE_TO_CLASSIC, "Message")):
        there = names.get(name, "")
        if there in known or there.startswith("start"):
            return f": that is the {api} API's name; here it is {there}"
    close = get_close_matches(name, known, n=1)
    return f": did you mean {close[0]}?" if close else ""
