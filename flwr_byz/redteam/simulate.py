"""One run, in the process that is its own."""

import inspect
import os
import signal
import time
import traceback
from importlib.metadata import version
from multiprocessing import connection, parent_process
from threading import Thread
from typing import Any

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from .. import json_lines
from ..logs import escaped
from .attacked_app import ROLL_CALL, AttackedApp, seed_everything
from .runs import NO_ATTACK, Job
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
    end = {"event": "end", **_simulate(job), "seconds": round(time.monotonic() - since, 3)}
    json_lines.append(job.events, [end])


def _simulate(job: Job) -> dict[str, Any]:
    training = WatchedTraining(job, lambda event: json_lines.append(job.events, [event]))
    server_app = ServerApp()
    ends: list[tuple[str, str]] = []  # the first one counts, "finished" without any

    def fail(error: BaseException) -> None:
        traceback.print_exc()
        refused = isinstance(error, Refused)
        text = f"{error}" if refused else f"{type(error).__name__}: {error}"
        ends.append(("refused" if refused else "crashed", " ".join(text.split())))

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            training.partitions = partitions = _call_the_roll(grid, job.run.num_nodes)
            in_order = sorted(partitions, key=lambda node_id: partitions[node_id])
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
    if job.run.attack != NO_ATTACK and not training.asked_byzantine:
        ends.append(("not attacked", "no Byzantine client was asked in any round"))
    end, reason = ends[0] if ends else ("finished", "")
    return {"end": end, "reason": escaped(reason, 300), **_compare(job, training)}


def _call_the_roll(grid: Grid, num_nodes: int) -> dict[int, int]:
    """Wait for all nodes, let them import the app, and return which partition each holds."""
    while len(node_ids := list(grid.get_node_ids())) < num_nodes:
        time.sleep(0.05)
    partitions = {}
    for reply in grid.send_and_receive(
        [Message(RecordDict(), dst_node_id=each, message_type=ROLL_CALL) for each in node_ids]
    ):
        if reply.has_error():
            *_, last = f"{reply.error.reason}".rstrip("'>").splitlines()  # of a traceback
            raise RuntimeError(f"the client app cannot be used: {last}")
        client = reply.content.config_records["client"]["partition-id"]
        partitions[reply.metadata.src_node_id] = int(str(client))
    return partitions


def _compare(job: Job, training: WatchedTraining) -> dict[str, Any]:
    """Return whether the final model is finite, and its distance from that of the reference run."""
    final, moved = training.final, None
    if training.initial is None or final is None:
        return {"finite": True, "moved": None if training.initial is None else "inf"}
    if not np.isfinite(final).all():
        return {"finite": False, "moved": None}
    if job.run.is_reference:
        np.savez(job.reference, initial=training.initial, final=final)
    if job.reference.exists():
        with np.load(job.reference) as models:
            start, end = models["initial"], models["final"]
        if final.shape != end.shape:
            moved = np.inf
        elif covered := np.linalg.norm(end - start):
            with np.errstate(over="ignore"):
                moved = float(np.linalg.norm(final - end) / covered)
    return {"finite": True, "moved": "inf" if moved == np.inf else moved}


def _end_with_parent() -> None:
    """End this process when the one that started it ends."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
