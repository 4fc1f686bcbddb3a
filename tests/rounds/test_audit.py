"""The audit trail: what it says of clients, how it grows, how it goes on."""

import json
import math

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.common import ndarrays_to_parameters
from flwr.server.client_manager import SimpleClientManager

from flwr_byz import audit
from flwr_byz.audit import AuditTrail, BatchRecord, RoundRecord, Verdict
from flwr_byz.server.strategy import GeometricMedianOfMeans as ClassicStrategy
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans
from tests.support import malformed
from tests.support.answering_grid import AnsweringGrid, drift, model, train
from tests.support.server import classic_round


def record(**clients):
    return RoundRecord(False, 1e-10, [BatchRecord(1.0, 2.0, False)], clients)


def used(distance):
    return Verdict("used", 0, distance=distance)


def test_a_line_tells_what_every_client_did(tmp_path):
    train(tmp_path, 2)
    first, second = audit.read(tmp_path / "audit.jsonl")
    assert (first["round"], second["round"], first["kept"]) == (1, 2, False)
    assert first["gap"] <= 1e-9
    clients = first["clients"]
    assert list(clients) == [str(node) for node in range(11)]
    assert clients["1"] == {
        "batch": None,
        "reply": "silent",
        "reason": "",
        "distance": None,
        "rounds": 0,
        "suspicion": None,
    }
    assert clients["2"]["reply"] == "error"
    assert clients["2"]["reason"] == "an error reply: broken"
    assert clients["0"]["reply"] == "used"
    assert clients["0"]["distance"] > 10 * clients["5"]["distance"]
    assert clients["0"]["suspicion"] == 1.0
    assert all(clients[str(node)]["suspicion"] < 0.5 for node in range(3, 11))
    assert math.isclose(sum(batch["weight"] for batch in first["batches"]), 1.0)
    assert max(clients[str(n)]["batch"] for n in range(3, 11)) == len(first["batches"]) - 1


def test_a_distance_is_that_of_the_reply_from_the_aggregate(tmp_path):
    replies = {cid: malformed.fit_res(malformed.honest_arrays(cid)) for cid in range(9)}
    path = tmp_path / "audit.jsonl"
    arrays, _ = classic_round(malformed.model_arrays(), replies, num_batches=4, audit=path)
    (line,) = audit.read(path)
    aggregate = np.concatenate([a.ravel() for a in arrays]).astype(float)
    for cid in replies:
        own = np.concatenate([a.ravel() for a in malformed.honest_arrays(cid)])
        told = line["clients"][str(cid)]["distance"]
        assert told == pytest.approx(np.linalg.norm(own - aggregate), rel=1e-5)


def test_with_streaming_a_client_is_as_far_as_its_batch(tmp_path):
    arriving = audit_of_streaming(tmp_path)
    of_batch = {}
    for entry in arriving["clients"].values():
        if entry["reply"] == "used":
            of_batch.setdefault(entry["batch"], set()).add(entry["distance"])
    assert of_batch
    assert all(len(distances) == 1 for distances in of_batch.values())
    assert max(of_batch, key=lambda b: max(of_batch[b])) == arriving["clients"]["0"]["batch"]


def audit_of_streaming(folder):
    path = folder / "audit.jsonl"
    strategy = GeometricMedianOfMeans(num_byzantine=2, streaming=True, audit=path)
    grid = AnsweringGrid(11, drift)
    sent = list(strategy.configure_train(1, model(), ConfigRecord(), grid))
    strategy.aggregate_train(1, grid.send_and_receive(sent))
    return audit.read(path)[-1]


def test_malformed_replies_are_told_with_their_reason(tmp_path):
    replies = {cid: malformed.fit_res(malformed.honest_arrays(cid)) for cid in range(9)}
    replies[4] = malformed.fit_res([a * np.nan for a in malformed.honest_arrays(4)])
    replies[6] = malformed.fit_res(malformed.honest_arrays(6)[:2])
    path = tmp_path / "audit.jsonl"
    classic_round(malformed.model_arrays(), replies, num_byzantine=2, audit=path)
    clients = audit.read(path)[0]["clients"]
    assert {clients[c]["reply"] for c in ("4", "6")} == {"rejected"}
    assert "NaN" in clients["4"]["reason"]
    assert all(clients[c]["suspicion"] == 1.0 for c in ("4", "6"))


