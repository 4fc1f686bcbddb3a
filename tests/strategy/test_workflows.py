"""The classic strategies under Flower's workflows, which send to nodes past their clients."""

import logging

import numpy as np
import pytest
from flwr.client.mod import secaggplus_mod
from flwr.server import LegacyContext, ServerConfig
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow

from flwr_byz.transport import client as transport_client
from tests.support.apis import CLASSIC
from tests.support.app_grid import MODEL, AppGrid, attack, client_app, context

NUM_ROUNDS = 2
INITIAL = CLASSIC.initial(MODEL)


@pytest.fixture(autouse=True)
def logged(caplog):
    """Return the lines of the log; what is logged once is so in each test."""
    transport_client._log_once.cache_clear()
    caplog.set_level(logging.INFO, "flwr")
    return lambda text: [m for m in caplog.messages if text in m]


def run(strategy, workflow=None, mods=(), num_nodes=5):
    """Return the model and the history of a training by a workflow."""
    legacy = LegacyContext(context(0), ServerConfig(num_rounds=NUM_ROUNDS), strategy)
    DefaultWorkflow(fit_workflow=workflow)(AppGrid(client_app(CLASSIC, mods), num_nodes), legacy)
    (record,) = legacy.state.array_records.values()
    return record.to_numpy_ndarrays(), legacy.history


def run_secagg(strategy):
    """Return the model of a training by SecAgg+, whose mod acts in training only."""

    def mod(message, context, call_next):
        if "secaggplus_configs" in message.content:
            return secaggplus_mod(message, context, call_next)
        return call_next(message, context)

    return run(strategy, SecAggPlusWorkflow(3, 2, timeout=60), [mod])[0]


def gmom(**options):
    options |= {"evaluate_metrics_aggregation_fn": lambda _: {}}
    return CLASSIC.own.GeometricMedianOfMeans(num_byzantine=2, **INITIAL, **options)


def hardened(**options):
    fed_avg = CLASSIC.flower.FedAvg(min_fit_clients=5, min_available_clients=5, **INITIAL)
    return CLASSIC.own.Hardened(fed_avg, **options)


def test_the_default_workflow_trains_and_one_warning_names_what_is_off(logged):
    model, history = run(gmom(), mods=[attack(2, 5)], num_nodes=11)
    for array in model:
        np.testing.assert_allclose(array, NUM_ROUNDS, atol=0.03)
    losses = [loss for _, loss in history.losses_distributed]
    assert losses == pytest.approx([1, 2], abs=0.03)
    assert len(logged("PROTECTION IS OFF where messages go to nodes past their clients")) == 1


def test_a_workflow_that_would_go_on_from_checkpoints_says_what_to_use_instead(tmp_path):
    run(gmom(checkpoints=tmp_path))
    with pytest.raises(RuntimeError, match="give the strategy to ServerAppComponents"):
        run(gmom(checkpoints=tmp_path))


@pytest.mark.parametrize("make", [gmom, hardened])
def test_secure_aggregation_is_refused(make, logged):
    assert not any(array.any() for array in run_secagg(make()))
    assert len(logged("all 5 replies are the same numbers")) == NUM_ROUNDS
    assert logged("Flower's SecAgg workflows write one mean into every reply: leave them out")


def test_secure_aggregation_of_clients_that_are_all_honest():
    for array in run_secagg(hardened(num_byzantine=0)):
        np.testing.assert_allclose(array, NUM_ROUNDS, atol=0.02)
