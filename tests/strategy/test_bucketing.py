"""Batches whose members are drawn afresh in each round: `bucketing_seed` of both strategies."""

import numpy as np
import pytest

from flwr_byz import audit
from flwr_byz.aggregation import geometric_median_of_means, permute_clients, split_into_batches
from tests.support.answering_grid import train
from tests.support.apis import BOTH
from tests.support.server import EVERY_API, a_round

VECTORS = np.random.default_rng(0).normal(size=(13, 40))


@EVERY_API
@pytest.mark.parametrize("seed", [None, 0, 3])
def test_the_model_is_the_geometric_median_of_the_means_of_the_drawn_batches(api, seed):
    options = {"num_batches": 5, "bucketing_seed": seed, "shuffle": 5}
    replies = {client: [vector] for client, vector in enumerate(VECTORS)}
    (model,), metrics = a_round(api, [np.zeros(40)], replies, **options)
    drawn = range(13) if seed is None else permute_clients(range(13), seed, 1)
    expected = geometric_median_of_means([VECTORS[i] for i in drawn], 5).point
    assert np.allclose(model, expected, rtol=1e-9, atol=1e-12)
    assert metrics["byz-batches"] == 5


@BOTH
def test_clients_grouped_by_what_they_report_give_the_same_bytes_under_any_identities(api):
    models = set()
    for ids in (range(13), np.random.default_rng(1).permutation(13).tolist()):
        replies = {ids[i]: api.reply([v], {"id": float(i)}) for i, v in enumerate(VECTORS)}
        strategy = api.gmom(num_batches=5, group_by_key="id", bucketing_seed=3)
        ((model,), _) = api.round(strategy, replies, [np.zeros(40)])
        models.add(model.tobytes())
    assert len(models) == 1


@EVERY_API
def test_each_round_has_the_batches_of_its_number_and_the_attacker_is_suspected(tmp_path, api):
    options = {"bucketing_seed": 3} | ({"streaming": True} if api == "streamed" else {})
    train(tmp_path, 6, api=api.replace("streamed", "message"), **options)
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


@BOTH
def test_the_log_does_not_have_the_seed(api, caplog):
    caplog.set_level("INFO", "flwr")
    made = api.gmom(num_byzantine=1, bucketing_seed=123456789)
    made.summary()
    assert "drawn afresh in each round" in caplog.text
    assert "123456789" not in caplog.text + repr(made)
