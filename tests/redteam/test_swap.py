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


def metrics(contents, key):
    return MetricRecord({"mine": 1.0})


def test_message_options_are_carried_over_and_the_rule_is_robust():
    own = message.FedAvg(
        fraction_train=0.5,
        fraction_evaluate=0.25,
        min_train_nodes=9,
        min_evaluate_nodes=2,
        min_available_nodes=11,
        weighted_by_key="weight",
        arrayrecord_key="model",
        configrecord_key="settings",
        train_metrics_aggr_fn=metrics,
    )
    robust, notes = exchange(own, 3)
    assert type(robust) is Message
    assert notes == []
    assert (robust.settings.num_byzantine, robust.settings.trim_norm) == (3, "auto")
    assert (robust.fraction_train, robust.fraction_evaluate) == (0.5, 0.25)
    assert (robust.min_train_nodes, robust.min_evaluate_nodes, robust.min_available_nodes) == (
        9,
        7,
        11,
    )
    assert (robust.weighted_by_key, robust.arrayrecord_key) == ("weight", "model")
    assert robust.configrecord_key == "settings"
    assert robust.train_metrics_aggr_fn is metrics
    assert robust.evaluate_metrics_aggr_fn is aggregate_metricrecords  # for which robust is robust


def test_classic_options_are_carried_over_and_the_rule_is_robust():
    options = {
        "fraction_fit": 0.5,
        "fraction_evaluate": 0.25,
        "min_fit_clients": 9,
        "min_evaluate_clients": 8,
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
    robust, notes = exchange(classic.FedAvg(**options), 3)
    assert type(robust) is Classic
    assert notes == []
    assert (robust.settings.num_byzantine, robust.settings.trim_norm) == (3, "auto")
    assert {name: getattr(robust, name) for name in options} == options


def test_too_few_clients_to_outvote_become_enough():
    robust, _ = exchange(classic.FedAvg(), 3)
    assert (robust.min_fit_clients, robust.min_available_clients) == (7, 7)


def test_a_strategy_that_is_robust_already_stays_what_it_is():
    robust, notes = exchange(Message(num_byzantine=1, gamma=1e-6), 1)
    assert type(robust) is Message
    assert notes == []


MODEL = ArrayRecord([np.zeros(2)])


class Grid:
    def get_node_ids(self):
        return [1, 2, 3]


class SendsRate(message.FedAvg):
    """What Flower's tutorials show: a strategy that tells clients their learning rate."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def configure_train(self, server_round, arrays, config, grid):
        config["lr"] = self.rate / server_round
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        raise AssertionError("the app's own rule")


def test_what_a_subclass_sends_is_kept_and_its_rule_is_named_as_lost(monkeypatch):
    sent = []
    monkeypatch.setattr(
        message.FedAvg,
        "_construct_messages",
        lambda self, record, nodes, kind: sent.append(record["config"]) or [],
    )
    robust, notes = exchange(SendsRate(3.0), 1)
    assert isinstance(robust, Message)
    assert notes == [f"SendsRate's own aggregate_train is not carried over to {ROBUST}"]
    robust.configure_train(2, MODEL, ConfigRecord(), Grid())
    assert sent[0]["lr"] == 1.5
    assert robust.aggregate_train(2, []) is not None


def test_flowers_fedprox_still_sends_its_mu(monkeypatch):
    sent = []
    monkeypatch.setattr(
        message.FedAvg,
        "_construct_messages",
        lambda self, record, nodes, kind: sent.append(record["config"]) or [],
    )
    robust, _ = exchange(message.FedProx(proximal_mu=0.5), 1)
    robust.configure_train(1, MODEL, ConfigRecord(), Grid())
    assert sent[0]["proximal-mu"] == 0.5


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
