"""The rules that a server can aggregate by, as strategies of either API.

Whatever the rule, all clients take part in every round, and the model is evaluated at the server.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import strategy as classic
from flwr.serverapp import strategy as message

from clients.problem import Arrays, Problem
from clients.server_rule import OURS, RuleName, ServerRule
from flwr_byz.server.strategy import GeometricMedianOfMeans as ClassicGeometricMedianOfMeans
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans as MessageGeometricMedianOfMeans

Evaluate = Callable[[int, Arrays], dict[str, float]]


@dataclass(frozen=True)
class Plan:
    """What the server is to run.

    Attributes
    ----------
    rule : str
    api : str
        "message" or "classic".
    num_byzantine, num_rounds : int
        q, and the number of rounds.
    server_learning_rate : float
        η.
    config : mapping
        Sent to the clients in every round.
    round_timeout : float
        Seconds; the default is more than Ray takes to start.
    least_clients : int, optional
        With how many a round begins; all of the problem's by default.
    ours : mapping
        Further options of our strategy.
    """

    rule: RuleName
    api: Literal["message", "classic"]
    num_byzantine: int
    num_rounds: int
    server_learning_rate: float
    config: Mapping[str, str] = field(default_factory=dict)
    round_timeout: float = 120.0
    least_clients: int | None = None
    ours: Mapping[str, Any] = field(default_factory=dict)


def message_strategy(plan: Plan, problem: Problem) -> message.Strategy:
    """Return the strategy of a plan for the Message API."""
    m, q = problem.num_clients, plan.num_byzantine
    options: dict[str, Any] = {
        "fraction_evaluate": 0.0,
        "min_train_nodes": plan.least_clients or m,
        "min_available_nodes": plan.least_clients or m,
    }
    if plan.rule == OURS:
        return MessageGeometricMedianOfMeans(**_our_options(plan, problem), **options)
    kind, settings = {
        "fedavg": (message.FedAvg, {}),
        "krum": (message.Krum, {"num_malicious_nodes": q}),
        "multi-krum": (
            message.MultiKrum,
            {"num_malicious_nodes": q, "num_nodes_to_select": m - q},
        ),
        "bulyan": (message.Bulyan, {"num_malicious_nodes": q}),
        "fedmedian": (message.FedMedian, {}),
        "fedtrimmedavg": (
            message.FedTrimmedAvg,
            {"beta": ServerRule(plan.rule, m, q).trimmed_share},
        ),
    }[plan.rule]
    if problem.reply_kind == "gradients":
        step_size = {"step_size": plan.server_learning_rate}
        kind = type(kind.__name__, (_MessageDescent, kind), step_size)
    strategy: message.Strategy = kind(**settings, **options)
    return strategy


def classic_strategy(plan: Plan, problem: Problem, evaluate: Evaluate) -> classic.Strategy:
    """Return the strategy of a plan for the classic API; `evaluate` is called after each round."""
    m, q = problem.num_clients, plan.num_byzantine

    def evaluate_fn(
        server_round: int, arrays: Arrays, config: dict[str, Any]
    ) -> tuple[float, dict[str, Any]]:
        return 0.0, dict(evaluate(server_round, arrays))

    options: dict[str, Any] = {
        "fraction_evaluate": 0.0,
        "min_fit_clients": plan.least_clients or m,
        "min_available_clients": plan.least_clients or m,
        "initial_parameters": ndarrays_to_parameters(problem.initial_arrays()),
        "on_fit_config_fn": lambda server_round: {**plan.config, "server-round": server_round},
        "evaluate_fn": evaluate_fn,
    }
    if plan.rule == OURS:
        return ClassicGeometricMedianOfMeans(**_our_options(plan, problem), **options)
    kind, settings = {
        "fedavg": (classic.FedAvg, {}),
        "krum": (classic.Krum, {"num_malicious_clients": q}),
        "multi-krum": (
            classic.Krum,
            {"num_malicious_clients": q, "num_clients_to_keep": m - q},
        ),
        "bulyan": (classic.Bulyan, {"num_malicious_clients": q, "to_keep": 0}),
        "fedmedian": (classic.FedMedian, {}),
        "fedtrimmedavg": (
            classic.FedTrimmedAvg,
            {"beta": ServerRule(plan.rule, m, q).trimmed_share},
        ),
    }[plan.rule]
    if problem.reply_kind == "gradients":
        step_size = {"step_size": plan.server_learning_rate}
        kind = type(kind.__name__, (_ClassicDescent, kind), step_size)
    strategy: classic.Strategy = kind(**settings, **options)
    return strategy


def _our_options(plan: Plan, problem: Problem) -> dict[str, Any]:
    """Options of GeometricMedianOfMeans; grouping by partition id makes runs repeat bit for bit."""
    return {
        "num_byzantine": plan.num_byzantine,
        "reply": problem.reply_kind,
        "server_learning_rate": plan.server_learning_rate,
        "trim_norm": "auto",
        "group_by_key": "partition-id",
        **plan.ours,
    }


class _MessageDescent:
    """Makes a strategy of Flower's step against what it aggregates: the paper's Algorithm 1."""

    step_size: float

    def configure_train(self, server_round, arrays, config, grid):  # type: ignore[no-untyped-def]
        self._sent = arrays
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):  # type: ignore[no-untyped-def]
        gradient, metrics = super().aggregate_train(server_round, replies)
        if gradient is None:
            return None, metrics
        return _stepped_record(self._sent, gradient, self.step_size), metrics


class _ClassicDescent:
    """Makes a strategy of Flower's step against what it aggregates: the paper's Algorithm 1."""

    step_size: float

    def configure_fit(self, server_round, parameters, client_manager):  # type: ignore[no-untyped-def]
        self._sent = parameters_to_ndarrays(parameters)
        return super().configure_fit(server_round, parameters, client_manager)

    def aggregate_fit(self, server_round, results, failures):  # type: ignore[no-untyped-def]
        gradient, metrics = super().aggregate_fit(server_round, results, failures)
        if gradient is None:
            return None, metrics
        stepped = _stepped(self._sent, parameters_to_ndarrays(gradient), self.step_size)
        return ndarrays_to_parameters(stepped), metrics


def _stepped(arrays: Arrays, gradients: Arrays, step_size: float) -> Arrays:
    with np.errstate(all="ignore"):  # a diverging model is a result, too
        return [
            (array - step_size * gradient).astype(array.dtype)
            for array, gradient in zip(arrays, gradients, strict=True)
        ]


def _stepped_record(sent: ArrayRecord, gradient: ArrayRecord, step_size: float) -> ArrayRecord:
    stepped = _stepped(sent.to_numpy_ndarrays(), gradient.to_numpy_ndarrays(), step_size)
    return ArrayRecord({name: Array(a) for name, a in zip(sent, stepped, strict=True)})


def as_evaluate_fn(evaluate: Evaluate) -> Callable[[int, ArrayRecord], MetricRecord]:
    """Adapt an evaluation of arrays to the Message API."""
    return lambda server_round, record: MetricRecord(
        dict(evaluate(server_round, record.to_numpy_ndarrays()))
    )
