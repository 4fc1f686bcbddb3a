"""A SuperLink with TLS and registered SuperNodes, as processes of this machine."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from . import certificates

_SCRIPTS = Path(sys.executable).parent
_CONNECTION = "trial"
_GRACE = 2.0  # seconds between asking a process to end and ending it
_RESTART_AFTER = 3.0  # seconds
_FLWR = """
import json, sys
from flwr.cli.app import app
for command in json.loads(sys.argv[1]):
    app(command, standalone_mode=False)
"""  # one process for many commands: to start takes longer than to ask
_ROUND = re.compile(r"round (\d+): (\w+) (\S+)")


class Deployment:
    """Starts a SuperLink and N SuperNodes; ends all of them, whatever happens.

    A SuperNode that ends is started again, as a service manager does on a device: Flower's ends
    where its network fails, and is refused while the SuperLink still holds its last run for alive.

    Parameters
    ----------
    folder : Path
        For keys, logs and Flower's own files.
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
        The id that each registered key stands for, by partition.
    """

    def __init__(
        self,
        folder: Path,
        num_nodes: int,
        app: Path,
        faults: Mapping[int, str] | None = None,
        absent: Collection[int] = (),
    ) -> None:
        self.folder = folder.resolve()
        self.num_nodes = num_nodes
        self.app = app.resolve()
        self.faults = dict(faults or {})
        self.absent = absent
        self.node_ids: list[int] = []
        self.port = _free_port()
        self._nodes: dict[int, tuple[subprocess.Popen[bytes], int | None]] = {}
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Tear everything down."""
        self.stop()

    @property
    def keys(self) -> Path:
        """Where the certificates and keys are."""
        return self.folder / "keys"

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

    def flwr(self, *commands: Sequence[str], timeout: float | None = 240.0) -> str:
        """Run commands of Flower's command line, one after the other; return what they print.

        Raises
        ------
        RuntimeError
            Where one fails, with what it said.
        """
        ran = subprocess.run(
            [sys.executable, "-c", _FLWR, json.dumps(commands)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if ran.returncode != 0:
            raise RuntimeError(f"flwr {commands}: {ran.stdout}{ran.stderr}")
        return ran.stdout

    def run(self, run_config: Mapping[str, Any]) -> subprocess.Popen[bytes]:
        """Start a run of the app; what the process prints is the run's log."""
        told = " ".join(f"{key}={_toml(value)}" for key, value in run_config.items())
        command = ["flwr", "run", str(self.app), _CONNECTION, "--stream", "--run-config", told]
        return self._spawn(command, None)

    def runs(self) -> list[dict[str, Any]]:
        """List the runs as Flower knows them, the newest first."""
        listed: list[dict[str, Any]] = json.loads(
            self.flwr(["list", _CONNECTION, "--format", "json"])
        )["runs"]
        return listed

    def register(self, public_keys: Sequence[Path]) -> list[int]:
        """Register SuperNodes' keys; return the ids that they stand for from now on."""
        told = (_CONNECTION, "--format", "json")
        said = self.flwr(*(["supernode", "register", str(key), *told] for key in public_keys))
        return list(map(int, re.findall(r'"node-id": "?(\d+)', said)))

    def start_node(self, number: int, port: int | None = None) -> None:
        """Start SuperNode `number`, and start it again whenever it ends.

        It reaches the SuperLink at another port of this machine where one is given.
        """
        node = self.start_stranger(self.keys / f"node-{number}", number, port)
        self._nodes[number] = node, port

    def start_stranger(
        self, key: Path, number: int = 0, port: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a SuperNode that claims to be node `number`, with any key."""
        config = f"partition-id={number} num-partitions={self.num_nodes}"
        if number in self.faults:
            config += f" faults='{self.faults[number]}'"
        command = [
            "flower-supernode",
            *("--root-certificates", str(self.keys / "ca.crt")),
            *("--superlink", f"127.0.0.1:{port or self.port}"),
            *("--auth-supernode-private-key", str(key)),
            *("--port", str(_free_port())),
            *("--node-config", config),
        ]
        return self._spawn(command, self.folder / "logs" / f"{key.name}.log")

    def signal_node(self, number: int, what: signal.Signals) -> None:
        """Send a signal to a SuperNode and to all processes that it has started."""
        os.killpg(self._nodes[number][0].pid, what)

    def kill_node(self, number: int) -> None:
        """Kill a SuperNode for good."""
        node, _ = self._nodes.pop(number)
        os.killpg(node.pid, signal.SIGKILL)

    def processes(self, name: str = "") -> list[psutil.Process]:
        """List the processes of this deployment whose command holds a name."""
        found = []
        for process in psutil.process_iter():
            try:
                is_ours = process.environ().get("FLWR_HOME") == self.environment["FLWR_HOME"]
                if is_ours and name in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:  # it has ended, or is not ours
                continue
        return found

    def stop(self) -> None:
        """End every process: first asked to, then made to."""
        self._has_ended.set()
        if self._supervisor.ident is not None:
            self._supervisor.join()
        for what in (signal.SIGTERM, signal.SIGKILL):
            processes = self.processes()
            for process in processes:
                for each in (signal.SIGCONT, what):
                    with suppress(psutil.NoSuchProcess):
                        process.send_signal(each)
            psutil.wait_procs(processes, timeout=_GRACE)

    def _supervise(self) -> None:
        while not self._has_ended.wait(_RESTART_AFTER):
            for number, (node, port) in list(self._nodes.items()):
                if node.poll() is not None:
                    self.start_node(number, port)

    def _start(self) -> None:
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        certificates.make(self.keys, ["localhost", "127.0.0.1"], self.num_nodes)
        home = self.folder / "flower"
        home.mkdir(exist_ok=True)
        (home / "config.toml").write_text(
            f'[superlink.{_CONNECTION}]\naddress = "127.0.0.1:{self.port}"\n'
            f'root-certificates = "{self.keys / "ca.crt"}"\n'
        )
        superlink = [
            "flower-superlink",
            *("--ssl-ca-certfile", str(self.keys / "ca.crt")),
            *("--ssl-certfile", str(self.keys / "server.pem")),
            *("--ssl-keyfile", str(self.keys / "server.key")),
            "--enable-supernode-auth",
            *("--port", str(self.port)),
            *("--database", str(self.folder / "flower" / "superlink.db")),
        ]
        log = self.folder / "logs" / "superlink.log"
        process = self._spawn(superlink, log)
        _await_port(self.port, process, log)
        self.node_ids = self.register([self.keys / f"node-{i}.pub" for i in range(self.num_nodes)])
        for number in range(self.num_nodes):
            if number not in self.absent:
                self.start_node(number)
        self._supervisor.start()

    def _spawn(self, command: Sequence[str], log: Path | None) -> subprocess.Popen[bytes]:
        """Start a process in a group of its own."""
        output = subprocess.PIPE if log is None else log.open("ab")
        process = subprocess.Popen(
            [_SCRIPTS / command[0], *command[1:]],
            cwd=self.folder,
            env=self.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if log is not None:
            output.close()  # type: ignore[union-attr]
        return process


def round_of(line: bytes) -> tuple[int, str, float] | None:
    """Read a line of a run's log: the round that ended with it, the measure, and its value."""
    found = _ROUND.search(line.decode(errors="replace"))
    return (int(found[1]), found[2], float(found[3])) if found else None


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise RuntimeError(
        f"the SuperLink did not start; the end of its log:\n{log.read_text()[-2000:]}"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _toml(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value).lower()
