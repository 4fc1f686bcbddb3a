"""Attacks on Hardened and robust() by clients that know the code."""

import numpy as np
import pytest
from flwr.app import MetricRecord

from tests.support import malformed
from tests.support.answering_grid import AnsweringGrid
from tests.support.apis import BOTH, HONEST, MESSAGE, SENT, exact, own

ODD_NAMES = ["", "a\nb", "a\0", "\x1b[2J", "é" * 500, "byz-gap", "arrays", "metrics", "\u202e"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_odd_name_of_a_metric_is_rejected_in_one_line_and_changes_nothing(name, caplog):
    bad = MESSAGE.reply(malformed.honest_arrays(0), {"loss": 0.5, name: 1.0})
    reference = exact(MESSAGE.round(MESSAGE.stock("FedMedian"), MESSAGE.honest()))
    outcome = MESSAGE.round(MESSAGE.hardened("FedMedian"), MESSAGE.honest() | {1: bad})
    assert exact(outcome) == reference
    (line,) = [m for m in caplog.messages if "Rejected" in m]
    assert line.strip("\t").isprintable()
    assert len(line) < 400


def mean_of_named(records, key):
    """A user's function that looks for the record by the name that its clients give it."""
    losses = [record["metrics"]["loss"] for record in records]
    return MetricRecord({"loss": float(np.mean(losses))})


@pytest.mark.parametrize(
    "make",
    [
        lambda **o: MESSAGE.gmom(num_byzantine=2, **o),
        lambda **o: MESSAGE.own.robust(MESSAGE.flower.FedAdam, num_byzantine=2, **o),
        lambda **o: MESSAGE.own.Hardened(MESSAGE.stock("FedAvg", **o)),
    ],
)
def test_another_name_of_one_client_s_metrics_does_not_stop_a_user_s_aggregation(make):
    contents = MESSAGE.honest()
    contents[10]["other"] = contents[10].pop("metrics")
    _, metrics = MESSAGE.round(make(train_metrics_aggr_fn=mean_of_named), contents)
    assert 0 < metrics["loss"] < 20


def test_metrics_of_another_form_are_no_evidence_against_a_client():
    """Else q clients could have honest ones excluded, where two forms are nearly as common."""
    strategy = MESSAGE.hardened("FedMedian", num_byzantine=2, exclude_above=0.5)
    forms = MESSAGE.honest() | {n: r for n, r in MESSAGE.honest(more=1.0).items() if n > 60}
    for server_round in (1, 2, 3):
        MESSAGE.round(strategy, forms, server_round=server_round)
    assert strategy._rounds.admitted(4, list(HONEST), 5) == list(HONEST)


EXTREME = [3e38, -3e38, 1e30, 1e20, -1e19, 0, 1e-45]


@BOTH
@pytest.mark.parametrize("name", ["FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum", "Bulyan"])
def test_two_clients_at_the_ends_of_float32_neither_stop_nor_move_a_robust_rule(api, name):
    rng = np.random.default_rng(5)
    for num_examples in (1e308, 5e-324) if api is MESSAGE else (2**62,):
        arrays = [rng.choice(EXTREME, size=a.shape).astype("f4") for a in SENT]
        bad = api.reply(arrays, {"loss": -1e308}, num_examples)
        made, _ = api.round(api.hardened(name), api.honest() | {1: bad, 55: bad})
        for got, true in zip(made, malformed.model_arrays(1.0), strict=True):
            assert np.abs(got - true).max() < 0.5


# What reaches the strategy. ---------------------------------------------------------------------


class Emptying(MESSAGE.flower.FedAvg):
    """A strategy that empties what it is given."""

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        for reply in replies:
            for record in list(reply.content.values()):
                record.clear()
        return arrays, metrics


def test_what_a_strategy_does_to_its_replies_does_not_reach_the_audit(tmp_path):
    trail = tmp_path / "audit.jsonl"
    strategy = MESSAGE.own.Hardened(Emptying(**MESSAGE.least), audit=trail)
    assert MESSAGE.round(strategy, MESSAGE.honest())[0] is not None
    assert '"distance": null' not in trail.read_text()


def test_distances_are_those_of_the_weights_where_counters_become_floats(tmp_path):
    """FedAvg makes float64 of integers, which must not shift what distances are taken of."""

    def weights(node):
        return np.full(4, 5.0 if node == 10 else 1.0 + node / 1000, "f4")

    sent = [np.zeros(3, "i8"), np.zeros(4, "f4")]
    strategy = MESSAGE.hardened("FedAvg", audit=tmp_path / "audit.jsonl")
    contents = {n: MESSAGE.reply([np.full(3, 1000 + n), weights(n)]) for n in HONEST}
    (counter, mean), _ = MESSAGE.round(strategy, contents, sent)
    assert counter.dtype.kind == "f"
    assert strategy._rounds.suspicion.scores["10"] == (1, 1.0)
    distance = float(np.linalg.norm(weights(60) - mean))
    assert f'"distance": {distance:.4f}'[:-2] in (tmp_path / "audit.jsonl").read_text()


@pytest.mark.parametrize("inner", [None, "fedavg", 7])
def test_an_attribute_that_is_named_strategy_and_is_none_is_no_obstacle(inner):
    strategy = MESSAGE.stock("FedAvg")
    strategy.strategy = inner
    assert MESSAGE.round(MESSAGE.own.Hardened(strategy), MESSAGE.honest())[0] is not None


# The loop. --------------------------------------------------------------------------------------


def training(folder, hostile):
    """Train through `start`; nodes 11 and above answer what is `hostile`."""

    def reply(node, server_round, arrays):
        if node >= 11:
            return hostile[node - 11]
        rng = np.random.default_rng([node, server_round])
        return MESSAGE.reply([(a + rng.normal(size=a.shape)).astype("f4") for a in arrays])

    inner = MESSAGE.flower.FedMedian(fraction_evaluate=0.0)
    strategy = MESSAGE.own.Hardened(inner, checkpoints=folder)
    result = strategy.start(AnsweringGrid(11 + len(hostile), reply), malformed.named(SENT), 3)
    metrics = [own(metrics) for metrics in result.train_metrics_clientapp.values()]
    return [array.numpy().tobytes() for array in result.arrays.values()], metrics


def test_a_whole_training_with_every_kind_of_reply_is_that_of_the_honest_nodes(tmp_path):
    kinds = [*MESSAGE.kinds.values()]
    clean = training(tmp_path / "clean", [None] * len(kinds))
    assert len(clean[1]) == 3
    assert training(tmp_path / "hostile", kinds) == clean
    assert training(tmp_path / "hostile", []) == clean  # from its checkpoint


def test_a_start_of_the_strategy_s_own_is_not_called_and_that_is_said(caplog):
    MESSAGE.own.Hardened(type("Own", (MESSAGE.flower.FedAvg,), {"start": None})())
    assert "Own.start is not called: Hardened runs the rounds" in caplog.text
