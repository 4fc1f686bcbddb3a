"""Starts the servers of Flower apps in folders, where two nodes are connected.

``python -m tests.support.waiting_apps FOLDER...``: each until it ends, has logged for how many it
waits, or two minutes are over. Its folder holds what `simulated_apps.run` leaves.
"""

import os
import sys
import time
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

from flwr.app import Context, RecordDict

from tests.support.simulated_apps import run

TWO_NODES = SimpleNamespace(  # as much of a grid as servers see before they send
    run=SimpleNamespace(run_id=1), get_node_ids=lambda: [1, 2], send_and_receive=None
)


def is_waiting(log):
    return log.exists() and "2 are connected" in log.read_text(encoding="utf-8")


def main(folders):
    for folder in folders:
        os.chdir(folder)
        arguments = folder, TWO_NODES, Context(1, 0, {}, RecordDict(), {})
        server = Thread(target=run, args=arguments, daemon=True)
        server.start()
        end = time.monotonic() + 120
        while server.is_alive() and time.monotonic() < end and not is_waiting(folder / "log.txt"):
            time.sleep(0.05)
    os._exit(0)  # the servers wait on


if __name__ == "__main__":
    main(map(Path, sys.argv[1:]))
