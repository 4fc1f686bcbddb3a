"""Real processes on loopback: a SuperLink with TLS, registered nodes, faults, hostile nodes.

One deployment serves all tests but two. Between them time passes in which its nodes come back.
"""

import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from clients.problem import make_problem
from flwr_byz import audit
from flwr_byz.history import Checkpoint
from trial import certificates, with_faults
from trial.deployment import Deployment, round_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
KEYS, SUPERLINK, REGISTER, NODE, RUN = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
HOSTILE = "hasty", "garbage", "childless", "impostor", "bomb"
FIRST_HOSTILE, NUM_ROUNDS = with_faults.NUM_NODES, 3
NUM_NODES = FIRST_HOSTILE + len(HOSTILE)
pytestmark = pytest.mark.slow


def type_in(command, **options):
    """Run a command of the page as a reader types it."""
    ran = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, **options)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def replies(deployment):
    """The last line of the audit trail on each round: its number, and what each node did."""
    rounds = {line["round"]: line["clients"] for line in audit.read(deployment.audit)}
    nodes, absent = list(map(str, deployment.node_ids)), {"reply": "not asked"}
    return {n: [clients.get(node, absent) for node in nodes] for n, clients in rounds.items()}


def start_hostile(deployment, number, kind):
    arguments = f"127.0.0.1:{deployment.port} keys/ca.crt keys/node-{number} {kind}"
    program = str(ROOT / "tests" / "support" / "hostile_node.py")
    return deployment.start(["python", program, *arguments.split()], f"node-{number}")


def test_steps_wait_neither_for_a_frozen_node_nor_for_a_slow_one_and_a_kill_loses_none(tmp_path):
    """Slow: twenty seconds for what takes the others about two. Nodes 0 and 4 attack."""
    slow, frozen, most_steps = 6, 7, 20
    options = {"rule": "AsyncGeometricMedianOfMeans", "attack": "SignFlip(scale=10)"}
    options |= {"num-byzantine": 2, "num-clients": 8, "round-timeout": 600.0}
    with Deployment(tmp_path, 8, ROOT, {slow: "slow:20"}) as deployment:
        run = deployment.run(options | {"num-rounds": most_steps})
        _, _, first_error = next(filter(None, map(round_of, run)))  # all nodes are there
        deployment.signal_node(frozen, signal.SIGSTOP)
        for _ in filter(round_of, run):
            entries = replies(deployment).values()
            if "used" in [of_step[slow]["reply"] for of_step in entries]:
                break
        time.sleep(random.uniform(0, 3))
        deployment.kill_server()
        deployment.stop_run()
        before = Checkpoint.latest(deployment.checkpoints)
        last = before.server_round + 1
        run = deployment.run(options | {"num-rounds": last})
        *_, (_, _, error) = filter(None, map(round_of, run))
        steps = replies(deployment)
        metrics = Checkpoint.latest(deployment.checkpoints).rounds["train"]

    assert set(steps) == set(metrics) == set(range(1, last + 1))
    assert {step: metrics[step] for step in before.rounds["train"]} == before.rounds["train"]
    of_node = {node: [entry[node]["reply"] for entry in steps.values()] for node in range(8)}
    assert "used" not in of_node[frozen]  # after a minute, the SuperLink reports it as lost
    first = of_node[slow].index("used")  # so many steps were made before
    assert metrics[first + 1]["byz-staleness"] == first >= 2
    assert {reply for node in range(slow) for reply in of_node[node]} == {"used", "not asked"}
    assert error < first_error / 2


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trial")
    keys = re.sub(r"pip install .*\n", "", KEYS).replace("python", sys.executable)
    keys = keys.replace(" keys ", f" {folder}/keys ").replace("superlink.example.org", "127.0.0.1")
    type_in(keys.replace("--nodes 3", f"--nodes {NUM_NODES + 1}"), cwd=ROOT)
    register = REGISTER.replace("node-0", f"node-{NUM_NODES}")
    with with_faults.deployed(folder, NUM_NODES) as (deployment, network):
        type_in(register, cwd=folder, env=deployment.environment)
        promising = start_hostile(deployment, NUM_NODES, "promise")
        yield deployment, network, promising


@pytest.fixture(scope="module")
def failed(deployed):
    deployment, network, promising = deployed
    with_faults.fail(deployment, network, NUM_ROUNDS)
    promising.terminate()
    promising.wait()
    return deployment


@pytest.fixture(scope="module")
def resumed(failed):
    failed.await_nodes()
    run = RUN.replace("$PWD", str(failed.folder)).replace("=60.0", "=120.0")
    run = run.replace("num-clients=3", f"num-clients={FIRST_HOSTILE}")
    assert "round 3: error" in type_in(run, cwd=ROOT, env=failed.environment)
    return failed


