"""Runs in processes of their own: an attack that kills the server ends its run, nothing else."""

import shutil
import time
from multiprocessing import get_context

from .. import json_lines
from ..environment import environment
from .runs import Job, RunResult, load, result_of

_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ADDRESS": "local",  # a Ray of its own, whatever else runs here
}


def run_apart(job: Job, timeout: float) -> RunResult:
    """Do a run in a new process, in its folder made anew, which keeps its events, the end last.

    After `timeout` seconds the run counts as hung and its process is killed.
    """
    from .simulate import simulate_in_this_process

    shutil.rmtree(job.folder, ignore_errors=True)
    job.folder.mkdir(parents=True)
    since = time.monotonic()
    with environment(_ENVIRONMENT):
        process = get_context("spawn").Process(target=simulate_in_this_process, args=(job,))
        process.start()
    try:
        process.join(timeout)
        hung = process.is_alive()
    finally:
        process.kill()  # also where this is interrupted; Ray's processes end with theirs
        process.join()
    if (result := load(job, 0.0)) is not None:
        return result
    reason = f"no end after {timeout:g} s" if hung else f"the process died ({process.exitcode})"
    seconds = round(time.monotonic() - since, 3)
    end = {"end": "hung" if hung else "crashed", "reason": reason, "seconds": seconds}
    json_lines.append(job.events, [{"event": "end", "finite": True, "moved": None, **end}])
    return result_of(job.run, json_lines.read(job.events))
