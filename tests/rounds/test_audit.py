"""The audit trail: what it has on clients, how it grows, how it goes on."""

import json
import math

import numpy as np
import pytest

from flwr_byz import audit
from flwr_byz.audit import AuditTrail, RoundRecord, Verdict
from tests.support.answering_grid import run, train
from tests.support.apis import CLASSIC, EVERY, STREAMED
from tests.support.malformed import honest_arrays, model_arrays
from tests.support.strategies import strategy


@pytest.fixture
def trail(tmp_path):
    return AuditTrail(tmp_path / "audit.jsonl", max_bytes=2000)


def record(**clients):
    verdicts = {c: Verdict("used", 0, distance=d) for c, d in clients.items() if d is not None}
    silent = {c: Verdict("silent") for c, d in clients.items() if d is None}
    return RoundRecord(False, 1e-10, [], verdicts | silent)


def test_a_line_has_what_every_client_did(tmp_path):
    train(tmp_path, 2)
    first, second = audit.read(tmp_path / "audit.jsonl")
    assert (first["round"], second["round"], first["kept"]) == (1, 2, False)
    assert first["gap"] <= 1e-9
    clients = first["clients"]
    assert list(clients) == [str(node) for node in range(11)]
    nothing = {"batch": None, "distance": None, "rounds": 0, "suspicion": None}
    assert clients["1"] == nothing | {"reply": "silent", "reason": ""}
    assert clients["2"] == nothing | {"reply": "error", "reason": "an error reply: broken"}
    assert clients["0"]["reply"] == "used"
    assert clients["0"]["distance"] > 10 * clients["5"]["distance"]
    assert clients["0"]["suspicion"] == 1.0
    assert all(clients[str(node)]["suspicion"] < 0.5 for node in range(3, 11))
    assert math.isclose(sum(batch["weight"] for batch in first["batches"]), 1.0)
    assert max(clients[str(n)]["batch"] for n in range(3, 11)) == len(first["batches"]) - 1


@EVERY
def test_a_distance_is_that_of_the_reply_or_the_streamed_batch_from_the_aggregate(api, tmp_path):
    """Clients 9 and 10 send what is malformed, which is evidence at once."""
    honest = {c: honest_arrays(c) for c in range(9)}
    bad = {9: [a * np.nan for a in honest_arrays(9)], 10: honest_arrays(10)[:2]}
    path = tmp_path / "audit.jsonl"
    arrays, _ = api.step(honest | bad, model_arrays(0.9), num_batches=4, audit=path)
    (line,) = audit.read(path)
    clients = {int(client): entry for client, entry in line["clients"].items()}
    assert "NaN" in clients[9]["reason"]
    assert [(clients[c]["reply"], clients[c]["suspicion"]) for c in bad] == [("rejected", 1.0)] * 2
    flat = {c: np.concatenate([a.ravel() for a in v]) for c, v in (honest | {-1: arrays}).items()}
    for client in honest:
        batch = [c for c in honest if clients[c]["batch"] == clients[client]["batch"]]
        members = batch if api is STREAMED else [client]
        mean = np.mean([flat[c] for c in members], axis=0, dtype=float)
        distance = np.linalg.norm(mean - flat[-1])
        assert clients[client]["distance"] == pytest.approx(distance, rel=1e-5)


def test_the_score_is_the_mean_over_the_rounds_that_a_client_answered_in(trail):
    first, second = record(a=1.0, b=1.0, c=1.5), record(a=1.0, b=1.0, c=None)
    first.clients["d"], second.clients["d"] = Verdict("rejected"), Verdict("error")
    for number, made in enumerate([first, second, record(a=1.0, b=1.0, c=9.0, d=0.1, e=1.0)]):
        trail.write(number, made)
    clients = audit.read(trail.path)[-1]["clients"]
    assert [clients[c]["suspicion"] for c in "abcd"] == [0.0, 0.0, 0.75, 0.5]
    assert [clients[c]["rounds"] for c in "abcd"] == [3, 3, 2, 2]


@pytest.mark.parametrize("distance", [math.inf, math.nan, 1e308, 1.7e308])
def test_no_distance_makes_a_line_that_is_no_json_even_where_numpy_raises(trail, distance):
    with np.errstate(all="raise"):
        trail.write(1, record(a=distance, b=0.0, c=0.0))
        trail.write(2, record(a=1e308, b=distance, c=math.inf, d=1e308))
    lines = trail.path.read_text().splitlines()
    assert len(lines) == 2
    for line in lines:
        json.loads(line, parse_constant=lambda name: pytest.fail(name))


def test_damaged_lines_are_skipped(tmp_path):
    trail = AuditTrail(tmp_path / "audit.jsonl")
    damaged = ['{"round": 3, "cut', "not JSON", "[" * 100_000, "7", "[]", "\0" * 10]
    for server_round, text in enumerate(damaged):
        trail.write(server_round, record(a=1.0, b=1.0))
        with trail.path.open("a") as file:
            file.write(text)
    trail.write(6, record(a=1.0, b=1.0))
    assert [line["round"] for line in audit.read(trail.path)] == list(range(7))


@pytest.mark.parametrize("api", ["message", "classic"])
def test_a_strategy_that_starts_again_scores_anew(tmp_path, api):
    path, made = tmp_path / "audit.jsonl", []

    def make(**given):
        made[:] = made or [strategy(api, "GeometricMedianOfMeans", audit=path)(**given)]
        vars(made[0]).update(given)  # Flower lets go of the initial parameters
        return made[0]

    for _ in range(2):
        run(api, make, 2)
    lines = audit.read(path)
    assert [line["round"] for line in lines] == [1, 2, 1, 2]
    assert lines[-1]["clients"] == lines[1]["clients"]


def test_a_trail_is_of_bounded_size(tmp_path, trail):
    for server_round in range(1, 50):
        trail.write(server_round, record(a=1.0, b=1.0))
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"audit.jsonl", "audit.jsonl.1"}
    assert max(sizes.values()) < 2000 + 500
    assert audit.read(trail.path)[-1]["clients"]["a"]["rounds"] == 49


@pytest.mark.parametrize("accept_failures", [True, False])
def test_a_round_that_a_failure_vetoes_is_one_that_kept_the_model(tmp_path, accept_failures):
    options = {"num_batches": 3, "accept_failures": accept_failures, "audit": tmp_path / "audit"}
    replies = CLASSIC.honest() | {1: ValueError("raised")}
    arrays, metrics = CLASSIC.round(CLASSIC.gmom(**options), replies)
    (line,) = audit.read(tmp_path / "audit")
    assert (arrays is None) == line["kept"] == (not accept_failures)
    assert ("loss" in metrics) == accept_failures