def test_the_score_is_the_mean_over_the_rounds_that_a_client_answered_in(tmp_path):
    trail = AuditTrail(tmp_path / "audit.jsonl")
    far, near = used(1.5), used(1.0)
    trail.write(1, record(a=near, b=near, c=far, d=Verdict("rejected")))
    trail.write(2, record(a=near, b=near, c=Verdict("silent"), d=Verdict("error")))
    trail.write(3, record(a=near, b=near, c=used(9.0), d=used(0.1), e=near))
    clients = audit.read(trail.path)[-1]["clients"]
    assert [clients[c]["suspicion"] for c in "abcd"] == [0.0, 0.0, 0.75, 0.5]
    assert [clients[c]["rounds"] for c in "abcd"] == [3, 3, 2, 2]


@pytest.mark.parametrize("distance", [math.inf, math.nan, 1e308])
def test_no_distance_makes_a_line_that_is_no_json(tmp_path, distance):
    trail = AuditTrail(tmp_path / "audit.jsonl")
    trail.write(1, record(a=used(distance), b=used(0.0), c=used(0.0)))
    text = trail.path.read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize(
    "damaged", ['{"round": 3, "cut', "not JSON", "[" * 100_000, "7", "[]", "\0" * 10]
)
def test_a_damaged_line_is_skipped(tmp_path, damaged):
    trail = AuditTrail(tmp_path / "audit.jsonl")
    trail.write(1, record(a=used(1.0), b=used(1.0)))
    with trail.path.open("a") as file:
        file.write(damaged)
    trail.write(2, record(a=used(1.0), b=used(1.0)))
    assert [line["round"] for line in audit.read(trail.path)] == [1, 2]


def test_a_strategy_that_starts_again_scores_anew(tmp_path):
    path = tmp_path / "audit.jsonl"
    strategy = GeometricMedianOfMeans(num_byzantine=2, audit=path, fraction_evaluate=0.0)
    for _ in range(2):
        strategy.start(AnsweringGrid(11, drift), model(), 2)
    lines = audit.read(path)
    assert [line["round"] for line in lines] == [1, 2, 1, 2]
    assert lines[-1]["clients"] == lines[1]["clients"]


def test_a_classic_strategy_that_is_initialised_again_scores_anew(tmp_path):
    strategy = ClassicStrategy(
        num_batches=3,
        audit=tmp_path / "audit.jsonl",
        initial_parameters=ndarrays_to_parameters([np.zeros(3)]),
    )
    trail = strategy._rounds.audit
    trail.write(1, record(a=Verdict("rejected"), b=used(1.0)))
    strategy.initialize_parameters(SimpleClientManager())
    trail.write(1, record(a=used(1.0), b=used(1.0)))
    assert audit.read(trail.path)[-1]["clients"]["a"]["rounds"] == 1


def test_numpy_that_raises_does_not_stop_a_trail(tmp_path):
    with np.errstate(all="raise"):
        trail = AuditTrail(tmp_path / "audit.jsonl")
        trail.write(1, record(a=used(1e308), b=used(1.7e308), c=used(math.inf), d=used(1e308)))
    assert len(audit.read(trail.path)) == 1


def test_a_trail_is_of_bounded_size(tmp_path):
    trail = AuditTrail(tmp_path / "audit.jsonl", max_bytes=2000)
    for server_round in range(1, 50):
        trail.write(server_round, record(a=used(1.0), b=used(1.0)))
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"audit.jsonl", "audit.jsonl.1"}
    assert max(sizes.values()) < 2000 + 500
    assert audit.read(trail.path)[-1]["clients"]["a"]["rounds"] == 49


def test_a_disk_that_refuses_does_not_end_the_training(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    replies = {cid: malformed.fit_res(malformed.honest_arrays(cid)) for cid in range(5)}
    path = tmp_path / "file" / "audit.jsonl"
    arrays, _ = classic_round(malformed.model_arrays(), replies, num_batches=3, audit=path)
    assert arrays is not None
    assert "round 1 is missing in the audit trail" in caplog.text


@pytest.mark.parametrize("accept_failures", [True, False])
def test_a_round_that_a_failure_vetoes_is_told_as_one_that_kept_the_model(
    tmp_path, accept_failures
):
    replies = {cid: malformed.fit_res(malformed.honest_arrays(cid)) for cid in range(5)}
    options = {"num_batches": 3, "accept_failures": accept_failures, "audit": tmp_path / "audit"}
    arrays, _ = classic_round(malformed.model_arrays(), replies, [ValueError("raised")], **options)
    (line,) = audit.read(tmp_path / "audit")
    assert (arrays is None) == line["kept"] == (not accept_failures)


def test_no_trail_costs_nothing(tmp_path):
    strategy = ClassicStrategy(num_batches=3)
    assert strategy._rounds.audit is None
