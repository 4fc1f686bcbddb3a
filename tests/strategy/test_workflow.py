"""The classic strategy under a loop that sends to nodes past their clients."""

import logging

import numpy as np
import pytest
from flwr.server import LegacyContext, ServerAppComponents, ServerConfig
from flwr.server.workflow import DefaultWorkflow
from flwr.serverapp import ServerApp

from flwr_byz.server.strategy import GeometricMedianOfMeans
from flwr_byz.transport import client as transport_client
from tests.support.app_grid import AppGrid, attack, client_app, context, given


def strategy(**options):
    return GeometricMedianOfMeans(
        num_byzantine=2,
        evaluate_metrics_aggregation_fn=lambda _: {},
        **given("classic"),
        **options,
    )


@pytest.fixture
def grid():
    return AppGrid(client_app("classic", [attack(2, 5)]))


@pytest.fixture
def warnings(caplog):
    transport_client._log_once.cache_clear()
    with caplog.at_level(logging.WARNING, "flwr"):
        yield lambda: [m for m in caplog.messages if "past their clients" in m]


def test_the_default_workflow_trains_and_one_warning_names_what_is_off(grid, warnings):
    app, ended = ServerApp(), []

    @app.main()
    def main(grid, server_context):
        legacy = LegacyContext(server_context, ServerConfig(num_rounds=3), strategy())
        DefaultWorkflow()(grid, legacy)
        ended.append(legacy)

    app(grid, context(0))
    (legacy,) = ended
    (model,) = legacy.state.array_records.values()
    for array in model.to_numpy_ndarrays():
        np.testing.assert_allclose(array, 3.0, atol=0.03)
    losses = [loss for _, loss in legacy.history.losses_distributed]
    assert losses == pytest.approx([1, 2, 3], abs=0.03)
    assert len(warnings()) == 1


def test_where_the_server_of_flower_asks_the_clients_there_is_no_such_warning(grid, warnings):
    models = []
    made = strategy(evaluate_fn=lambda _, arrays, __: models.append(arrays))
    app = ServerApp(
        server_fn=lambda _: ServerAppComponents(strategy=made, config=ServerConfig(num_rounds=3))
    )
    app(grid, context(0))
    for array in models[-1]:
        np.testing.assert_allclose(array, 3.0, atol=0.03)
    assert warnings() == []


def test_a_workflow_that_would_go_on_from_checkpoints_says_what_to_use_instead(grid, tmp_path):
    app = ServerApp()

    @app.main()
    def main(grid, server_context):
        made = strategy(checkpoints=tmp_path)
        DefaultWorkflow()(grid, LegacyContext(server_context, ServerConfig(num_rounds=2), made))

    app(grid, context(0))
    with pytest.raises(RuntimeError, match="give the strategy to ServerAppComponents"):
        app(grid, context(0))
