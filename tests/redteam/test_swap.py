"""The robust strategy in exchange for an app's own."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.common import ndarrays_to_parameters
from flwr.server import strategy as classic
from flwr.serverapp import strategy as message
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords

from flwr_byz.redteam.runs import ROBUST
from flwr_byz.redteam.swap import exchange
from flwr_byz.server.strategy import GeometricMedianOfMeans as Classic
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans as Message
from tests.support.answering_grid import AnsweringGrid

MESSAGE_OPTIONS = {
    "fraction_train": 0.5,
    "fraction_evaluate": 0.25,
    "min_train_nodes": 9,
    "min_evaluate_nodes": 2,
    "min_available_nodes": 11,
    "weighted_by_key": "weight",
    "arrayrecord_key": "model",
    "configrecord_key": "settings",
    "train_metrics_aggr_fn": lambda contents, key: MetricRecord(),
}
CLASSIC_OPTIONS = {
    "fraction_fit": 0.5,
    "fraction_evaluate": 0.25,
    "min_fit_clients": 9,
    "min_evaluate_clients": 2,
    "min_available_clients": 11,
    "evaluate_fn": lambda server_round, arrays, config: None,
    "on_fit_config_fn": lambda server_round: {},
    "on_evaluate_config_fn": lambda server_round: {},
    "accept_failures": False,
    "initial_parameters": ndarrays_to_parameters([np.zeros(2)]),
    "fit_metrics_aggregation_fn": lambda claims: {},
    "evaluate_metrics_aggregation_fn": lambda claims: {},
    "inplace": False,
}


@pytest.mark.parametrize(
    ("own", "options", "minimum", "kind"),
    [
        (message.FedAvg, MESSAGE_OPTIONS, "min_evaluate_nodes", Message),
        (classic.FedAvg, CLASSIC_OPTIONS, "min_evaluate_clients", Classic),
    ],
)
def test_options_are_carried_over_enough_clients_asked_and_the_rule_is_robust(
    own, options, minimum, kind
):
    robust, notes = exchange(own(**options), 3)
    assert type(robust) is kind
    assert notes == []
    assert (robust.settings.num_byzantine, robust.settings.trim_norm) == (3, "auto")
    assert {name: getattr(robust, name) for name in options} == options | {minimum: 7}
    if kind is Message:  # for which robust is robust
        assert robust.evaluate_metrics_aggr_fn is aggregate_metricrecords


class SendsRate(message.FedProx):
    """What Flower's tutorials show: a strategy that sends clients their learning rate."""

    def __init__(self, rate):
        super().__init__(proximal_mu=0.5)
        self.rate = rate

    def configure_train(self, server_round, arrays, config, grid):
        config["lr"] = self.rate / server_round
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        raise AssertionError("the app's own rule")


def test_what_a_subclass_sends_is_kept_and_its_rule_is_named_as_lost():
    robust, notes = exchange(SendsRate(3.0), 1)
    assert isinstance(robust, Message)
    assert notes == [f"SendsRate's own aggregate_train is not carried over to {ROBUST}"]
    grid = AnsweringGrid(3, None)
    requests = robust.configure_train(2, ArrayRecord([np.zeros(2)]), ConfigRecord(), grid)
    config = next(iter(requests)).content["config"]
    assert (config["lr"], config["proximal-mu"]) == (1.5, 0.5)
    assert robust.aggregate_train(2, []) is not None
    already, notes = exchange(Message(num_byzantine=1, gamma=1e-6), 1)
    assert (type(already), notes) == (Message, [])


class ChoosesHalf(classic.FedAvg):
    def num_fit_clients(self, num_available_clients):
        return 17, 23

    def aggregate_fit(self, server_round, results, failures):
        raise AssertionError("the app's own rule")


def test_a_classic_subclass_is_carried_over_but_for_its_rule():
    robust, notes = exchange(ChoosesHalf(), 1)
    assert robust.num_fit_clients(100) == (17, 23)
    assert notes == [f"ChoosesHalf's own aggregate_fit is not carried over to {ROBUST}"]
    assert robust.aggregate_fit(1, [], [])[0] is None


@pytest.mark.parametrize("api", [message, classic])
def test_nothing_is_kept_of_a_strategy_that_is_no_fedavg_with_a_note(api):
    wrapper = api.DifferentialPrivacyServerSideFixedClipping(api.FedAvg(), 0.1, 1.0, 10)
    robust, (note,) = exchange(wrapper, 2)
    assert robust.settings.num_byzantine == 2
    assert "DifferentialPrivacyServerSideFixedClipping is no FedAvg" in note
