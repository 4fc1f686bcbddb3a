"""The robust strategy in exchange for an app's own."""

from inspect import signature
from unittest.mock import Mock

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord
from flwr.common import ndarrays_to_parameters
from flwr.server import strategy as classic
from flwr.serverapp import strategy as message
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords

from flwr_byz.aggregation import NormTrimming
from flwr_byz.redteam.runs import ROBUST
from flwr_byz.redteam.swap import exchange
from flwr_byz.server.strategy import GeometricMedianOfMeans as Classic
from flwr_byz.serverapp.strategy import AsyncGeometricMedianOfMeans
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans as Message
from tests.support.answering_grid import AnsweringGrid


@pytest.mark.parametrize(("own", "kind"), [(message.FedAvg, Message), (classic.FedAvg, Classic)])
def test_options_are_carried_over_enough_clients_asked_and_the_rule_is_robust(own, kind):
    options, sent = {}, ndarrays_to_parameters([np.zeros(2)])
    for number, (name, each) in enumerate(signature(own).parameters.items(), start=2):
        if isinstance(each.default, bool):
            options[name] = not each.default
        else:
            given = {"min": number, "fraction": 1 / number, "initial": sent}
            other = Mock() if name.endswith("_fn") else f"the app's {name}"
            options[name] = given.get(name.partition("_")[0], other)
    if kind is Message:  # where the default is Flower's, and the robust strategy has its own
        options["evaluate_metrics_aggr_fn"] = aggregate_metricrecords
    robust, notes = exchange(own(**options), 3)
    assert (type(robust), notes) == (kind, [])
    assert robust.settings.num_byzantine == 3
    assert robust.settings.pre_aggregation == (NormTrimming("auto"),)
    least = {name: max(7, least) for name, least in options.items() if name[:4] == "min_"}
    assert {name: getattr(robust, name) for name in options} == options | least


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


class ChoosesHalf(classic.FedAvg):
    def num_fit_clients(self, num_available_clients):
        return 17, 23

    aggregate_fit = SendsRate.aggregate_train


def test_a_subclass_is_carried_over_but_for_its_rule_which_is_named_as_lost():
    robust, notes = exchange(SendsRate(3.0), 1)
    assert isinstance(robust, Message)
    assert notes == [f"SendsRate's own aggregate_train is not carried over to {ROBUST}"]
    grid = AnsweringGrid(3, None)
    first, *_ = robust.configure_train(2, ArrayRecord([np.zeros(2)]), ConfigRecord(), grid)
    config = first.content["config"]
    assert (config["lr"], config["proximal-mu"]) == (1.5, 0.5)
    assert robust.aggregate_train(2, []) is not None
    already, notes = exchange(Message(num_byzantine=1, gamma=1e-6), 1)
    assert (type(already), notes) == (Message, [])
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


def test_that_rounds_wait_for_all_clients_in_place_of_steps_is_noted():
    robust, notes = exchange(AsyncGeometricMedianOfMeans(num_byzantine=2), 2)
    assert type(robust) is Message
    assert "waits for all clients" in notes[0]
