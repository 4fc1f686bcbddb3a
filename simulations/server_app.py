"""The ServerApp of `flwr run .`: the experiment of the run config, on all nodes there are."""

import sys
import time
from collections.abc import Mapping
from logging import INFO
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import log

from clients.problem import Arrays
from clients.run_config import RunConfig

from .results import Run, RunResult, append
from .serve import Plan, serve

_SETTLED_AFTER = 3.0  # seconds without a new node

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment; a wrong run config fails it with one line, and no stack above it."""
    try:
        config = RunConfig.parse(context.run_config)
        num_clients = count_nodes(grid)
        num_byzantine = config.byzantine_among(num_clients)
    except ValueError:
        sys.tracebacklimit = 0
        raise
    run_experiment(config, num_clients, num_byzantine, grid, context)


def run_experiment(
    config: RunConfig, num_clients: int, num_byzantine: int, grid: Grid, context: Context
) -> None:
    """Run the experiment of a run config that has been checked."""
    experiment = config.the_experiment()
    run = Run(
        experiment=config.experiment,
        rule=config.rule,
        attack=config.attack,
        api=config.api,
        num_clients=num_clients,
        num_byzantine=num_byzantine,
        num_rounds=config.num_rounds or experiment.num_rounds,
        seed=config.seed,
    )
    log(INFO, "%s", run)
    problem = config.problem(num_clients)
    values: list[float] = []

    def evaluate(server_round: int, arrays: Arrays) -> Mapping[str, float]:
        measures = problem.evaluate(arrays)
        value = measures[experiment.measure]
        log(INFO, "round %d: %s %.4g", server_round, experiment.measure, value)
        values.append(value if np.isfinite(value) else experiment.worst)
        return measures

    plan = Plan(
        rule=config.rule,
        api=config.api,
        num_byzantine=num_byzantine,
        num_rounds=run.num_rounds,
        server_learning_rate=experiment.server_learning_rate,
    )
    serve(plan, problem, grid, context, evaluate)
    if config.results:
        path = Path(config.results) / "runs.jsonl"
        append(path, RunResult(run, values))
        log(INFO, "results: %s", path.resolve())


def count_nodes(grid: Grid) -> int:
    """Wait until nodes are there and no more of them come; return how many."""
    num_nodes, since = 0, time.monotonic()
    while num_nodes == 0 or time.monotonic() - since < _SETTLED_AFTER:
        if (now := len(list(grid.get_node_ids()))) != num_nodes:
            num_nodes, since = now, time.monotonic()
        time.sleep(0.2)
    return num_nodes
