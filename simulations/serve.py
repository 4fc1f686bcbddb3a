"""The rounds of a run on a grid of nodes: what a ServerApp does, in either of Flower's APIs."""

from collections.abc import Callable, Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.serverapp import Grid

from clients.problem import Arrays, Problem
from clients.rules import classic_strategy, is_async, message_strategy
from clients.run import Run
from flwr_byz.transport import AsyncGrid

Evaluate = Callable[[int, Arrays], Mapping[str, float]]


def serve(
    run: Run,
    problem: Problem,
    grid: Grid,
    context: Context,
    evaluate: Evaluate,
    *,
    config: Mapping[str, str] | None = None,
    round_timeout: float = 3600.0,
    least_clients: int | None = None,
    **options: Any,
) -> None:
    """Train.

    Parameters
    ----------
    run, problem
        The run, and its problem.
    grid, context
        As a ServerApp gets them.
    evaluate : callable
        Called with the number of the round and the model, from round 0 on.
    config : mapping, optional
        Sent to the clients in every round.
    round_timeout : float
        Seconds; an hour by default, as a busy machine may need minutes.
    least_clients : int, optional
        With how many a round begins; all by default.
    options
        More options of the strategy.
    """
    sent = dict(config or {})
    least = least_clients or run.num_clients
    rule = run.rule, problem, run.num_byzantine, run.seed
    if run.api == "message":
        options["min_available_nodes"] = least
        if not is_async(run.rule):
            options["min_train_nodes"] = least
        message_strategy(*rule, **options).start(
            grid=AsyncGrid(grid) if is_async(run.rule) else grid,
            initial_arrays=ArrayRecord(problem.initial_arrays()),
            num_rounds=run.num_rounds,
            timeout=round_timeout,
            train_config=ConfigRecord(sent),
            evaluate_fn=lambda number, record: MetricRecord(
                dict(evaluate(number, record.to_numpy_ndarrays()))
            ),
        )
        return
    strategy = classic_strategy(
        *rule,
        min_fit_clients=least,
        min_available_clients=least,
        initial_parameters=ndarrays_to_parameters(problem.initial_arrays()),
        on_fit_config_fn=lambda number: {**sent, "server-round": number},
        evaluate_fn=lambda number, arrays, _: (0.0, dict(evaluate(number, arrays))),
        **options,
    )
    components = ServerAppComponents(
        strategy=strategy,
        config=ServerConfig(num_rounds=run.num_rounds, round_timeout=round_timeout),
    )
    ServerApp(server_fn=lambda _: components)(grid, context)
