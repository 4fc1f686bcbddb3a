"""The classic strategy under a loop that sends to nodes past their clients."""

import logging
from itertools import count

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerAppComponents, ServerConfig
from flwr.server.workflow import DefaultWorkflow
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run

from flwr_byz.server.strategy import GeometricMedianOfMeans
from flwr_byz.transport import client as transport_client

from . import malformed

NUM_NODES, BYZANTINE = 7, (2, 5)


class Client(NumPyClient):
    """Moves the model by one; a Byzantine one far away."""

    def __init__(self, node):
        self.step = -1e6 if node in BYZANTINE else 1.0

    def fit(self, parameters, config):
        return [array + np.float32(self.step) for array in parameters], 10, {}

    def evaluate(self, parameters, config):
        return float(parameters[0][0]), 10, {}


class AppGrid(Grid):
    """Nodes 0 … in this process that run a ClientApp at once."""

    run = Run.create_empty(1)

    def __init__(self):
        malformed.in_a_run()
        self.numbers, self.replies = count(), {}
        self.app = ClientApp(lambda context: Client(context.node_id).to_client())

    def get_node_ids(self):
        return list(range(NUM_NODES))

    def push_messages(self, messages):
        (message,) = messages
        message_id = f"message {next(self.numbers)}"
        message.metadata.__dict__["_message_id"] = message_id
        self.replies[message_id] = self.app(message, context(message.metadata.dst_node_id))
        return [message_id]

    def pull_messages(self, reply_to_message_ids):
        return [self.replies.pop(message_id) for message_id in reply_to_message_ids]

    def send_and_receive(self, messages, *, timeout=None):
        pushed = [self.push_messages([message]) for message in messages]
        return [reply for message_ids in pushed for reply in self.pull_messages(message_ids)]

    def set_run(self, run): ...
    def create_message(self, *arguments): ...


def context(node):
    return Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})


def strategy():
    return GeometricMedianOfMeans(
        num_byzantine=2,
        initial_parameters=ndarrays_to_parameters([np.zeros(3, "f4")]),
        evaluate_metrics_aggregation_fn=lambda _: {},
    )


@pytest.fixture
def warnings(caplog):
    transport_client._log_once.cache_clear()
    with caplog.at_level(logging.WARNING, "flwr"):
        yield lambda: [m for m in caplog.messages if "past their clients" in m]


def test_the_default_workflow_trains_and_one_warning_names_what_is_off(warnings):
    app, ended = ServerApp(), []

    @app.main()
    def main(grid, server_context):
        legacy = LegacyContext(server_context, ServerConfig(num_rounds=3), strategy())
        DefaultWorkflow()(grid, legacy)
        ended.append(legacy)

    app(AppGrid(), context(0))
    (legacy,) = ended
    (model,) = legacy.state.array_records.values()
    np.testing.assert_allclose(model.to_numpy_ndarrays()[0], np.full(3, 3.0), atol=1e-5)
    assert [loss for _, loss in legacy.history.losses_distributed] == pytest.approx([1, 2, 3])
    assert len(warnings()) == 1


def test_where_the_server_of_flower_asks_the_clients_there_is_no_such_warning(warnings):
    made = strategy()
    model = []
    made.evaluate_fn = lambda _, arrays, __: model.append(arrays)
    app = ServerApp(
        server_fn=lambda _: ServerAppComponents(strategy=made, config=ServerConfig(num_rounds=3))
    )
    app(AppGrid(), context(0))
    np.testing.assert_allclose(model[-1][0], np.full(3, 3.0), atol=1e-5)
    assert warnings() == []
