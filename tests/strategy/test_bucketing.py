"""Batches whose members are drawn afresh in each round: `bucketing_seed` of both strategies."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from flwr_byz import audit
from flwr_byz.aggregation import geometric_median_of_means, permute_clients, split_into_batches
from flwr_byz.server.strategy import GeometricMedianOfMeans as ClassicStrategy
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans as MessageStrategy
from tests.rounds.test_history import Stop, classic_train
from tests.support.answering_grid import drift, summary, train
from tests.support.malformed import fit_res
from tests.support.server import classic_round, message_round

VECTORS = np.random.default_rng(0).normal(size=(13, 40))
MODEL = [np.zeros(40)]


def play(api, nodes=range(13), **options):
    """Play round 1 in either API; node i of `nodes` sends the i-th vector."""
    if api == "classic":
        results = {
            node: fit_res([VECTORS[i]], metrics={"id": float(i)}) for i, node in enumerate(nodes)
        }
        arrays, metrics = classic_round(MODEL, results, **options)
    else:
        contents = {
            node: RecordDict(
                {
                    "arrays": ArrayRecord([VECTORS[i]]),
                    "metrics": MetricRecord({"num-examples": 1, "id": float(i)}),
                }
            )
            for i, node in enumerate(nodes)
        }
        arrays, metrics = message_round(ArrayRecord(MODEL), contents, **options)
    return arrays[0], metrics


def batches(server_round, seed=3, m=11, k=8):
    return split_into_batches(permute_clients(range(m), seed, server_round), k)


HOW = pytest.mark.parametrize(
    ("api", "streaming"),
    [("classic", {}), ("message", {}), ("message", {"streaming": True})],
    ids=["classic", "message", "streaming"],
)


@HOW
@pytest.mark.parametrize("seed", [0, 3])
def test_the_model_is_the_geometric_median_of_the_means_of_the_drawn_batches(api, streaming, seed):
    model, metrics = play(api, num_batches=5, bucketing_seed=seed, shuffle=5, **streaming)
    permuted = [VECTORS[i] for i in permute_clients(range(13), seed, 1)]
    expected = geometric_median_of_means(permuted, 5).point
    assert np.allclose(model, expected, rtol=1e-9, atol=1e-12)
    assert metrics["byz-batches"] == 5
    fixed, _ = play(api, num_batches=5, **streaming)
    assert not np.allclose(model, fixed)
    assert np.allclose(fixed, geometric_median_of_means(VECTORS, 5).point, rtol=1e-9, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 2**64))
def test_any_order_of_arrival_gives_the_same_bytes(shuffle, seed):
    models = {
        play(api, num_byzantine=2, bucketing_seed=seed, shuffle=order)[0].tobytes()
        for api in ("classic", "message")
        for order in (None, shuffle)
    }
    assert len(models) == 1


@pytest.mark.parametrize("api", ["classic", "message"])
def test_clients_grouped_by_what_they_report_give_the_same_bytes_under_any_identities(api):
    options = {"num_batches": 5, "group_by_key": "id", "bucketing_seed": 3}
    identities = np.random.default_rng(1).permutation(13)
    here, there = (
        play(api, [int(n) for n in nodes], **options)[0] for nodes in (range(13), identities)
    )
    assert here.tobytes() == there.tobytes()


def members(folder):
    """Return the batches of each round by the trail, of clients that answered."""
    return {
        line["round"]: {
            int(client): entry["batch"]
            for client, entry in line["clients"].items()
            if entry["reply"] == "used"
        }
        for line in audit.read(folder / "audit.jsonl")
    }


def run(how, folder, num_rounds, reply=drift):
    if how == "classic":
        return classic_train(folder, num_rounds, reply, bucketing_seed=3, fraction_evaluate=0.0)
    options = {"streaming": True} if how == "streaming" else {}
    return summary(train(folder, num_rounds, reply, bucketing_seed=3, **options))


RUNS = pytest.mark.parametrize("how", ["classic", "message", "streaming"])


@RUNS
def test_each_round_has_the_batches_of_its_number(tmp_path, how):
    run(how, tmp_path, 5)
    for server_round, told in members(tmp_path).items():
        answered = [[c for c in batch if c in told] for batch in batches(server_round)]
        expected = [batch for batch in answered if batch]
        assert told == {c: number for number, batch in enumerate(expected) for c in batch}
        assert len(told) >= 9
    assert len({tuple(told.items()) for told in members(tmp_path).values()}) == 5


@RUNS
@pytest.mark.parametrize("last", [1, 4])
def test_a_training_that_is_stopped_goes_on_with_the_same_permutations(
    tmp_path, how, last, monkeypatch
):
    whole = run(how, tmp_path / "whole", 6)
    strategy, aggregation = (
        (ClassicStrategy, "aggregate_fit")
        if how == "classic"
        else (MessageStrategy, "aggregate_train")
    )
    aggregate = getattr(strategy, aggregation)

    def stop(self, server_round, *arguments):
        if server_round > last:
            raise Stop
        return aggregate(self, server_round, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(strategy, aggregation, stop)
        with pytest.raises(Stop):
            run(how, tmp_path / "halves", 6)
    assert run(how, tmp_path / "halves", 6) == whole
    assert members(tmp_path / "halves") == members(tmp_path / "whole")


@RUNS
def test_the_score_of_suspicion_names_the_liar_whatever_batches_it_lay_in(tmp_path, how):
    run(how, tmp_path, 6)
    entries = audit.read(tmp_path / "audit.jsonl")[-1]["clients"]
    suspicion = {int(client): entry["suspicion"] for client, entry in entries.items()}
    assert suspicion[0] == 1.0
    assert suspicion[1] is None  # silent
    assert all(suspicion[client] < 0.8 for client in range(2, 11))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**64))
def test_q_liars_do_not_move_the_model_from_the_honest_ones_in_any_permutation(seed):
    """By Lemma 1: C_α = 2(1 − α)/(1 − 2α) = 3 at α = q/k = 1/4, around the model 0."""
    contents = {
        node: RecordDict(
            {
                "arrays": ArrayRecord([1e9 * VECTORS[node] if node < 3 else VECTORS[node]]),
                "metrics": MetricRecord({"num-examples": 1}),
            }
        )
        for node in range(13)
    }
    arrays, metrics = message_round(
        ArrayRecord(MODEL), contents, num_byzantine=3, bucketing_seed=seed
    )
    honest = max(np.linalg.norm(vector) for vector in VECTORS[3:])
    assert metrics["byz-batches"] == 12
    assert np.linalg.norm(arrays[0]) <= 3 * honest


@pytest.mark.parametrize("strategy", [ClassicStrategy, MessageStrategy])
@pytest.mark.parametrize("seed", [-1, 1.5, True, "secret"])
def test_a_seed_that_is_no_natural_number_is_refused(strategy, seed):
    needed = "bucketing_seed must be a whole number of at least 0"
    with pytest.raises((TypeError, ValueError), match=needed):
        strategy(num_byzantine=1, bucketing_seed=seed)


@pytest.mark.parametrize("strategy", [ClassicStrategy, MessageStrategy])
def test_the_log_tells_that_batches_are_drawn_but_not_the_seed(strategy, caplog):
    made = strategy(num_byzantine=1, bucketing_seed=123456789)
    with caplog.at_level("INFO", logger="flwr"):
        made.summary()
    assert "drawn afresh in each round" in caplog.text
    assert "123456789" not in caplog.text + repr(made)
