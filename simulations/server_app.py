"""The ServerApp of `flwr run .`: the run of the run config, on all nodes there are."""

import sys
import time
from collections.abc import Mapping
from logging import INFO
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import log

from clients.problem import Arrays
from clients.rules import is_async, writes_files
from clients.run import Run, problem_of
from clients.run_config import RunConfig
from flwr_byz.history import Checkpoint

from .outcome import LOST, Outcome, append
from .serve import serve

_SETTLED_AFTER = 3.0  # seconds without a new node
_PATIENCE = 10.0  # the same, where more are expected

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Carry out the run; a wrong run config fails it with one line, and no stack above it."""
    try:
        config = RunConfig.parse(context.run_config)
        run = config.run(count_nodes(grid, config.num_clients))
    except ValueError:
        sys.tracebacklimit = 0
        raise
    train(config, run, grid, context)


def train(config: RunConfig, run: Run, grid: Grid, context: Context) -> None:
    """Carry out a run, and write what the run config wants written."""
    log(INFO, "%s", run)
    problem = problem_of(run)
    values = [measures[problem.measure] for measures in _measures_before(config)]

    def evaluate(server_round: int, arrays: Arrays) -> Mapping[str, float]:
        measures = problem.evaluate(arrays)
        value = measures[problem.measure]
        log(INFO, "round %d: %s %.4g", server_round, problem.measure, value)
        values.append(value)
        return measures

    serve(
        run,
        problem,
        grid,
        context,
        evaluate,
        round_timeout=config.round_timeout,
        least_clients=run.num_clients // 2 + 1,
        **_written(config),
    )
    if config.results:
        path = Path(config.results) / "runs.jsonl"
        lost = LOST[problem.measure]
        append(path, run, Outcome([v if np.isfinite(v) else lost for v in values]))
        log(INFO, "results: %s", path.resolve())


def _measures_before(config: RunConfig) -> list[Mapping[str, float]]:
    """Return what the rounds of a checkpoint were evaluated to: they are not run again."""
    checkpoint = Checkpoint.latest(Path(config.checkpoints)) if config.checkpoints else None
    if checkpoint is None:
        return []
    entries = checkpoint.rounds["server"].values()
    return [entry[1] if config.api == "classic" else entry for entry in entries]


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


def _written(config: RunConfig) -> dict[str, Any]:
    """Return the strategy's options for its files, and for telling clients apart."""
    if not writes_files(config.rule):
        return {}
    options: dict[str, Any] = {
        "audit": config.audit or None,
        "checkpoints": config.checkpoints or None,
    }
    if config.num_clients and not is_async(config.rule):
        options["group_by_key"] = None  # registered nodes keep their ids, and cannot forge them
    return options
