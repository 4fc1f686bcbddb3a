"""Runs in processes of their own: an attack that kills the server ends its run, nothing else."""

import time
from collections.abc import Callable
from multiprocessing import get_context

from .. import json_lines
from ..environment import environment
from .runs import Event, Job

_POLL_INTERVAL = 0.2

_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ADDRESS": "local",  # a Ray of its own, whatever else runs here
}


def run_apart(job: Job, timeout: float, advance: Callable[[float], None]) -> list[Event]:
    """Do a run in a new process, in a folder that is empty; return its events, the end last.

    After `timeout` seconds the run counts as hung and its process is killed. `advance` is called
    with the share of it that is done.
    """
    from .simulate import simulate_in_this_process

    since = time.monotonic()
    with environment(_ENVIRONMENT):
        process = get_context("spawn").Process(target=simulate_in_this_process, args=(job,))
        process.start()
    try:
        while process.is_alive() and time.monotonic() - since < timeout:
            process.join(_POLL_INTERVAL)
            events: list[Event] = list(json_lines.read(job.events))
            rounds = sum(event["event"] == "round" for event in events)
            advance(rounds / (1 + max([rounds, *(each.get("num_rounds", 0) for each in events)])))
        hung = process.is_alive()
    finally:
        process.kill()  # also where this is interrupted; Ray's processes end with theirs
        process.join()
    events = list(json_lines.read(job.events))
    if not events or events[-1]["event"] != "end":
        reason = f"no end after {timeout:g} s" if hung else f"the process died ({process.exitcode})"
        seconds = round(time.monotonic() - since, 3)
        end = {"end": "hung" if hung else "crashed", "reason": reason, "seconds": seconds}
        events.append({"event": "end", "finite": True, "moved": None, **end})
    return events
