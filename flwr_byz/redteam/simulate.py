"""A run in a process of its own: an attack that kills the server ends its run, nothing else."""

import inspect
import os
import shutil
import signal
import time
import traceback
from importlib.metadata import version
from multiprocessing import connection, get_context, parent_process
from threading import Thread
from typing import Any
from unittest.mock import patch

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from .. import json_lines
from ..logs import escaped
from .attacked_app import ROLL_CALL, AttackedApp, seed_everything
from .runs import Job, RunResult, load
from .swap import Refused
from .training import WatchedTraining

try:  # what `flwr run` itself calls: the public run_simulation is deprecated
    from flwr.simulation.run_simulation import _run_simulation
    from flwr.supercore.telemetry import EventType

    options = ("server_app", "client_app", "num_supernodes", "backend_config", "exit_event")
    inspect.signature(_run_simulation).bind(**dict.fromkeys(options))
except (ImportError, TypeError) as error:
    expected = f"flwr {version('flwr')} simulates in another way than a trial expects"
    raise ImportError(f"{expected} ({error}): install flwr 1.41 or 1.42") from error


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
    shutil.rmtree(job.folder, ignore_errors=True)
    job.folder.mkdir(parents=True)
    since = time.monotonic()
    with patch.dict(os.environ, _ENVIRONMENT):
        process = get_context("spawn").Process(target=simulate_in_this_process, args=(job,))
        process.start()
    try:
        process.join(timeout)
        hung = process.is_alive()
    finally:
        process.kill()  # also where this is interrupted; Ray's processes end with theirs
        process.join()
    if load(job) is None:
        why = f"no end after {timeout:g} s" if hung else f"the process died ({process.exitcode})"
        _record_end(job, since, end="hung" if hung else "crashed", reason=why)
    result = load(job)
    assert result is not None
    return result


def simulate_in_this_process(job: Job) -> None:
    """Run the app in Flower's simulation, and leave events and log in the folder of the job."""
    if hasattr(os, "setsid"):
        os.setsid()  # a session of its own, with Ray's processes
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    log = os.open(job.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(job.folder)
    since = time.monotonic()
    _record_end(job, since, **_simulate(job))


def _simulate(job: Job) -> dict[str, Any]:
    training = WatchedTraining(job, lambda event: json_lines.append(job.events, [event]))
    server_app = ServerApp()
    ends: list[tuple[str, str]] = []  # the first one counts, "finished" without any

    def fail(error: BaseException) -> None:
        traceback.print_exc()
        crashed = "crashed", f"{type(error).__name__}: {error}"
        ends.append(("refused", str(error)) if isinstance(error, Refused) else crashed)

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            training.partitions = partitions = _call_the_roll(grid, job.run.num_nodes)
            in_order = sorted(partitions, key=partitions.__getitem__)
            grid.get_node_ids = lambda: in_order  # type: ignore[method-assign]  # not at random
            context.run_config.update(job.run_config)
            app = job.app.load(job.app.serverapp)
            seed_everything(job.run.seed)
            training.watch()
            app(grid, context)
            if job.run.is_reference:
                training.evaluate_start()
        except BaseException as error:  # a server that crashes is a result
            fail(error)

    resources: Any = {"num_cpus": 1, "num_gpus": 0.0, **job.app.client_resources}
    backend = {"client_resources": resources, "init_args": {"num_cpus": os.cpu_count() or 2}}
    try:
        _run_simulation(
            server_app=server_app,
            client_app=AttackedApp(job),
            num_supernodes=job.run.num_nodes,
            backend_config=backend,
            exit_event=EventType.FLWR_SIMULATION_RUN_LEAVE,
        )
    except Exception as error:
        fail(error)
    if not training.has_begun:
        never = "the app never trained: it used neither Strategy.start nor Flower's Server"
        ends.append(("crashed", never))
    if failed := sorted(job.folder.glob("attack-failed-*.txt")):
        ends.insert(0, ("not attacked", failed[0].read_text(encoding="utf-8")))
    if job.run.byzantine and not training.asked_byzantine:
        ends.append(("not attacked", "no Byzantine client was asked in any round"))
    end, reason = ends[0] if ends else ("finished", "")
    reason = escaped(" ".join(reason.split()), 300)
    return {"end": end, "reason": reason, **_compare(job, training)}


def _call_the_roll(grid: Grid, num_nodes: int) -> dict[int, int]:
    """Wait for all nodes, let them import the app, and return which partition each holds."""
    while len(node_ids := list(grid.get_node_ids())) < num_nodes:
        time.sleep(0.05)
    calls = [Message(RecordDict(), dst_node_id=each, message_type=ROLL_CALL) for each in node_ids]
    partitions = {}
    for reply in grid.send_and_receive(calls):
        if reply.has_error():
            *_, last = f"{reply.error.reason}".rstrip("'>").splitlines()  # of a traceback
            raise RuntimeError(f"the client app cannot be used: {last}")
        client = reply.content.config_records["client"]["partition-id"]
        partitions[reply.metadata.src_node_id] = int(str(client))
    return partitions


def _compare(job: Job, training: WatchedTraining) -> dict[str, Any]:
    """Compare the final model with that of the reference run; what is missing is as usual."""
    initial, final = training.initial, training.final
    if initial is None:
        return {}
    if final is None:
        return {"moved": "inf"}
    if not np.isfinite(final).all():
        return {"finite": False}
    if job.run.is_reference:
        np.savez(job.reference, initial=initial, final=final)
    if not job.reference.exists():
        return {}
    with np.load(job.reference) as models:
        start, end = models["initial"], models["final"]
    if final.shape != end.shape:
        return {"moved": "inf"}
    with np.errstate(over="ignore"):
        covered, distance = np.linalg.norm(end - start), np.linalg.norm(final - end)
        moved = float(distance / covered) if covered else None
    return {"moved": "inf" if moved == np.inf else moved}


def _record_end(job: Job, since: float, **end: Any) -> None:
    usual = {"event": "end", "finite": True, "moved": None}
    json_lines.append(job.events, [usual | end | {"seconds": round(time.monotonic() - since, 3)}])


def _end_with_parent() -> None:
    """End this process when the one that started it ends."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
