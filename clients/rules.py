"""The one registry of rules: each as a strategy of either API, and as an adversary that knows it.

A rule is named as a class with options, such as ``"Krum"`` or ``"GeometricMedianOfMeans(num_batches
=16)"``, and is set for q of m clients when it is made. All clients take part in every round.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.server import strategy as classic
from flwr.server.strategy.aggregate import aggregate_krum, aggregate_median, aggregate_trimmed_avg
from flwr.serverapp import strategy as message
from flwr.serverapp.strategy.bulyan import aggregate_n_closest_weights
from flwr.serverapp.strategy.multikrum import select_multikrum
from numpy.typing import NDArray

from flwr_byz.aggregation import geometric_median_of_means, num_batches
from flwr_byz.attacks.names import parse_call
from flwr_byz.server.strategy import GeometricMedianOfMeans as ClassicGeometricMedianOfMeans
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans as MessageGeometricMedianOfMeans

from .descent import ClassicDescent, MessageDescent
from .problem import Problem
from .selection import OneClient, RandomSubset, SmallestNorms, mean_of_smallest_norms

Vectors = NDArray[np.float64]
Settings = tuple[type, dict[str, Any]]

GMOM = "GeometricMedianOfMeans"


@dataclass(frozen=True)
class Rule:
    """A rule of the registry.

    Attributes
    ----------
    title : str
    aggregate : callable
        Maps vectors (m, d) and q to the aggregate (d,), as the Message API's strategy does. Of a
        random choice an adversary knows the mean, which is what it gets on average.
    message, classic : callable
        Map m and q to the strategy's class and what it is set to.
    """

    title: str
    aggregate: Callable[[Vectors, int], Vectors]
    message: Callable[[int, int], Settings]
    classic: Callable[[int, int], Settings] | None = None


def _same(kind: str, **settings: Callable[[int, int], Any]) -> dict[str, Any]:
    """Return both APIs' strategies of one name and settings."""

    def of(module: Any) -> Callable[[int, int], Settings]:
        return lambda m, q: (getattr(module, kind), {k: of(m, q) for k, of in settings.items()})

    return {"message": of(message), "classic": of(classic)}


def _krum(num_selected: Callable[[int, int], int]) -> Callable[[Vectors, int], Vectors]:
    def aggregate(vectors: Vectors, q: int) -> Vectors:
        return _as_vector(aggregate_krum(_replies(vectors), q, num_selected(len(vectors), q)))

    return aggregate


def _bulyan(vectors: Vectors, q: int) -> Vectors:
    """Aggregate as `flwr.serverapp.strategy.Bulyan` does: of too few vectors, no step comes.

    Flower's classic Bulyan selects by Krum again and again instead of by Multi-Krum once.
    """
    if len(vectors) < 4 * q + 3:
        return np.zeros_like(vectors[0])
    replies = [RecordDict({"arrays": ArrayRecord({"vector": Array(v)})}) for v in vectors]
    num_selected = len(vectors) - 2 * q
    selected = [
        reply.array_records["arrays"].to_numpy_ndarrays()
        for reply in select_multikrum(replies, q, num_selected)
    ]
    median = np.median([vector for (vector,) in selected], axis=0)
    return _as_vector(aggregate_n_closest_weights([median], selected, num_selected - 2 * q))


def _replies(vectors: Vectors) -> list[tuple[list[Vectors], int]]:
    return [([vector], 1) for vector in vectors]


def _as_vector(aggregate: list[Any]) -> Vectors:
    return np.asarray(aggregate[0], np.float64)


