"""The one registry of rules: each as a strategy of either API, and as an adversary that knows it.

A rule is named as a class with options, such as ``"Krum"`` or ``"GeometricMedianOfMeans(num_batches
=16)"``, and is set for q of m clients when it is made. All clients take part in every round.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from flwr.server import strategy as classic
from flwr.serverapp import strategy as message

from flwr_byz.aggregation import geometric_median_of_means, num_batches
from flwr_byz.attacks.names import parse_call
from flwr_byz.server.strategy import GeometricMedianOfMeans as ClassicGeometricMedianOfMeans
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans as MessageGeometricMedianOfMeans

from .descent import ClassicDescent, MessageDescent
from .flower_rules import FLOWER
from .peer_rules import PEERS
from .problem import Problem
from .rule import Rule, ServerSide, Vectors, has_trusted_data
from .selection import SmallestNorms
from .vector_strategy import FunctionStrategy, VectorStrategy

GMOM = "GeometricMedianOfMeans"

RULES: Mapping[str, Rule] = {**FLOWER, **PEERS}
"""Those of Flower, of the paper's sections 6 and 1.3, and of peers; this package's is `GMOM`."""

_OPTIONS = {"num_batches", "batch_size", "trim_norm", "rebucketed"}


@lru_cache(maxsize=256)
def parse_rule(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the options of a rule.

    `GMOM` takes ``num_batches`` k, or ``batch_size`` b for k = m/b, and at least 2q + 1 batches;
    ``trim_norm``; and ``rebucketed`` for groups drawn anew in every round. Else k follows from q,
    and batch means longer than twice the median norm are left out. Centred clipping takes
    ``radius``, None for the median distance, and ``num_steps``.

    Raises
    ------
    ValueError
        Where the text is no rule.
    """
    name, options = parse_call(text, "a rule", f"{GMOM}(num_batches=16)")
    if name not in (*RULES, GMOM):
        raise ValueError(f"rule must be one of {', '.join((*RULES, GMOM))}, got {name!r}")
    if unknown := set(options) - (_OPTIONS if name == GMOM else RULES[name].options.keys()):
        raise ValueError(f"{name} has no option {', '.join(sorted(unknown))} here, got {text!r}")
    return name, options


def title(text: str) -> str:
    """Return a rule's short name for tables and pictures."""
    name, options = parse_rule(text)
    if name != GMOM:
        named = RULES[name].options
        parts = [named[k].format("median" if v is None else v) for k, v in options.items()]
        return ", ".join([RULES[name].title, *parts])
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


def needs_trusted_data(text: str) -> bool:
    """Whether a rule uses data that the server trusts."""
    name, _ = parse_rule(text)
    return name != GMOM and RULES[name].needs_trusted_data


def check_trusted_data(text: str, problem: Problem) -> None:
    """Raise ValueError where a rule needs trusted data and the problem's server holds none."""
    if needs_trusted_data(text) and not has_trusted_data(problem):
        raise ValueError(
            f"{text} needs a problem whose server holds data, such as Perceptron(trusted=50)"
        )


@dataclass(frozen=True)
class KnownRule:
    """What a server makes of all clients' vectors, as an adversary that knows the rule tries it.

    Parameters
    ----------
    text : str
    num_clients, num_byzantine : int
        m and the q that the server is set for.
    server : ServerSide
        What the server has in the round in which the rule is tried.
    """

    text: str
    num_clients: int
    num_byzantine: int
    server: ServerSide = field(default=ServerSide(), compare=False)

    @property
    def num_batches(self) -> int:
        """The k of the rule."""
        return batches_of(self.text, self.num_clients, self.num_byzantine)

    @property
    def needs_trusted_data(self) -> bool:
        """Whether the rule uses data that the server trusts."""
        return needs_trusted_data(self.text)

    def __call__(self, vectors: Vectors) -> Vectors:
        """Aggregate vectors, (m, d) to (d,)."""
        return self.aggregate(vectors, self.server)

    def aggregate(self, vectors: Vectors, server: ServerSide) -> Vectors:
        """Aggregate vectors with what the server has; q counts for less than half of them."""
        name, options = parse_rule(self.text)
        if name in PEERS:
            q = min(self.num_byzantine, (len(vectors) - 1) // 2)
            return PEERS[name].aggregate(vectors, q, server, **options)
        if name != GMOM:
            return np.asarray(RULES[name].aggregate(vectors, self.num_byzantine, server))
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
    check_trusted_data(rule, problem)
    if name == GMOM:
        settings = _gmom_options(rule, problem, num_byzantine, seed)
    else:
        kind, settings = getattr(RULES[name], api)(m, num_byzantine)
        if issubclass(kind, VectorStrategy):
            settings["problem"] = problem
        if issubclass(kind, SmallestNorms):
            settings["seed"] = seed
        elif issubclass(kind, FunctionStrategy):
            known = KnownRule(rule, m, num_byzantine)
            settings["function"] = known.aggregate
            settings["needs_trusted_data"] = known.needs_trusted_data
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
