"""What README and docs/deployment.md tell a reader to type, typed."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flwr_byz import audit
from trial.deployment import Deployment

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
LEFT_OUT = shutil.ignore_patterns(".*", "results", "tests", "docs", "benchmarks", "__pycache__")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.slow
def test_the_commands_of_the_deployment_page_bring_up_a_deployment_and_run_the_app(tmp_path):
    app = tmp_path / "app"
    shutil.copytree(ROOT, app, ignore=LEFT_OUT)
    deployment = Deployment(app, 3, app)  # not started: it knows the environment, and its processes
    port = free_port()

    def here(text):
        text = text.replace("superlink.example.org", "127.0.0.1").replace("8000", port)
        text = text.replace("~/.flwr", "$FLWR_HOME").replace("/path/to/keys", str(app / "keys"))
        return re.sub(r"pip install .*\n", "", text)

    keys, superlink, register, node, run = map(here, re.findall(r"```bash\n(.*?)```", TEXT, re.S))
    (connection,) = map(here, re.findall(r"```toml\n(.*?)```", TEXT, re.S))
    home = Path(deployment.environment["FLWR_HOME"])
    home.mkdir()
    (home / "config.toml").write_text(connection)

    def type_in(command):
        return subprocess.run(
            ["bash", "-ec", command],
            cwd=app,
            env=deployment.environment,
            capture_output=True,
            text=True,
            timeout=240,
        )

    def start(command):
        with (tmp_path / "services.log").open("ab") as log:
            subprocess.Popen(
                ["bash", "-ec", command],
                cwd=app,
                env=deployment.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    try:
        assert type_in(keys).returncode == 0
        start(superlink)
        since = time.monotonic()
        with socket.socket() as probe:
            while probe.connect_ex(("127.0.0.1", int(port))) != 0:
                assert time.monotonic() - since < 120
                time.sleep(0.2)
        for number in range(3):
            registered = type_in(register.replace("node-0", f"node-{number}"))
            assert registered.returncode == 0, registered.stdout + registered.stderr
            this_node = node.replace("node-0", f"node-{number}").replace("-id=0", f"-id={number}")
            start(f"{this_node.strip()} --port {free_port()}")
        ran = type_in(run)
        assert "round 3: error" in ran.stdout + ran.stderr, ran.stdout + ran.stderr
    finally:
        deployment.stop()
    assert [line["round"] for line in audit.read(app / "audit.jsonl")] == [1, 2, 3]
    assert (app / "checkpoints" / "round-000003.npz").exists()


@pytest.mark.slow
def test_ctrl_c_tears_down_every_process_and_the_same_command_goes_on(tmp_path):
    command = [sys.executable, "-m", "trial", "--nodes", "2", "--byzantine", "0"]
    command += ["--rounds", "3", "--results", str(tmp_path)]
    deployment = Deployment(tmp_path, 2, ROOT)  # not started: it knows its processes
    trial = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    since = time.monotonic()
    while not (tmp_path / "checkpoints" / "round-000001.npz").exists():
        assert time.monotonic() - since < 300
        assert trial.poll() is None
        time.sleep(0.1)
    assert deployment.processes() != []
    os.killpg(trial.pid, signal.SIGINT)
    assert trial.wait(60) == 130
    assert deployment.processes() == []
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "suspicion" in again.stdout
    assert [line["round"] for line in audit.read(tmp_path / "audit.jsonl")][-2:] == [2, 3]
    assert deployment.processes() == []
