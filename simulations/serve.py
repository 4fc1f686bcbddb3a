"""Run one experiment on a grid of nodes: what a ServerApp does, in either of Flower's APIs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.serverapp import Grid

from clients.problem import Problem
from clients.server_rule import RuleName

from .rules import Evaluate, as_evaluate_fn, classic_strategy, message_strategy

# Round 1 waits for Ray to start; a client that is simulated never takes longer than that.
_TIMEOUT = 120.0


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
    """

    rule: RuleName
    api: Literal["message", "classic"]
    num_byzantine: int
    num_rounds: int
    server_learning_rate: float
    config: Mapping[str, str] = field(default_factory=dict)
    """Sent to the clients in every round."""


def serve(plan: Plan, problem: Problem, grid: Grid, context: Context, evaluate: Evaluate) -> None:
    """Train, and call `evaluate` with the number of the round and the model, from round 0 on."""
    if plan.api == "message":
        strategy = message_strategy(
            plan.rule, problem, plan.num_byzantine, plan.server_learning_rate
        )
        strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(problem.initial_arrays()),
            num_rounds=plan.num_rounds,
            timeout=_TIMEOUT,
            train_config=ConfigRecord(dict(plan.config)),
            evaluate_fn=as_evaluate_fn(evaluate),
        )
    else:
        components = ServerAppComponents(
            strategy=classic_strategy(
                plan.rule,
                problem,
                plan.num_byzantine,
                plan.server_learning_rate,
                evaluate,
                plan.config,
            ),
            config=ServerConfig(num_rounds=plan.num_rounds, round_timeout=_TIMEOUT),
        )
        ServerApp(server_fn=lambda _: components)(grid, context)
