"""A SuperLink with TLS and registered SuperNodes, as processes of this machine."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import psutil

from . import certificates

_SCRIPTS = Path(sys.executable).parent
_CONNECTION = "devices"
_GRACE = 2.0  # seconds between asking a process to end and ending it
_PATIENCE = 300.0  # seconds
_RESTART_AFTER = 3.0  # seconds
_FLWR = """
import json, sys
from flwr.cli.app import app
for number, command in enumerate(json.loads(sys.argv[1])):
    print("," if number else "[")
    app(command, standalone_mode=False)
print("]")
"""  # one process for many commands: starting one takes longer than running it


class Deployment:
    """Starts a SuperLink and N SuperNodes; ends all of them, whatever happens.

    A SuperNode that ends is started again, as by a service manager on a device: Flower's ends when
    its network fails, and is refused while the SuperLink still counts its last run as online.

    Parameters
    ----------
    folder : Path
        For keys, logs and Flower's own files, and for what runs write.
    num_nodes : int
        N.
    app : Path
        Folder of the Flower App.
    faults : mapping of int to str, optional
        Nodes that fail, and how (see `clients.faults`).
    absent : collection of int, optional
        Nodes that are registered, but not started with the others.

    Attributes
    ----------
    node_ids : list of int
        The ids under which the nodes are registered.
    ports : dict of int to int
        By node, a port of this machine that leads to the SuperLink's.
    """

    def __init__(
        self,
        folder: Path,
        num_nodes: int,
        app: Path,
        faults: Mapping[int, str] | None = None,
        absent: Collection[int] = (),
    ) -> None:
        self.folder, self.app, self.num_nodes = folder.resolve(), app.resolve(), num_nodes
        self.keys, self.logs = self.folder / "keys", self.folder / "logs"
        self.audit, self.checkpoints = self.folder / "audit.jsonl", self.folder / "checkpoints"
        self.faults, self.absent, self.port = faults or {}, absent, free_port()
        self.ports: dict[int, int] = {}
        self.node_ids: list[int] = []
        self._nodes: dict[int, psutil.Popen] = {}
        self._has_ended = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)

    def __enter__(self) -> Self:
        """Bring everything up."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        """Tear everything down."""
        self.stop()

    @property
    def environment(self) -> dict[str, str]:
        """Environment in which Flower neither calls home nor installs, with files of its own."""
        return {
            **os.environ,
            "PATH": os.pathsep.join([str(_SCRIPTS), os.environ.get("PATH", "")]),
            "FLWR_HOME": str(self.folder / "flower"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "OMP_NUM_THREADS": "1",
        }

    def flwr(self, *commands: Sequence[str]) -> Any:
        """Run commands of Flower's command line; return each answer, or raise RuntimeError."""
        words = [[*command, _CONNECTION, "--format", "json"] for command in commands]
        python = [sys.executable, "-c", _FLWR, json.dumps(words)]
        ran = subprocess.run(python, env=self.environment, capture_output=True, text=True)
        if ran.returncode != 0:
            raise RuntimeError(f"flwr {commands}: {ran.stdout}{ran.stderr}")
        return json.loads(ran.stdout)

    def run(self, options: Mapping[str, Any]) -> Iterator[str]:
        """Run the app, and yield the lines of its log, which ``logs/run.log`` keeps.

        Results, audit trail and checkpoints go to the folder, unless the options name others. A
        RuntimeError is raised where the run does not complete.
        """
        outputs = {"results": self.folder, "audit": self.audit, "checkpoints": self.checkpoints}
        config = {**outputs, **options}.items()
        words = " ".join(f"{key}={json.dumps(value, default=str)}" for key, value in config)
        command = ["flwr", "run", str(self.app), _CONNECTION, "--stream", "--run-config", words]
        with (self.logs / "run.log").open("a") as log:
            for line in self._spawn(command, subprocess.PIPE).stdout:
                log.write(line)
                yield line
        status = self.flwr(["list"])[0]["runs"][0]["status"]
        if status != "finished:completed":
            raise RuntimeError(f"the run ended as {status}; see {self.logs}")

    def stop_run(self) -> None:
        """Have the SuperLink end the last run now, unless it has missed the ServerApp already.

        A SuperNode of Flower 1.41 that is taking a message just when its run ends stays one message
        behind in later runs: it answers the last one each time, and is silent in every round.
        """
        (run, *_) = self.flwr(["list"])[0]["runs"]
        if not run["status"].startswith("finished"):
            self.flwr(["stop", run["run-id"]])

    def kill_server(self) -> None:
        """Kill the ServerApp of the last run."""
        for server in self.processes("flwr-serverapp"):
            with suppress(psutil.NoSuchProcess):
                server.kill()

    def start(self, command: Sequence[str], name: str) -> psutil.Popen:
        """Start a process of the deployment, with a log of this name."""
        with (self.logs / f"{name}.log").open("a") as log:
            return self._spawn(command, log)

    def start_superlink(self, *options: str) -> None:
        """Start a SuperLink, and wait until it listens."""
        for folder in (self.folder / "flower", self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        where = ["--port", str(self.port), "--database", "flower/superlink.db"]
        superlink = self.start(["flower-superlink", *options, *where], "superlink")
        while not any(each.laddr.port == self.port for each in superlink.net_connections()):
            if superlink.poll() is not None:
                raise RuntimeError(f"the SuperLink did not start; see {self.logs}")
            time.sleep(0.2)

    def start_node(self, number: int) -> None:
        """Start a SuperNode, and start it again whenever it ends."""
        self._nodes[number] = self.start_stranger(self.keys / f"node-{number}", number)

    def start_stranger(self, key: Path, number: int = 0) -> psutil.Popen:
        """Start a SuperNode that claims to be node `number`, with any key."""
        config = f"partition-id={number} num-partitions={self.num_nodes}"
        if number in self.faults:
            config += f" faults='{self.faults[number]}'"
        superlink = f"127.0.0.1:{self.ports.get(number, self.port)}"
        command = f"flower-supernode --superlink {superlink} --root-certificates keys/ca.crt"
        more = ["--auth-supernode-private-key", str(key), "--node-config", config]
        return self.start([*command.split(), *more, "--port", str(free_port())], key.name)

    def signal_node(self, number: int, what: signal.Signals) -> None:
        """Send a signal to a SuperNode and to all processes that it has started."""
        os.killpg(self._nodes[number].pid, what)

    def await_nodes(self) -> None:
        """Wait until every SuperNode that was started is online."""
        deadline = time.monotonic() + _PATIENCE
        while not self._are_online():
            if time.monotonic() > deadline:
                raise RuntimeError(f"some SuperNode does not come online; see {self.logs}")
            time.sleep(1.0)

    def processes(self, name: str = "") -> dict[psutil.Process, str]:
        """Return the processes of this deployment whose command holds a name, with the commands."""
        found = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):  # it has ended, or is another user's
                is_here = process.environ().get("FLWR_HOME") == self.environment["FLWR_HOME"]
                command = " ".join(process.cmdline())
                if is_here and name in command:
                    found[process] = command
        return found

    def stop(self) -> None:
        """End every process: with a request first, then by force."""
        self._has_ended.set()
        if self._supervisor.ident is not None:
            self._supervisor.join()
        for what in (signal.SIGTERM, signal.SIGKILL):
            processes = self.processes()
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.resume()
                    process.send_signal(what)
            psutil.wait_procs(processes, timeout=_GRACE)

    def _start(self) -> None:
        shutil.rmtree(self.folder / "flower", ignore_errors=True)  # keys are registered anew
        (self.folder / "flower").mkdir(parents=True)
        certificates.make(self.keys, ["localhost", "127.0.0.1"], self.num_nodes)
        (self.folder / "flower" / "config.toml").write_text(
            f'[superlink.{_CONNECTION}]\naddress = "127.0.0.1:{self.port}"\n'
            f'root-certificates = "{self.keys / "ca.crt"}"\n'
        )
        tls = "--ssl-ca-certfile keys/ca.crt --ssl-certfile keys/server.pem"
        tls += " --ssl-keyfile keys/server.key --enable-supernode-auth"
        self.start_superlink(*tls.split())
        keys = (str(self.keys / f"node-{number}.pub") for number in range(self.num_nodes))
        registered = self.flwr(*(["supernode", "register", key] for key in keys))
        self.node_ids = [int(each["node-id"]) for each in registered]
        for number in set(range(self.num_nodes)).difference(self.absent):
            self.start_node(number)
        self._supervisor.start()

    def _supervise(self) -> None:
        while not self._has_ended.wait(_RESTART_AFTER):
            for number, node in list(self._nodes.items()):
                if node.poll() is not None:
                    self.start_node(number)

    def _are_online(self) -> bool:
        """Tell whether each node is online, and came so after its present process began.

        The SuperLink lists a node that was killed as online for about a minute more.
        """
        nodes = {int(n["node-id"]): n for n in self.flwr(["supernode", "list"])[0]["nodes"]}
        for number, process in self._nodes.items():
            node = nodes[self.node_ids[number]]
            began = datetime.fromtimestamp(process.create_time(), UTC)
            if node["status"] != "online" or datetime.fromisoformat(node["online-at"]) < began:
                return False
        return True

    def _spawn(self, command: Sequence[str], output: Any) -> psutil.Popen:
        """Start a process in a group of its own."""
        where: dict[str, Any] = {"cwd": self.folder, "env": self.environment}
        where |= {"stdout": output, "stderr": subprocess.STDOUT, "start_new_session": True}
        program = _SCRIPTS / command[0]
        return psutil.Popen([program, *command[1:]], text=True, errors="replace", **where)


def round_of(line: str) -> tuple[int, str, float] | None:
    """Read a line of a run's log: the round that ended with it, the measure, and its value."""
    found = re.search(r"round (\d+): (\w+) (\S+)", line)
    return (int(found[1]), found[2], float(found[3])) if found else None


def free_port() -> int:
    """Return the number of a port that no process uses."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
