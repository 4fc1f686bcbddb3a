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

from flwr_byz.attacks.names import parse_call
from flwr_byz.server import strategy as own_classic
from flwr_byz.serverapp import strategy as own_message

from .descent import ClassicDescent, MessageDescent
from .fedbuff import FedBuff
from .flower_rules import FLOWER
from .own_rules import ASYNC, GMOM, OWN, AsyncRule, OwnRule
from .peer_rules import PEERS
from .problem import Problem
from .rule import Rule, ServerSide, Vectors, has_trusted_data, server_update_fn
from .selection import SmallestNorms
from .vector_strategy import FunctionStrategy, VectorStrategy

FEDBUFF = "FedBuff"
RULES: Mapping[str, Rule] = {
    **FLOWER,
    **PEERS,
    FEDBUFF: Rule(
        FEDBUFF,
        lambda vectors, q, _: vectors.mean(axis=0),
        lambda m, q: (FedBuff, {}),
        options={"buffer_size": "buffer {}"},
    ),
}
"""Those of Flower, of the paper's sections 6 and 1.3, and of peers; this package's are `OWN`."""


@lru_cache(maxsize=256)
def parse_rule(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the options of a rule.

    Those of this package take the options of `OwnRule`; of `GMOM`, batch means longer than twice
    the median norm are left out unless ``trim_norm`` says otherwise. Those of Flower take
    ``hardened``, to be behind the checks of `Hardened`; centred clipping ``radius``, None for the
    median distance, and ``num_steps``.

    Raises
    ------
    ValueError
        Where the text is no rule.
    """
    name, options = parse_call(text, "a rule", f"{GMOM}(num_batches=16)")
    if name not in (*RULES, *OWN):
        raise ValueError(f"rule must be one of {', '.join((*RULES, *OWN))}, got {name!r}")
    known = set(OWN[name].known_options if name in OWN else RULES[name].options)
    if unknown := set(options) - known:
        raise ValueError(f"{name} has no option {', '.join(sorted(unknown))} here, got {text!r}")
    if name in OWN:
        OWN[name](**options)
    return name, options


def own_rule(text: str) -> OwnRule | None:
    """Return a rule of this package; None where it is another one."""
    name, options = parse_rule(text)
    if name not in OWN:
        return None
    return OWN[name](**options)


def title(text: str) -> str:
    """Return a rule's short name for tables and pictures."""
    name, options = parse_rule(text)
    if name in RULES:
        named = RULES[name].options
        parts = [named[k].format("median" if v is None else v) for k, v in options.items()]
        return ", ".join([RULES[name].title, *parts])
    return OWN[name](**options).title()


def batches_of(text: str, num_clients: int, num_byzantine: int) -> int:
    """Return the k of this package's rules; for others every client is a batch of its own."""
    own = own_rule(text)
    return num_clients if own is None else own.batches(num_clients, num_byzantine)


def quorum_of(text: str, num_clients: int, num_byzantine: int) -> int | None:
    """Return how many batches a step of an asynchronous rule waits for; None for all clients."""
    own = own_rule(text)
    if isinstance(own, AsyncRule):
        return own.quorum_of(num_clients, num_byzantine)
    name, options = parse_rule(text)
    return int(options.get("buffer_size", 10)) if name == FEDBUFF else None


def is_async(text: str) -> bool:
    """Whether a rule makes steps without waiting for all clients."""
    return parse_rule(text)[0] in (ASYNC, FEDBUFF)


def writes_files(text: str) -> bool:
    """Whether a rule writes an audit trail and checkpoints; the text may be no rule at all."""
    return text.partition("(")[0] in OWN


def needs_trusted_data(text: str) -> bool:
    """Whether a rule uses data that the server trusts."""
    own = own_rule(text)
    return RULES[parse_rule(text)[0]].needs_trusted_data if own is None else own.trusted


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
        own = own_rule(self.text)
        if own is not None:
            return own.aggregate(vectors, self.num_byzantine, server)
        if name in PEERS:
            q = min(self.num_byzantine, (len(vectors) - 1) // 2)
            return PEERS[name].aggregate(vectors, q, server, **options)
        return np.asarray(RULES[name].aggregate(vectors, self.num_byzantine, server))


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


_APIS: Mapping[str, tuple[Any, type, tuple[str, str]]] = {
    "message": (own_message, MessageDescent, ("min_train_nodes", "min_available_nodes")),
    "classic": (own_classic, ClassicDescent, ("min_fit_clients", "min_available_clients")),
}


def _strategy(
    api: str, rule: str, problem: Problem, num_byzantine: int, seed: int, options: dict[str, Any]
) -> Any:
    """Make a rule's strategy, which waits for all clients; gradients take a step of descent."""
    m, step = problem.num_clients, problem.server_learning_rate
    package, descent, names_of_m = _APIS[api]
    name, given = parse_rule(rule)
    check_trusted_data(rule, problem)
    own = own_rule(rule)
    if own is not None:
        kind, settings = getattr(package, name), own.options(m, num_byzantine)
        settings |= {
            "reply": problem.reply_kind,
            "server_learning_rate": step,
            "bucketing_seed": seed if own.rebucketed else None,
        }
        if name != ASYNC:
            settings["group_by_key"] = "partition-id"  # groups repeat bit for bit
        if own.trusted:
            settings["server_update_fn"] = server_update_fn(api, problem)
    else:
        kind, settings = getattr(RULES[name], api)(m, num_byzantine)
        if issubclass(kind, VectorStrategy):
            settings["problem"] = problem
        if kind is FedBuff:
            settings |= given
        elif issubclass(kind, SmallestNorms):
            settings["seed"] = seed
        elif issubclass(kind, FunctionStrategy):
            known = KnownRule(rule, m, num_byzantine)
            settings["function"] = known.aggregate
            settings["needs_trusted_data"] = known.needs_trusted_data
        elif problem.reply_kind == "gradients":
            kind = type(kind.__name__, (descent, kind), {"step": step})
    defaults = {"fraction_evaluate": 0.0, **dict.fromkeys(names_of_m, m)}
    if name == ASYNC:
        defaults = {"min_available_nodes": m}
    strategy = kind(**(settings | defaults | options))
    if given.get("hardened"):
        return package.Hardened(strategy, num_byzantine=num_byzantine)
    return strategy
