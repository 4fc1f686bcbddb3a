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
from flwr_byz.history import Checkpoint

from .results import Run, RunResult, append
from .rules import Plan
from .serve import serve

_SETTLED_AFTER = 3.0  # seconds without a new node
_PATIENCE = 10.0  # the same, where more are expected

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment; a wrong run config fails it with one line, and no stack above it."""
    try:
        config = RunConfig.parse(context.run_config)
        num_clients = count_nodes(grid, config.num_clients)
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
    values = values_before(config)

    def evaluate(server_round: int, arrays: Arrays) -> Mapping[str, float]:
        measures = problem.evaluate(arrays)
        value = measures[experiment.measure]
        log(INFO, "round %d: %s %.4g", server_round, experiment.measure, value)
        values.append(value)
        return measures

    plan = Plan(
        rule=config.rule,
        api=config.api,
        num_byzantine=num_byzantine,
        num_rounds=run.num_rounds,
        server_learning_rate=experiment.server_learning_rate,
        round_timeout=config.round_timeout,
        least_clients=num_clients // 2 + 1,
        ours=_options_of_ours(config),
    )
    serve(plan, problem, grid, context, evaluate)
    if config.results:
        path = Path(config.results) / "runs.jsonl"
        finite = [value if np.isfinite(value) else experiment.worst for value in values]
        append(path, RunResult(run, finite))
        log(INFO, "results: %s", path.resolve())


def values_before(config: RunConfig) -> list[float]:
    """Return the measures of the rounds that a checkpoint holds: they are not played again."""
    checkpoint = Checkpoint.latest(Path(config.checkpoints)) if config.checkpoints else None
    if checkpoint is None:
        return []
    told = checkpoint.rounds["server"].values()
    measures = [entry[1] if config.api == "classic" else entry for entry in told]
    return [each[config.the_experiment().measure] for each in measures]


def count_nodes(grid: Grid, expected: int) -> int:
    """Wait for nodes: for as many as are expected, or, for 0, until no more come; return how many.

    Where not all that are expected come, the rounds begin without the others.
    """
    num_nodes, since = 0, time.monotonic()
    patience = _PATIENCE if expected else _SETTLED_AFTER
    while num_nodes == 0 or time.monotonic() - since < patience:
        if (now := len(list(grid.get_node_ids()))) != num_nodes:
            num_nodes, since = now, time.monotonic()
        if expected and num_nodes >= expected:
            break
        time.sleep(0.2)
    return expected or num_nodes


def _options_of_ours(config: RunConfig) -> dict[str, str | None]:
    """Return what our strategy is to write, and how it is to tell clients apart."""
    options: dict[str, str | None] = {
        "audit": config.audit or None,
        "checkpoints": config.checkpoints or None,
    }
    if config.num_clients:
        options["group_by_key"] = None  # registered nodes keep their ids, and cannot lie about them
    return options
