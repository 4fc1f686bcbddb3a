"""Waiting for nodes: what the log says, and when. No second of these tests passes."""

import pytest
from flwr.app import ArrayRecord
from flwr.common import ndarrays_to_parameters
from flwr.server import Server
from flwr.server.client_manager import SimpleClientManager
from flwr.server.strategy import FedAvg as ClassicFedAvg
from flwr.serverapp.strategy import FedAvg

from flwr_byz import waiting
from flwr_byz.server.strategy import GeometricMedianOfMeans as ClassicStrategy
from flwr_byz.server.strategy import Hardened as ClassicHardened
from flwr_byz.serverapp.strategy import GeometricMedianOfMeans, Hardened
from tests.support import malformed
from tests.support.answering_grid import AnsweringGrid
from tests.support.malformed import model_arrays
from tests.support.server import Proxy

NEEDS_FIVE = (
    "Waiting: num_byzantine=2 needs 2q + 1 = 5 nodes, 2 are connected; "
    "in a simulation: --federation-config num-supernodes=10"
)


class Clock:
    """Seconds that pass while something sleeps, and what happens after so many."""

    def __init__(self):
        self.now, self.events = 0.0, {}

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        for due in [due for due in self.events if due <= self.now]:
            self.events.pop(due)()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(waiting, "time", clock)
    return clock


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("seconds", "number"), [(1, 1), (29, 1), (31, 2), (89, 3), (91, 4), (3601, 121)]
)
def test_the_log_says_at_once_and_every_30_seconds_what_is_waited_for(
    seconds, number, clock, caplog
):
    connected = [2]
    clock.events[seconds] = lambda: connected.append(5)
    assert waiting.wait_for(lambda: connected[-1], 5, num_byzantine=2)
    assert lines(caplog) == [NEEDS_FIVE] * number


def test_enough_nodes_are_not_waited_for(clock, caplog):
    assert waiting.wait_for(lambda: 5, 5, num_byzantine=2)
    assert clock.now == 0
    assert lines(caplog) == []


def test_a_wait_ends_at_its_limit(clock, caplog):
    assert not waiting.wait_for(lambda: 2, 5, num_byzantine=2, limit=45)
    assert 45 <= clock.now < 47
    assert lines(caplog) == [NEEDS_FIVE] * 2 + ["too few clients came in 45 s: the model is kept"]


def test_more_nodes_than_2q_plus_1_are_those_that_other_options_ask_for(clock, caplog):
    assert not waiting.wait_for(lambda: 2, 12, num_byzantine=2, limit=0)
    assert "12 nodes are needed (by num_batches, or the minimum numbers" in caplog.text
    assert "num-supernodes=12" in caplog.text


class Ended(Exception):
    """Raised in place of an endless wait."""


def stop():
    raise Ended


@pytest.mark.parametrize(
    "make",
    [
        lambda: GeometricMedianOfMeans(num_byzantine=2),
        lambda: Hardened(FedAvg(), num_byzantine=2),
    ],
)
def test_a_run_of_the_message_api_logs_what_it_waits_for(make, clock, caplog):
    clock.events[61] = stop
    model = ArrayRecord(model_arrays())
    with pytest.raises(Ended):
        make().start(AnsweringGrid(2, lambda *_: None), model)
    assert lines(caplog).count(NEEDS_FIVE) == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda model: ClassicStrategy(num_byzantine=2, initial_parameters=model),
        lambda model: ClassicHardened(ClassicFedAvg(initial_parameters=model), num_byzantine=2),
    ],
)
def test_a_run_of_the_classic_api_logs_what_it_waits_for(make, clock, caplog):
    manager = SimpleClientManager()
    for cid in ("0", "1"):
        manager.register(Proxy(cid))
    clock.events[61] = stop
    malformed.in_a_run()
    strategy = make(ndarrays_to_parameters(model_arrays()))
    with pytest.raises(Ended):
        Server(client_manager=manager, strategy=strategy).fit(1, None)
    assert lines(caplog).count(NEEDS_FIVE) == 3


def test_a_run_goes_on_with_the_nodes_that_come(clock, caplog):
    grid = AnsweringGrid(2, lambda node, server_round, arrays: [a + node for a in arrays])
    clock.events[31] = lambda: grid.node_ids.extend([2, 3, 4])
    result = GeometricMedianOfMeans(num_byzantine=2, fraction_evaluate=0.0).start(
        grid, ArrayRecord({"a0": malformed.named(model_arrays())["w"]}), num_rounds=1
    )
    assert lines(caplog).count(NEEDS_FIVE) == 2
    assert result.train_metrics_clientapp[1]["byz-clients"] == 5