RULES: Mapping[str, Rule] = {
    "FedAvg": Rule("FedAvg", lambda vectors, q: vectors.mean(axis=0), **_same("FedAvg")),
    "FedMedian": Rule(
        "FedMedian",
        lambda vectors, q: _as_vector(aggregate_median(_replies(vectors))),
        **_same("FedMedian"),
    ),
    "FedTrimmedAvg": Rule(
        "FedTrimmedAvg",
        lambda vectors, q: _as_vector(aggregate_trimmed_avg(_replies(vectors), q / len(vectors))),
        **_same("FedTrimmedAvg", beta=lambda m, q: q / m),
    ),
    "Krum": Rule(
        "Krum",
        _krum(lambda m, q: 0),
        lambda m, q: (message.Krum, {"num_malicious_nodes": q}),
        lambda m, q: (classic.Krum, {"num_malicious_clients": q}),
    ),
    "MultiKrum": Rule(
        "Multi-Krum",
        _krum(lambda m, q: m - q),
        lambda m, q: (
            message.MultiKrum,
            {"num_malicious_nodes": q, "num_nodes_to_select": m - q},
        ),
        lambda m, q: (classic.Krum, {"num_malicious_clients": q, "num_clients_to_keep": m - q}),
    ),
    "Bulyan": Rule(
        "Bulyan",
        _bulyan,
        lambda m, q: (message.Bulyan, {"num_malicious_nodes": q}),
        lambda m, q: (classic.Bulyan, {"num_malicious_clients": q, "to_keep": 0}),
    ),
    "RandomSubset": Rule(
        "random subset",
        lambda vectors, q: vectors.mean(axis=0),
        lambda m, q: (RandomSubset, {"num_selected": m - q}),
    ),
    "SmallestNorms": Rule(
        "smallest norms",
        lambda vectors, q: mean_of_smallest_norms(vectors, len(vectors) - q),
        lambda m, q: (SmallestNorms, {"num_selected": m - q}),
    ),
    "OneClient": Rule(
        "one client a round",
        lambda vectors, q: vectors.mean(axis=0),
        lambda m, q: (OneClient, {"num_selected": 1}),
    ),
}
"""Flower's rules, and those of the paper's sections 6 and 1.3; this package's is `GMOM`."""

_OPTIONS = {"num_batches", "batch_size", "trim_norm", "rebucketed"}


