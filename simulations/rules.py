"""The rules that a server can aggregate by, as strategies of either API.

Whatever the rule, all clients take part in every round, and the model is evaluated at the server.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import strategy as classic
from flwr.serverapp import strategy as message

from clients.problem import Arrays, Problem
from clients.server_rule import RuleName, ServerRule
from flwr_byz.server.strategy import GeometricMedianOfMeans as ClassicGeometricMedianOfMeans
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans as MessageGeometricMedianOfMeans

Evaluate = Callable[[int, Arrays], dict[str, float]]

OURS = "geometric-median-of-means"


def message_strategy(
    rule: RuleName, problem: Problem, num_byzantine: int, server_learning_rate: float
) -> message.Strategy:
    """Return the strategy of a rule for the Message API."""
    m, q = problem.num_clients, num_byzantine
    options: dict[str, Any] = {
        "fraction_evaluate": 0.0,
        "min_train_nodes": m,
        "min_available_nodes": m,
    }
    if rule == OURS:
        ours = _our_options(problem, num_byzantine, server_learning_rate)
        return MessageGeometricMedianOfMeans(**ours, **options)
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
            {"beta": ServerRule(rule, m, q).trimmed_share},
        ),
    }[rule]
    if problem.reply_kind == "gradients":
        kind = type(kind.__name__, (_MessageDescent, kind), {"step_size": server_learning_rate})
    strategy: message.Strategy = kind(**settings, **options)
    return strategy


def classic_strategy(
    rule: RuleName,
    problem: Problem,
    num_byzantine: int,
    server_learning_rate: float,
    evaluate: Evaluate,
    config: Mapping[str, str],
) -> classic.Strategy:
    """Return the strategy of a rule for the classic API.

    `evaluate` is called after each round, and `config` sent to the clients in each.
    """
    m, q = problem.num_clients, num_byzantine

    def evaluate_fn(
        server_round: int, arrays: Arrays, config: dict[str, Any]
    ) -> tuple[float, dict[str, Any]]:
        return 0.0, dict(evaluate(server_round, arrays))

    options: dict[str, Any] = {
        "fraction_evaluate": 0.0,
        "min_fit_clients": m,
        "min_available_clients": m,
        "initial_parameters": ndarrays_to_parameters(problem.initial_arrays()),
        "on_fit_config_fn": lambda server_round: {**config, "server-round": server_round},
        "evaluate_fn": evaluate_fn,
    }
    if rule == OURS:
        ours = _our_options(problem, num_byzantine, server_learning_rate)
        return ClassicGeometricMedianOfMeans(**ours, **options)
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
            {"beta": ServerRule(rule, m, q).trimmed_share},
        ),
    }[rule]
    if problem.reply_kind == "gradients":
        kind = type(kind.__name__, (_ClassicDescent, kind), {"step_size": server_learning_rate})
    strategy: classic.Strategy = kind(**settings, **options)
    return strategy


def _our_options(
    problem: Problem, num_byzantine: int, server_learning_rate: float
) -> dict[str, Any]:
    """Options of GeometricMedianOfMeans; grouping by partition id makes runs repeat bit for bit."""
    return {
        "num_byzantine": num_byzantine,
        "reply": problem.reply_kind,
        "server_learning_rate": server_learning_rate,
        "trim_norm": "auto",
        "group_by_key": "partition-id",
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
