"""Real processes on loopback: a SuperLink with TLS, registered nodes, faults, strangers, liars."""

import itertools
import signal
from datetime import datetime
from pathlib import Path

import pytest

from clients.byzantine import Adversary
from clients.experiments import ATTACKS, EXPERIMENTS
from clients.server_rule import ServerRule
from flwr_byz import audit
from simulations import worst_case
from trial import certificates, with_faults
from trial.deployment import Deployment, round_of

ROOT = Path(__file__).parents[2]
DEADLINE = 30.0


def without_faults(num_clients, num_byzantine, rounds):
    """The final error of the same clients and the same attack, when everything works."""
    setup = EXPERIMENTS["linear-regression"]
    problem = setup.problem(num_clients, 0)
    rule = ServerRule("geometric-median-of-means", num_clients, num_byzantine)
    adversary = Adversary.spread(ATTACKS["sign-flip"](), num_clients, num_byzantine, rule)
    return worst_case.train(problem, adversary, rule, rounds, setup.server_learning_rate)["error"]


def config(folder, num_nodes, num_byzantine, num_rounds, **more):
    return {
        "experiment": "linear-regression",
        "attack": "sign-flip",
        "num-byzantine": num_byzantine,
        "num-rounds": num_rounds,
        "num-clients": num_nodes,
        "round-timeout": DEADLINE,
        "audit": str(folder / "audit.jsonl"),
    } | more


def rounds_of(run, errors):
    """Yield the number of each round that a run ends, and note its error."""
    for number, _, error in filter(None, map(round_of, run.stdout)):
        errors.append(error)
        yield number


def seconds_between(lines):
    ends = [datetime.fromisoformat(line["time"]) for line in lines]
    return [(b - a).total_seconds() for a, b in itertools.pairwise(ends)]


@pytest.mark.slow
def test_rounds_close_and_liars_are_named_whatever_nodes_do(tmp_path):
    """Ten nodes: two attack, one is killed, one freezes; a stranger and a thief are refused."""
    nodes, byzantine, rounds = 10, 2, 5
    errors = []
    with Deployment(tmp_path, nodes, ROOT) as deployment:
        for name in ("stranger", "thief"):
            certificates.make_node_key(tmp_path / name)
        (tmp_path / "thief").with_suffix(".pub").write_bytes(
            (deployment.keys / "node-0.pub").read_bytes()
        )
        strangers = [deployment.start_stranger(tmp_path / name) for name in ("stranger", "thief")]
        for number in rounds_of(deployment.run(config(tmp_path, nodes, byzantine, rounds)), errors):
            if number == 1:
                deployment.kill_node(3)
                deployment.signal_node(7, signal.SIGSTOP)
        assert deployment.runs()[0]["status"] == "finished:completed"
        assert all(stranger.wait(120) != 0 for stranger in strangers)
        ids = deployment.node_ids

    assert len(errors) == rounds + 1
    assert errors[-1] <= 1.5 * without_faults(nodes, byzantine, rounds)
    lines = audit.read(tmp_path / "audit.jsonl")
    assert [line["round"] for line in lines] == [1, 2, 3, 4, 5]
    seconds = seconds_between(lines)
    assert max(seconds) <= DEADLINE + 5
    assert {lines[1]["clients"][str(ids[i])]["reply"] for i in (3, 7)} == {"silent"}

    suspected = {c for c, entry in lines[-1]["clients"].items() if (entry["suspicion"] or 0) > 0.5}
    liars = {str(ids[0]), str(ids[5])}
    precision = len(suspected & liars) / max(len(suspected), 1)
    recall = len(suspected & liars) / len(liars)
    print(f"seconds {seconds}, errors {errors}, precision {precision}, recall {recall}")
    assert (precision, recall) == (1.0, 1.0)
    assert deployment.processes() == []


class HostileDeployment(Deployment):
    """The first nodes are no SuperNodes, but speak Flower's protocol to do harm."""

    kinds = ("hasty", "garbage", "promise", "childless", "impostor", "bomb")

    def start_node(self, number, port=None):
        if number >= len(self.kinds):
            super().start_node(number, port)
            return
        node = ROOT / "tests" / "support" / "hostile_node.py"
        key = self.keys / f"node-{number}"
        command = ["python", node, f"127.0.0.1:{self.port}", self.keys / "ca.crt", key]
        self._spawn([*map(str, command), self.kinds[number]], self.folder / f"{key.name}.log")


@pytest.mark.slow
def test_a_registered_node_that_forges_flower_s_own_protocol_ends_no_round(tmp_path):
    kinds = HostileDeployment.kinds
    nodes, rounds = len(kinds) + 5, 2
    errors = []
    with HostileDeployment(tmp_path, nodes, ROOT) as deployment:
        run = deployment.run(config(tmp_path, nodes, 5, rounds, attack="none"))
        assert list(rounds_of(run, errors)) == [0, 1, 2]
        assert deployment.runs()[0]["status"] == "finished:completed"
        ids = deployment.node_ids
    assert errors[-1] < 0.5 * errors[0]
    lines = audit.read(tmp_path / "audit.jsonl")
    assert max(seconds_between(lines)) <= DEADLINE + 5
    for line, promised in zip(lines, ("used", "silent"), strict=True):
        entries = [line["clients"][str(ids[number])] for number in range(nodes)]
        replies = dict(zip(kinds, (entry["reply"] for entry in entries), strict=False))
        assert replies.pop("hasty") in ("used", "error")  # as the race ends
        expected = dict.fromkeys(kinds[1:], "rejected") | {"impostor": "used"}
        expected["promise"] = promised
        assert replies == expected
        assert entries[kinds.index("bomb")]["reason"] == (
            "ReplyTooLarge: its arrays unfold to more bytes than it may take"
        )
        assert [entry["reply"] for entry in entries[len(kinds) :]].count("used") > 3
        assert not line["kept"]


@pytest.mark.slow
def test_a_training_goes_on_whatever_fails_and_whoever_comes_and_goes(tmp_path):
    ids, errors = with_faults.run(tmp_path)
    lines = audit.read(tmp_path / "audit.jsonl")
    replies = {}
    for line in lines:  # of a round that was played again, the last line holds
        entries = [line["clients"].get(str(i), {"reply": "not asked"}) for i in ids]
        replies[line["round"]] = [entry["reply"] for entry in entries]
    print(*replies.items(), errors, seconds_between(lines), sep="\n")
    rounds = with_faults.NUM_ROUNDS
    assert list(replies) == list(range(1, rounds + 1))
    assert errors[-1] < 0.5 * errors[0]
    by_node = list(zip(*replies.values(), strict=True))
    for node, reply in ((1, "error"), (4, "rejected")):  # silent where it comes after the deadline
        assert {reply} <= set(by_node[node]) <= {reply, "silent"}
    assert by_node[2][1] == by_node[3][2] == "silent"
    assert by_node[5][1] == by_node[6][1] == "silent"
    assert by_node[7][0] == "not asked"
    for comes_back in (2, 5, 6, 7):
        assert "used" in by_node[comes_back][2:]