@lru_cache(maxsize=256)
def parse_rule(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the options of a rule.

    `GMOM` takes ``num_batches`` k, or ``batch_size`` b for k = m/b, and at least 2q + 1 batches;
    ``trim_norm``; and ``rebucketed`` for groups drawn anew in every round. Else k follows from q,
    and batch means longer than twice the median norm are left out.

    Raises
    ------
    ValueError
        Where the text is no rule.
    """
    name, options = parse_call(text, "a rule", f"{GMOM}(num_batches=16)")
    if name not in (*RULES, GMOM):
        raise ValueError(f"rule must be one of {', '.join((*RULES, GMOM))}, got {name!r}")
    if unknown := set(options) - (_OPTIONS if name == GMOM else set()):
        raise ValueError(f"{name} has no option {', '.join(sorted(unknown))} here, got {text!r}")
    return name, options


def title(text: str) -> str:
    """Return a rule's short name for tables and pictures."""
    name, options = parse_rule(text)
    if name != GMOM:
        return RULES[name].title
    said = {"num_batches": "k = {}", "batch_size": "batches of {}", "trim_norm": "trim {}"}
    parts = [said[key].format(value) for key, value in options.items() if key in said]
    if options.get("batch_size") == 1:
        parts[0] = "k = m"
    if options.get("rebucketed"):
        parts.append("re-bucketed")
    return ", ".join(["GMoM", *(part.replace("trim None", "untrimmed") for part in parts)])


def batches_of(text: str, num_clients: int, num_byzantine: int) -> int:
    """Return the k of `GMOM`; for other rules every client is a batch of its own."""
    name, options = parse_rule(text)
    if name != GMOM:
        return num_clients
    if "batch_size" in options:
        wanted = -(-num_clients // options["batch_size"])
        return min(num_clients, max(wanted, 2 * num_byzantine + 1))
    return options.get("num_batches") or num_batches(num_clients, num_byzantine)


@dataclass(frozen=True)
class KnownRule:
    """What a server makes of all clients' vectors, as an adversary that knows the rule tries it.

    Parameters
    ----------
    text : str
    num_clients, num_byzantine : int
        m and the q that the server is set for.
    """

    text: str
    num_clients: int
    num_byzantine: int

    @property
    def num_batches(self) -> int:
        """The k of the rule."""
        return batches_of(self.text, self.num_clients, self.num_byzantine)

    def __call__(self, vectors: Vectors) -> Vectors:
        """Aggregate vectors, (m, d) to (d,)."""
        name, options = parse_rule(self.text)
        if name != GMOM:
            return np.asarray(RULES[name].aggregate(vectors, self.num_byzantine))
        trim_norm = options.get("trim_norm", "auto")
        return geometric_median_of_means(
            vectors, self.num_batches, trim_norm=trim_norm, gamma=1e-6
        ).point


def message_strategy(
    rule: str, problem: Problem, num_byzantine: int, seed: int = 0, **options: Any
) -> message.Strategy:
    """Return a rule as a strategy of the Message API.

    Parameters
    ----------
    rule : str
    problem : Problem
        For m, the kind of replies and the server's step.
    num_byzantine : int
        q.
    seed : int
        Of what the rule itself draws.
    options
        More options of the strategy.
    """
    made: message.Strategy = _strategy("message", rule, problem, num_byzantine, seed, options)
    return made


def classic_strategy(
    rule: str, problem: Problem, num_byzantine: int, seed: int = 0, **options: Any
) -> classic.Strategy:
    """Return a rule as a strategy of the classic API; see `message_strategy`."""
    made: classic.Strategy = _strategy("classic", rule, problem, num_byzantine, seed, options)
    return made


_APIS: Mapping[str, tuple[type, type, tuple[str, str]]] = {
    "message": (
        MessageGeometricMedianOfMeans,
        MessageDescent,
        ("min_train_nodes", "min_available_nodes"),
    ),
    "classic": (
        ClassicGeometricMedianOfMeans,
        ClassicDescent,
        ("min_fit_clients", "min_available_clients"),
    ),
}


def _strategy(
    api: str, rule: str, problem: Problem, num_byzantine: int, seed: int, options: dict[str, Any]
) -> Any:
    """Make a rule's strategy, which waits for all clients; gradients take a step of descent."""
    m, step = problem.num_clients, problem.server_learning_rate
    kind, descent, names_of_m = _APIS[api]
    name, _ = parse_rule(rule)
    if name == GMOM:
        settings = _gmom_options(rule, problem, num_byzantine, seed)
    else:
        kind, settings = getattr(RULES[name], api)(m, num_byzantine)
        if issubclass(kind, SmallestNorms):
            settings |= {"reply": problem.reply_kind, "step": step, "seed": seed}
        elif problem.reply_kind == "gradients":
            kind = type(kind.__name__, (descent, kind), {"step": step})
    defaults = {"fraction_evaluate": 0.0, **dict.fromkeys(names_of_m, m)}
    return kind(**(settings | defaults | options))


def _gmom_options(rule: str, problem: Problem, num_byzantine: int, seed: int) -> dict[str, Any]:
    """Return options of GeometricMedianOfMeans; groups by partition id repeat bit for bit."""
    _, options = parse_rule(rule)
    batches: dict[str, Any] = {"num_byzantine": num_byzantine}
    if options.keys() & {"num_batches", "batch_size"}:
        batches = {"num_batches": batches_of(rule, problem.num_clients, num_byzantine)}
    return {
        **batches,
        "reply": problem.reply_kind,
        "server_learning_rate": problem.server_learning_rate,
        "trim_norm": options.get("trim_norm", "auto"),
        "bucketing_seed": seed if options.get("rebucketed") else None,
        "group_by_key": "partition-id",
    }
