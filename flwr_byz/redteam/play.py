"""One play, in the process that is its own."""

import os
import signal
import sys
import time
import traceback
from multiprocessing import connection, parent_process
from threading import Thread
from typing import Any

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from .. import json_lines
from .attacked_app import ROLL_CALL, AttackedApp, seed_everything
from .order import Order
from .outcome import PEACE
from .training import Vector, WatchedTraining


def carry_out(order: Order) -> None:
    """Play in Flower's simulation, and leave what happens in the files of the order.

    The process leads a session of its own and ends when the one that started it does.
    """
    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(order.folder)

    since = time.monotonic()
    result = _simulate(order)
    seconds = round(time.monotonic() - since, 3)
    json_lines.append(order.events, [{"event": "end", "seconds": seconds, **result}])


def _simulate(order: Order) -> dict[str, Any]:
    training = WatchedTraining(order, lambda event: json_lines.append(order.events, [event]))
    failure = ""
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        nonlocal failure
        try:
            training.partitions = partitions = _call_the_roll(grid, order.play.num_nodes)
            in_order = sorted(partitions, key=lambda node_id: partitions[node_id])
            grid.get_node_ids = lambda: in_order  # type: ignore[method-assign]  # not at random
            context.run_config.update(order.run_config)
            app = order.app.load(order.app.serverapp)
            seed_everything(order.play.seed)
            training.watch()
            app(grid, context)
        except BaseException as error:  # a server that falls is a result
            traceback.print_exc()
            failure = " ".join(f"{type(error).__name__}: {error}".split())

    try:
        run_simulation(
            server_app=server_app,
            client_app=AttackedApp(order),
            num_supernodes=order.play.num_nodes,
            backend_config={
                "client_resources": {
                    "num_cpus": 1,
                    "num_gpus": 0.0,
                    **order.app.client_resources,
                },
                "init_args": {"num_cpus": os.cpu_count() or 2},
            },
        )
    except Exception as error:
        traceback.print_exc()
        failure = failure or " ".join(f"{type(error).__name__}: {error}".split())
    if not (failure or training.has_begun):
        failure = "the app never trained: it used neither Strategy.start nor Flower's Server"
    end, reason = "crashed" if failure else "finished", failure
    if failed := order.failed_attacks():
        end, reason = "not attacked", failed[0].read_text(encoding="utf-8")
    elif not failure and order.play.attack != PEACE and not training.asked_byzantine:
        end, reason = "not attacked", "no Byzantine client was asked in any round"
    return {"end": end, "reason": _short(reason), **_compare(order, training)}


def _call_the_roll(grid: Grid, num_nodes: int) -> dict[int, int]:
    """Wait for all nodes and ask which partition each holds; now Ray runs and the app is imported.

    Raises
    ------
    RuntimeError
        Where the app's ClientApp cannot be imported.
    """
    while len(node_ids := list(grid.get_node_ids())) < num_nodes:
        time.sleep(0.05)
    messages = [
        Message(RecordDict(), dst_node_id=node_id, message_type=ROLL_CALL) for node_id in node_ids
    ]
    partitions = {}
    for reply in grid.send_and_receive(messages):
        if reply.has_error():
            *_, last = f"{reply.error.reason}".rstrip("'>").splitlines()  # of a traceback
            raise RuntimeError(f"the client app cannot be used: {last}")
        client = reply.content.config_records["client"]["partition-id"]
        partitions[reply.metadata.src_node_id] = int(str(client))
    return partitions


def _compare(order: Order, training: WatchedTraining) -> dict[str, Any]:
    """Say whether the final model is finite, and how far it is from that of the reference play."""
    final = training.final
    if training.initial is None:
        return {"finite": True, "moved": None}
    if final is None:
        return {"finite": True, "moved": "another form"}
    if not np.isfinite(final).all():
        return {"finite": False, "moved": None}
    if order.is_reference:
        order.reference.parent.mkdir(parents=True, exist_ok=True)
        np.savez(order.reference, initial=training.initial, final=final)
    return {"finite": True, "moved": _moved(order, final)}


def _moved(order: Order, final: Vector) -> float | str | None:
    if not order.reference.exists():
        return None
    with np.load(order.reference) as models:
        start, end = models["initial"], models["final"]
    if final.shape != end.shape:
        return "another form"
    travelled = float(np.linalg.norm(end - start))
    with np.errstate(over="ignore"):
        moved = float(np.linalg.norm(final - end)) / travelled if travelled else np.inf
    return moved if np.isfinite(moved) else None


def _short(reason: str, length: int = 300) -> str:
    return reason if len(reason) <= length else f"{reason[: length - 1]}…"


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        print("the command is gone", file=sys.stderr)
        os._exit(1)
