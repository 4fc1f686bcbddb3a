"""Real processes on loopback: a SuperLink with TLS, registered SuperNodes, faults, strangers."""

import itertools
import re
import signal
from datetime import datetime
from pathlib import Path

import pytest

from clients.byzantine import Adversary
from clients.experiments import ATTACKS, EXPERIMENTS
from clients.server_rule import ServerRule
from flwr_byz import audit
from simulations import worst_case
from trial import certificates
from trial.deployment import Deployment

ROOT = Path(__file__).parents[2]
DEADLINE = 20.0


def without_faults(num_clients, num_byzantine, rounds):
    """The final error of the same clients and the same attack, when everything works."""
    setup = EXPERIMENTS["linear-regression"]
    problem = setup.problem(num_clients, 0)
    rule = ServerRule("geometric-median-of-means", num_clients, num_byzantine)
    adversary = Adversary.spread(ATTACKS["sign-flip"](), num_clients, num_byzantine, rule)
    return worst_case.train(problem, adversary, rule, rounds, setup.server_learning_rate)["error"]


def alive(folder):
    """Processes that were started in a deployment's environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
        except OSError:
            continue
        if f"FLWR_HOME={folder}".encode() in environment:
            found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


@pytest.mark.slow
def test_rounds_close_and_liars_are_named_whatever_nodes_do(tmp_path):
    """Ten nodes: two attack, one is killed, one freezes; a stranger and a thief are refused."""
    nodes, byzantine, rounds = 10, 2, 5
    trail = tmp_path / "audit.jsonl"
    with Deployment(tmp_path, nodes, ROOT) as deployment:
        certificates.make_node_key(tmp_path / "stranger")
        certificates.make_node_key(tmp_path / "thief")
        strangers = [deployment.start_stranger(tmp_path / name) for name in ("stranger", "thief")]
        run = deployment.run(
            {
                "experiment": "linear-regression",
                "attack": "sign-flip",
                "num-byzantine": byzantine,
                "num-rounds": rounds,
                "num-clients": nodes,
                "round-timeout": DEADLINE,
                "audit": str(trail),
            }
        )
        errors = []
        for line in run.stdout:
            if found := re.search(rb"round (\d+): error (\S+)", line):
                errors.append(float(found[2]))
                if int(found[1]) == 1:
                    deployment.signal_node(3, signal.SIGKILL)
                    deployment.signal_node(7, signal.SIGSTOP)
        assert deployment.runs()[0]["status"] == "finished:completed"
        assert all(stranger.wait(60) != 0 for stranger in strangers)
        ids = deployment.node_ids

    assert len(errors) == rounds + 1
    assert errors[-1] <= 1.5 * without_faults(nodes, byzantine, rounds)

    lines = audit.read(trail)
    assert [line["round"] for line in lines] == [1, 2, 3, 4, 5]
    ends = [datetime.fromisoformat(line["time"]) for line in lines]
    seconds = [(b - a).total_seconds() for a, b in itertools.pairwise(ends)]
    assert max(seconds) <= DEADLINE + 5
    assert {lines[1]["clients"][str(ids[i])]["reply"] for i in (3, 7)} == {"silent"}

    suspected = {c for c, entry in lines[-1]["clients"].items() if (entry["suspicion"] or 0) > 0.5}
    liars = {str(ids[0]), str(ids[5])}
    precision = len(suspected & liars) / max(len(suspected), 1)
    recall = len(suspected & liars) / len(liars)
    print(f"seconds {seconds}, errors {errors}, precision {precision}, recall {recall}")
    assert (precision, recall) == (1.0, 1.0)
    assert alive(tmp_path / "flower") == []
