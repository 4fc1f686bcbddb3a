"""Runs through Flower's own simulation: Ray, nodes, serialized messages."""

import json
import logging
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from multiprocessing import get_context
from multiprocessing.connection import Connection

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from flwr.supercore.logger import FLOWER_LOGGER

from clients.app import ChoosingClientApp, app_of
from clients.problem import Arrays
from clients.run import Run, problem_of

from .outcome import LOST, Outcome
from .serve import serve

BACKEND = {
    "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
    "init_args": {"num_cpus": os.cpu_count() or 2, "log_to_driver": False, "logging_level": 40},
}


_app_of = lru_cache(maxsize=1)(app_of)


def train_through_flower(runs: Iterable[Run]) -> Iterator[tuple[Run, Outcome]]:
    """Yield runs as they are done; those with as many clients share one simulation.

    Each simulation is a process of its own, which ends when the iterator is closed.
    """
    by_size: dict[int, list[Run]] = {}
    for run in runs:
        by_size.setdefault(run.num_clients, []).append(run)
    for alike in by_size.values():
        yield from _in_a_process(alike)


def _in_a_process(runs: Sequence[Run]) -> Iterator[tuple[Run, Outcome]]:
    processes = get_context("spawn")
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=_simulate, args=(runs, sender))
    process.start()
    sender.close()
    try:
        for _ in runs:
            yield receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"Flower's simulation ended early, code {process.exitcode}") from None
    finally:
        process.kill()  # Flower waits for its ServerApp, whatever it is sent
        process.join()


def _simulate(runs: Sequence[Run], sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or Ray warns of GPUs
    FLOWER_LOGGER.setLevel(logging.ERROR)
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        for run in runs:
            sender.send((run, _served(run, grid, context)))

    run_simulation(
        server_app=server_app,
        client_app=ChoosingClientApp(_app_of_message),
        num_supernodes=runs[0].num_clients,
        backend_config=BACKEND,
    )


def _served(run: Run, grid: Grid, context: Context) -> Outcome:
    """Carry out a run; a server that raises is an outcome, too."""
    problem = problem_of(run)
    lost = LOST[problem.measure]
    values: list[float] = []

    def evaluate(server_round: int, arrays: Arrays) -> dict[str, float]:
        measures = problem.evaluate(arrays)
        value = measures[problem.measure]
        values.append(value if np.isfinite(value) else lost)
        return measures

    stopped = ""
    try:
        with np.errstate(all="ignore"):  # a diverging mean is a result, not a warning
            serve(run, problem, grid, context, evaluate, config={"run": json.dumps(asdict(run))})
    except Exception as error:
        stopped = f"round {len(values)}: {type(error).__name__}: {error}"
    return Outcome(values + [lost] * (run.num_rounds + 1 - len(values)), stopped=stopped)


def _app_of_message(message: Message, context: Context) -> ClientApp:
    """Return the ClientApp of the run that a message of either API names.

    Ray ships an app with every message: this one is shipped by its name, and made where it runs.
    """
    for record in message.content.config_records.values():
        if "run" in record:
            return _app_of(Run(**json.loads(str(record["run"]))))
    raise ValueError(f"no record of the message names a run: {message.content}")
