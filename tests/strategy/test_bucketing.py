"""Batches whose members are drawn afresh in each round: `bucketing_seed` of both strategies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_byz import audit
from flwr_byz.aggregation import geometric_median_of_means, permute_clients, split_into_batches
from flwr_byz.server.strategy import GeometricMedianOfMeans as ClassicStrategy
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans as MessageStrategy
from tests.support.answering_grid import train
from tests.support.server import APIS, a_reply, a_round

VECTORS = np.random.default_rng(0).normal(size=(13, 40))
EVERY_API = pytest.mark.parametrize("api", APIS)
STRATEGIES = pytest.mark.parametrize("strategy", [ClassicStrategy, MessageStrategy])


def vector_of(api, nodes=range(13), vectors=VECTORS, **options):
    """Return the new model of round 1; node i of `nodes` sends the i-th vector."""
    replies = {
        int(node): a_reply(api, [vectors[i]], 1, {"id": float(i)}) for i, node in enumerate(nodes)
    }
    arrays, metrics = a_round(api, [np.zeros(40)], replies, **options)
    assert metrics["byz-batches"] == options.get("num_batches", metrics["byz-batches"])
    return arrays[0]


@EVERY_API
@pytest.mark.parametrize("seed", [0, 3])
def test_the_model_is_the_geometric_median_of_the_means_of_the_drawn_batches(api, seed):
    model = vector_of(api, num_batches=5, bucketing_seed=seed, shuffle=5)
    permuted = [VECTORS[i] for i in permute_clients(range(13), seed, 1)]
    expected = geometric_median_of_means(permuted, 5).point
    assert np.allclose(model, expected, rtol=1e-9, atol=1e-12)
    fixed = vector_of(api, num_batches=5)
    assert not np.allclose(model, fixed)
    assert np.allclose(fixed, geometric_median_of_means(VECTORS, 5).point, rtol=1e-9, atol=1e-12)


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.integers(0, 2**64))
def test_any_order_of_arrival_gives_the_same_bytes(shuffle, seed):
    options = {"num_byzantine": 2, "bucketing_seed": seed}
    models = {
        vector_of(api, shuffle=order, **options).tobytes()
        for api in ("classic", "message")
        for order in (None, shuffle)
    }
    assert len(models) == 1


@pytest.mark.parametrize("api", ["classic", "message"])
def test_clients_grouped_by_what_they_report_give_the_same_bytes_under_any_identities(api):
    options = {"num_batches": 5, "group_by_key": "id", "bucketing_seed": 3}
    identities = np.random.default_rng(1).permutation(13)
    models = [vector_of(api, nodes, **options).tobytes() for nodes in (range(13), identities)]
    assert models[0] == models[1]


@EVERY_API
def test_each_round_has_the_batches_of_its_number_and_the_attacker_is_suspected(tmp_path, api):
    streaming = {"streaming": True} if api == "streamed" else {}
    kind = "classic" if api == "classic" else "message"
    train(tmp_path, 6, api=kind, bucketing_seed=3, **streaming)
    lines = audit.read(tmp_path / "audit.jsonl")
    seen = set()
    for line in lines:
        used = {int(c): e["batch"] for c, e in line["clients"].items() if e["reply"] == "used"}
        batches = split_into_batches(permute_clients(range(11), 3, line["round"]), 8)
        answered = filter(None, ([c for c in batch if c in used] for batch in batches))
        assert used == {c: number for number, batch in enumerate(answered) for c in batch}
        assert len(used) >= 9
        seen.add(tuple(used.items()))
    assert len(seen) == 6
    suspicion = {int(c): entry["suspicion"] for c, entry in lines[-1]["clients"].items()}
    assert suspicion[0] == 1.0
    assert suspicion[1] is None  # silent
    assert all(suspicion[client] < 0.8 for client in range(2, 11))


@settings(max_examples=15)
@given(st.integers(0, 2**64))
def test_q_byzantine_clients_do_not_lead_astray_in_any_permutation(seed):
    """By Lemma 1: C_α = 2(1 − α)/(1 − 2α) = 3 at α = q/k = 1/4, around the model 0."""
    vectors = np.concatenate([1e9 * VECTORS[:3], VECTORS[3:]])
    model = vector_of("message", vectors=vectors, num_byzantine=3, bucketing_seed=seed)
    assert np.linalg.norm(model) <= 3 * np.linalg.norm(VECTORS[3:], axis=1).max()


@STRATEGIES
@pytest.mark.parametrize("seed", [-1, 1.5, True, "secret"])
def test_a_seed_that_is_no_natural_number_is_refused(strategy, seed):
    needed = "bucketing_seed must be a whole number of at least 0"
    with pytest.raises((TypeError, ValueError), match=needed):
        strategy(num_byzantine=1, bucketing_seed=seed)


@STRATEGIES
def test_the_log_has_that_batches_are_drawn_but_not_the_seed(strategy, caplog):
    made = strategy(num_byzantine=1, bucketing_seed=123456789)
    with caplog.at_level("INFO", logger="flwr"):
        made.summary()
    assert "drawn afresh in each round" in caplog.text
    assert "123456789" not in caplog.text + repr(made)
