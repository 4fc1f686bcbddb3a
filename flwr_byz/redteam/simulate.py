"""A run in a process of its own: an attack that kills the server ends its run, nothing else."""

import inspect
import os
import pickle
import shutil
import subprocess
import sys
import time
import traceback
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from ..logs import escaped
from .attacked_app import ROLL_CALL, AttackedApp, seed_everything
from .pilot import Pilot
from .runs import Run, RunResult, load
from .swap import Refused
from .training import Vector, WatchedTraining

try:  # what `flwr run` itself calls: the public run_simulation is deprecated
    from flwr.simulation.run_simulation import _run_simulation
    from flwr.supercore.telemetry import EventType

    options = ("server_app", "client_app", "num_supernodes", "backend_config", "exit_event")
    inspect.signature(_run_simulation).bind(**dict.fromkeys(options))
except (ImportError, TypeError) as error:
    expected = f"flwr {version('flwr')} simulates in another way than a trial expects"
    raise ImportError(f"{expected} ({error}): install flwr 1.41 or 1.42") from error

COMMAND = (sys.executable, "-m", __name__)
_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_ADDRESS": "local",  # a Ray of its own, whatever else runs here
}


def run_apart(run: Run, timeout: float) -> RunResult:
    """Do a run in a new process, in its folder made anew, which keeps its events, the end last.

    After `timeout` seconds the run counts as hung and its process is killed.
    """
    shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.mkdir(parents=True)
    (run.folder / "run.pickle").write_bytes(pickle.dumps(run))
    since = time.monotonic()
    with (
        (run.folder / "log.txt").open("wb") as log,
        subprocess.Popen(
            COMMAND,
            cwd=run.folder,
            env=os.environ | _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,  # with Ray's processes: Ctrl-C reaches the parent alone
            stdin=subprocess.PIPE,  # which ends with the parent
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            end, why = "crashed", f"the process died ({process.wait(timeout)})"
        except subprocess.TimeoutExpired:
            end, why = "hung", f"no end after {timeout:g} s"
        finally:
            process.kill()  # also where this is interrupted; Ray's processes end with theirs
    if load(run) is None:
        run.record("end", end=end, reason=why, seconds=time.monotonic() - since)
    result = load(run)
    assert result is not None
    return result


def main() -> None:
    """Do the run whose folder is the working directory, as long as the parent process lives."""
    Thread(target=lambda: os.read(0, 1) or os._exit(1), daemon=True).start()
    run, since = pickle.loads(Path("run.pickle").read_bytes()), time.monotonic()
    run.record("end", **_simulate(run), seconds=time.monotonic() - since)


def _simulate(run: Run) -> dict[str, Any]:
    training = Pilot(run) if run.strategy == "pilot" else WatchedTraining(run)
    server_app = ServerApp()
    ends: list[tuple[str, str]] = []  # the first one counts, "finished" without any

    def fail(error: BaseException) -> None:
        traceback.print_exc()
        crashed = "crashed", f"{type(error).__name__}: {error}"
        ends.append(("refused", str(error)) if isinstance(error, Refused) else crashed)

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            training.partitions = partitions = _call_the_roll(grid, run.num_nodes)
            in_order = sorted(partitions, key=partitions.__getitem__)
            grid.get_node_ids = lambda: in_order  # type: ignore[method-assign]  # not at random
            context.run_config.update(run.run_config)
            app = run.app.load(run.app.serverapp)
            seed_everything(run.seed)
            training.watch()
            app(grid, context)
            if run.folder == run.reference.parent:
                training.evaluate_start()
        except BaseException as error:  # a server that crashes is a result
            fail(error)

    backend: Any = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0, **run.app.client_resources},
        "init_args": {"num_cpus": os.cpu_count() or 2},
    }
    try:
        _run_simulation(
            server_app=server_app,
            client_app=AttackedApp(run),
            num_supernodes=run.num_nodes,
            backend_config=backend,
            exit_event=EventType.FLWR_SIMULATION_RUN_LEAVE,
        )
    except Exception as error:
        fail(error)
    if not training.has_begun:
        why = "the app never trained: it used neither Strategy.start nor Flower's Server"
        ends.append(("crashed", why))
    if failed := sorted(run.folder.glob("attack-failed-*.txt")):
        ends.insert(0, ("not attacked", failed[0].read_text(encoding="utf-8")))
    if run.byzantine and not training.asked_byzantine:
        ends.append(("not attacked", "no Byzantine client was asked in any round"))
    end, reason = (*ends, ("finished", ""))[0]
    reason = escaped(" ".join(reason.split()), 300)
    return {"end": end, "reason": reason, **compare(run, training.initial, training.final)}


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


def compare(run: Run, initial: Vector | None, final: Vector | None) -> dict[str, Any]:
    """Return how the final model of a run compares with that of the reference run."""
    if initial is None:
        return {}
    if final is None:
        return {"moved": "inf"}
    if not np.isfinite(final).all():
        return {"finite": False}
    if run.folder == run.reference.parent:
        np.savez(run.reference, initial=initial, final=final)
    elif not run.reference.exists():
        return {}
    with np.load(run.reference) as models:
        start, end = models["initial"], models["final"]
    if final.shape != end.shape:
        return {"moved": "inf"}
    if not (covered := np.linalg.norm(end - start)):
        return {}
    with np.errstate(over="ignore"):
        moved = float(np.linalg.norm(final - end) / covered)
    return {"moved": moved if moved < np.inf else "inf"}


if __name__ == "__main__":
    main()
