"""Runs Flower apps in folders one after another, each from a fresh import, in one simulation.

``python -m tests.support.simulated_apps NUM_NODES FOLDER...``: starting Ray takes longer than most
apps. An app's working directory is its folder, which holds its ``log.txt`` afterwards, and
``error.txt`` if its server raised or ``ended.txt`` if it did not. In a folder named "...-waiting"
two nodes are connected until the log counts them.
"""

import logging
import os
import sys
import threading
import time
import tomllib
import traceback
from pathlib import Path

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.simulation import run_simulation
from flwr.supercore.object_ref import load_app


def main(num_nodes, folders):
    running = Path(os.path.commonpath(folders), "running.txt")
    server_app = ServerApp()

    @server_app.main()
    def run_all(grid, context):
        while len(nodes := list(grid.get_node_ids())) < num_nodes:
            time.sleep(0.05)
        for folder in folders:
            running.write_text(str(folder))
            os.chdir(folder)
            grid.get_node_ids = lambda folder=folder: nodes[: 2 if is_waiting(folder) else None]
            run(folder, grid, context)

    backend = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": 2, "log_to_driver": False},
    }
    run_simulation(server_app, RunningApp(running), num_nodes, backend_config=backend)


def is_waiting(folder):
    log = folder / "log.txt"
    return folder.name.endswith("-waiting") and " 2 are connected" not in log.read_text()


class RunningApp(ClientApp):
    """The ClientApp of the app that is running."""

    def __init__(self, running):
        super().__init__()
        self.running = running

    def __call__(self, message, context):
        folder = Path(self.running.read_text())
        return component(folder, "clientapp")(message, of_app(folder, context))


def run(folder, grid, context):
    """Run an app's server in this thread."""
    thread = threading.get_ident()
    handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    handler.addFilter(lambda record: record.thread == thread)
    logging.getLogger("flwr").addHandler(handler)
    try:
        component(folder, "serverapp")(grid, of_app(folder, context))
        (folder / "ended.txt").touch()
    except Exception:
        (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
    finally:
        logging.getLogger("flwr").removeHandler(handler)


def component(folder, name):
    """Import the ServerApp or the ClientApp of an app, whose modules another app's may bear."""
    reference = settings(folder)["components"][name]
    package = reference.partition(".")[0]
    if package in sys.modules and Path(sys.modules[package].__file__).parents[1] != folder:
        for module in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[module]
    return load_app(reference, ImportError, folder)


def of_app(folder, context):
    config = settings(folder)["config"]
    return Context(context.run_id, context.node_id, context.node_config, context.state, config)


def settings(folder):
    return tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["flwr"]["app"]


if __name__ == "__main__":
    main(int(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]])
