"""Batches whose members are drawn afresh in each round: `bucketing_seed` of both strategies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_byz import audit
from flwr_byz.aggregation import geometric_median_of_means, permute_clients, split_into_batches
from tests.support.answering_grid import train
from tests.support.apis import BOTH
from tests.support.server import APIS, a_reply, a_round

VECTORS = np.random.default_rng(0).normal(size=(13, 40))
EVERY_API = pytest.mark.parametrize("api", APIS)


def vector_of(api, nodes=range(13), vectors=VECTORS, **options):
    """Return the new model of round 1; node i of `nodes` sends the i-th vector."""
    ids = ({"id": float(i)} for i in range(13))
    replies = [a_reply(api, [v], 1, metrics) for v, metrics in zip(vectors, ids, strict=True)]
    made = dict(zip(map(int, nodes), replies, strict=True))
    arrays, metrics = a_round(api, [np.zeros(40)], made, **options)
    assert metrics["byz-batches"] == options.get("num_batches", metrics["byz-batches"])
    return arrays[0]


@EVERY_API
@pytest.mark.parametrize("seed", [0, 3])
def test_the_model_is_the_geometric_median_of_the_means_of_the_drawn_batches(api, seed):
    drawn = vector_of(api, num_batches=5, bucketing_seed=seed, shuffle=5)
    fixed = vector_of(api, num_batches=5)
    permuted = [VECTORS[i] for i in permute_clients(range(13), seed, 1)]
    for model, vectors in ((drawn, permuted), (fixed, VECTORS)):
        expected = geometric_median_of_means(vectors, 5).point
        assert np.allclose(model, expected, rtol=1e-9, atol=1e-12)
    assert not np.allclose(drawn, fixed)


@settings(max_examples=10)
@given(st.integers(0, 10**6), st.integers(0, 2**64))
def test_any_order_of_arrival_gives_the_same_bytes(shuffle, seed):
    options = {"num_byzantine": 2, "bucketing_seed": seed}
    ways = [(api, order) for api in ("classic", "message") for order in (None, shuffle)]
    models = {vector_of(api, shuffle=order, **options).tobytes() for api, order in ways}
    assert len(models) == 1


@pytest.mark.parametrize("api", ["classic", "message"])
def test_clients_grouped_by_what_they_report_give_the_same_bytes_under_any_identities(api):
    options = {"num_batches": 5, "group_by_key": "id", "bucketing_seed": 3}
    identities = np.random.default_rng(1).permutation(13)
    models = {vector_of(api, nodes, **options).tobytes() for nodes in (range(13), identities)}
    assert len(models) == 1


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
    attacker, silent, *honest = (lines[-1]["clients"][str(c)]["suspicion"] for c in range(11))
    assert (attacker, silent) == (1.0, None)
    assert all(suspicion < 0.8 for suspicion in honest)


@settings(max_examples=15)
@given(st.integers(0, 2**64))
def test_q_byzantine_clients_do_not_lead_astray_in_any_permutation(seed):
    """By Lemma 1: C_α = 2(1 − α)/(1 − 2α) = 3 at α = q/k = 1/4, around the model 0."""
    vectors = np.concatenate([1e9 * VECTORS[:3], VECTORS[3:]])
    model = vector_of("message", vectors=vectors, num_byzantine=3, bucketing_seed=seed)
    assert np.linalg.norm(model) <= 3 * np.linalg.norm(VECTORS[3:], axis=1).max()


@BOTH
def test_a_seed_is_a_natural_number_which_the_log_does_not_have(api, caplog):
    for seed in (-1, 1.5, True, "secret"):
        with pytest.raises((TypeError, ValueError), match="must be a whole number of at least 0"):
            api.gmom(num_byzantine=1, bucketing_seed=seed)
    caplog.set_level("INFO", "flwr")
    made = api.gmom(num_byzantine=1, bucketing_seed=123456789)
    made.summary()
    assert "drawn afresh in each round" in caplog.text
    assert "123456789" not in caplog.text + repr(made)
