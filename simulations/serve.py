"""Run one experiment on a grid of nodes: what a ServerApp does, in either of Flower's APIs."""

from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.serverapp import Grid

from clients.problem import Problem

from .rules import Evaluate, Plan, as_evaluate_fn, classic_strategy, message_strategy


def serve(plan: Plan, problem: Problem, grid: Grid, context: Context, evaluate: Evaluate) -> None:
    """Train, and call `evaluate` with the number of the round and the model, from round 0 on."""
    if plan.api == "message":
        message_strategy(plan, problem).start(
            grid=grid,
            initial_arrays=ArrayRecord(problem.initial_arrays()),
            num_rounds=plan.num_rounds,
            timeout=plan.round_timeout,
            train_config=ConfigRecord(dict(plan.config)),
            evaluate_fn=as_evaluate_fn(evaluate),
        )
    else:
        components = ServerAppComponents(
            strategy=classic_strategy(plan, problem, evaluate),
            config=ServerConfig(num_rounds=plan.num_rounds, round_timeout=plan.round_timeout),
        )
        ServerApp(server_fn=lambda _: components)(grid, context)