def test_a_deployment_types_what_the_page_says(deployed):
    deployment, *_ = deployed
    page = {"superlink.example.org:8000": f"127.0.0.1:{deployment.port}"}
    page |= {"--port 8000": f"--port {deployment.port}", "superlink.db": "flower/superlink.db"}
    page |= {"/path/to": str(deployment.folder), "num-partitions=3": f"num-partitions={NUM_NODES}"}

    def here(text):
        return re.sub("|".join(map(re.escape, page)), lambda found: page[found[0]], text)

    typed = "\n".join(deployment.processes().values())
    typed = typed.replace(f"{deployment.folder}/", "")
    for command in (SUPERLINK, NODE):
        assert " ".join(shlex.split(here(command.replace("\\\n", "")))) in typed
    (connection,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
    assert (deployment.folder / "flower" / "config.toml").read_text() == here(connection)


def test_a_node_with_an_unknown_key_is_refused(deployed):
    deployment, *_ = deployed
    certificates.make_node_key(deployment.folder / "stranger")
    assert deployment.start_stranger(deployment.folder / "stranger").wait(300) != 0


def test_a_round_in_which_every_honest_node_fails_ends_and_keeps_the_model(failed):
    (line,) = audit.read(failed.audit)
    assert line["kept"]
    attacker, *honest, newcomer = [entry["reply"] for entry in replies(failed)[1]][:FIRST_HOSTILE]
    assert attacker in ("used", "silent")
    assert set(honest) == {"silent"}
    assert newcomer == "not asked"
    (promising,) = line["clients"].keys() - map(str, failed.node_ids)
    assert line["clients"][promising]["reply"] == "silent"
    assert "announced" in (failed.logs / f"node-{NUM_NODES}.log").read_text()


def test_ctrl_c_tears_down_every_process_and_the_same_command_goes_on(tmp_path):
    command = [sys.executable, "-m", "trial", "--nodes", "1", "--byzantine", "0"]
    command += ["--rounds", "2", "--results", str(tmp_path)]
    deployment = Deployment(tmp_path, 1, ROOT)  # not started: it finds the processes
    trial = psutil.Popen(command, cwd=ROOT, start_new_session=True)
    while not (tmp_path / "checkpoints" / "round-000001.npz").exists():
        assert trial.poll() is None
        time.sleep(0.1)
    assert deployment.processes()
    os.killpg(trial.pid, signal.SIGINT)
    assert trial.wait(300) == 130
    assert not deployment.processes()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "suspicion" in again.stdout
    assert {line["round"] for line in audit.read(deployment.audit)} == {1, 2}
    assert not deployment.processes()


def test_a_training_goes_on_with_all_nodes_and_the_attacker_is_named(resumed):
    _, second, third = replies(resumed).values()
    expected = ["used", "error", "rejected", *["used"] * 4]
    assert [entry["reply"] for entry in second[:FIRST_HOSTILE]] == expected
    assert {entry["reply"] for entry in third[:FIRST_HOSTILE]} == {"used"}
    suspects = [n for n, entry in enumerate(third) if entry.get("suspicion", 0.0) > 0.9]
    assert suspects == [with_faults.ATTACKER]


def test_registered_nodes_that_forge_flower_s_own_protocol_end_no_round(resumed):
    for number, kind in enumerate(HOSTILE, FIRST_HOSTILE):
        start_hostile(resumed, number, kind)
    options = with_faults.options(NUM_ROUNDS + 1) | {"attack": "none", "round-timeout": 600.0}
    options |= {"num-byzantine": len(HOSTILE), "num-clients": NUM_NODES}
    *_, (_, _, error) = filter(None, map(round_of, resumed.run(options)))
    assert not audit.read(resumed.audit)[-1]["kept"]
    *_, (*honest, hasty, garbage, childless, impostor, bomb) = replies(resumed).values()
    assert {entry["reply"] for entry in [*honest, impostor]} == {"used"}
    assert {entry["reply"] for entry in (garbage, childless, bomb)} == {"rejected"}
    assert hasty["reply"] in ("used", "error")  # by chance: a race
    assert bomb["reason"] == "ReplyTooLarge: its arrays unfold to more bytes than it may take"

    problem = make_problem("LinearRegression", NUM_NODES, 0)
    (theta,) = problem.initial_arrays()
    for server_round in range(2, NUM_ROUNDS + 2):  # of the honest nodes, without any fault
        gradients = [problem.reply(c, [theta], server_round)[0][0] for c in range(1, FIRST_HOSTILE)]
        theta = theta - 0.5 * np.mean(gradients, axis=0)
    assert error <= 1.5 * problem.evaluate([theta])["error"]
