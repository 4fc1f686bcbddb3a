"""Carry out runs in Flower's simulation."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from logging import WARNING

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation
from flwr.supercore import log

from clients.app import ChoosingClientApp, classic_client_app, message_client_app
from clients.byzantine import Adversary
from clients.experiments import ATTACKS, EXPERIMENTS
from clients.problem import Arrays
from clients.server_rule import ServerRule
from flwr_byz.attacks import FreshEachRound

from .results import Run, RunResult
from .rules import Plan
from .serve import serve

BACKEND = {
    "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
    "init_args": {"num_cpus": os.cpu_count() or 2, "log_to_driver": False, "logging_level": 40},
}


def simulate(
    runs: Sequence[Run], finished: Callable[[RunResult], None], advance: Callable[[], None]
) -> None:
    """Carry out runs of one experiment, one after the other, in one Flower simulation.

    A run whose rule raises an error, as some do where a reply is no model, has diverged there.

    Parameters
    ----------
    runs : sequence of Run
        Alike in experiment, API, number of clients and seed. The clients hear in each message which
        run is played.
    finished : callable
        Called with each result.
    advance : callable
        Called after each round.
    """
    first = runs[0]
    experiment = EXPERIMENTS[first.experiment]
    problem = experiment.problem(first.num_clients, first.seed)

    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        for run in runs:
            values: list[float] = []

            def evaluate(server_round: int, arrays: Arrays, values: list[float] = values) -> dict:
                measures = problem.evaluate(arrays)
                value = measures[experiment.measure]
                values.append(value if np.isfinite(value) else experiment.worst)
                if server_round > 0:
                    advance()
                return measures

            plan = Plan(
                rule=run.rule,
                api=run.api,
                num_byzantine=run.num_byzantine,
                num_rounds=run.num_rounds,
                server_learning_rate=experiment.server_learning_rate,
                config={"run": json.dumps(asdict(run))},
            )
            try:
                with np.errstate(all="ignore"):  # a diverging mean is a result, not a warning
                    serve(plan, problem, grid, context, evaluate)
            except Exception as error:  # a server that falls is a result, too
                log(WARNING, "%s: the server stops after %d rounds: %r", run, len(values), error)
            for _ in range(run.num_rounds + 1 - len(values)):
                values.append(experiment.worst)
                advance()
            finished(RunResult(run, values))

    with _interruptible():
        run_simulation(
            server_app=server_app,
            client_app=ChoosingClientApp(_app_played),
            num_supernodes=first.num_clients,
            backend_config=BACKEND,
        )


@contextmanager
def _interruptible() -> Iterator[None]:
    """End the process on Ctrl-C: Flower's simulation would wait for its ServerApp without end.

    Results are in the file as soon as a run is over, and Ray's processes end with this one. Another
    thread waits for the signal: the kernel may hand it to any of the simulation's, and Python then
    lets the main thread, which waits for them, sleep on.
    """
    told, tell = os.pipe()
    os.set_blocking(tell, False)

    def end() -> None:
        while signum := os.read(told, 1):
            if signum[0] == signal.SIGINT:
                print("\ninterrupted: the same command goes on after the last run", file=sys.stderr)
                sys.stderr.flush()
                os._exit(128 + signal.SIGINT)
        os.close(told)

    threading.Thread(target=end, daemon=True).start()
    previous = signal.signal(signal.SIGINT, lambda signum, frame: None)
    previous_fd = signal.set_wakeup_fd(tell)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous_fd)
        signal.signal(signal.SIGINT, previous)
        os.close(tell)


def adversary_of(run: Run) -> Adversary | None:
    """Return who attacks in a run, and how."""
    if run.attack == "none" or run.num_byzantine == 0:
        return None
    m, q = run.num_clients, run.num_byzantine
    rule = ServerRule(run.rule, m, q)
    attack = ATTACKS[run.attack]()
    if run.byzantine == "fresh":
        return Adversary(attack, FreshEachRound(m, q, run.seed), q, rule)
    return Adversary.spread(attack, m, q, rule)


def _app_played(message: Message, context: Context) -> ClientApp:
    """Return the ClientApp of the run that a message of either API names.

    Ray ships an app with every message: this one is shipped by its name, and made where it runs.
    """
    for record in message.content.config_records.values():
        if "run" in record:
            return _app_of(Run(**json.loads(str(record["run"]))))
    raise ValueError(f"no record of the message names a run: {message.content}")


@lru_cache(maxsize=1)
def _app_of(run: Run) -> ClientApp:
    make_app = message_client_app if run.api == "message" else classic_client_app
    problem = EXPERIMENTS[run.experiment].problem(run.num_clients, run.seed)
    return make_app(problem, adversary_of(run))
