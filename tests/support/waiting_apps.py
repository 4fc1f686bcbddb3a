"""Starts the servers of Flower apps in folders, where two nodes are connected, and goes.

``python -m tests.support.waiting_apps FOLDER...``: each until it ends, has logged for how many it
waits, or 20 seconds are over. Its folder holds what `simulated_apps.run` leaves.
"""

import os
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

from flwr.app import Context, RecordDict

from tests.support.simulated_apps import run


class TwoNodes:
    """As much of a grid as servers see before they send."""

    run = SimpleNamespace(run_id=1)

    def get_node_ids(self):
        return [1, 2]

    def send_and_receive(self, messages, *, timeout=None):
        raise AssertionError("two nodes are too few")

    push_messages = send_and_receive


def main(folders):
    for folder in folders:
        os.chdir(folder)
        arguments = folder, TwoNodes(), Context(1, 0, {}, RecordDict(), {})
        server = threading.Thread(target=run, args=arguments, daemon=True)
        server.start()
        deadline = time.monotonic() + 20
        while server.is_alive() and time.monotonic() < deadline:
            log = folder / "log.txt"
            if log.exists() and "2 are connected" in log.read_text(encoding="utf-8"):
                break
            time.sleep(0.05)
    os._exit(0)  # the servers wait on


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
