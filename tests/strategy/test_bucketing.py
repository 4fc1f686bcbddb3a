"""Who is in which batch: by the order of identities, or drawn in each round (`bucketing_seed`)."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flwr_byz import audit
from flwr_byz.aggregation import geometric_median_of_means, permute_clients, split_into_batches
from flwr_byz.identity import identity_order
from tests.support.answering_grid import train
from tests.support.apis import BOTH, EVERY, STREAMED

VECTORS = np.random.default_rng(0).normal(size=(13, 40))


def test_numbers_come_first_and_by_size():
    clients = ["b", "10", "a", "9", "1" * 60, ""]
    assert sorted(clients, key=identity_order) == ["9", "10", "", "1" * 60, "a", "b"]
    assert sorted([10, 9, -1], key=identity_order) == [9, 10, -1]


@example(["3", "03", "٣", "003"])
@given(st.lists(st.text() | st.integers(0).map(str), unique=True))
def test_no_two_clients_share_a_place(clients):
    assert len({identity_order(client) for client in clients}) == len(clients)


@EVERY
@pytest.mark.parametrize("seed", [None, 0, 3])
def test_the_model_is_the_geometric_median_of_the_means_of_the_drawn_batches(api, seed):
    options, arrays = {"num_batches": 5, "bucketing_seed": seed}, VECTORS[:, None]
    (model,), metrics = api.step(arrays, [np.zeros(40)], shuffle=5, **options)
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
        models.add(api.round(strategy, replies, [np.zeros(40)])[0][0].tobytes())
    assert len(models) == 1


@EVERY
def test_each_round_has_the_batches_of_its_number_and_the_attacker_is_suspected(tmp_path, api):
    options = {"streaming": True} if api is STREAMED else {}
    train(tmp_path, 6, api=api.name, bucketing_seed=3, **options)
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
