"""Waiting for nodes: what is logged, and when. No second of these tests passes."""

import pytest

from flwr_byz import waiting
from tests.support.answering_grid import AnsweringGrid, model
from tests.support.apis import MESSAGE
from tests.support.strategies import KINDS, ran

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
    monkeypatch.setattr(waiting, "time", Clock())
    return waiting.time


@pytest.mark.parametrize(("seconds", "number"), [(0, 0), (29, 1), (31, 2), (91, 4), (3601, 121)])
def test_it_is_logged_every_30_seconds_what_is_waited_for(seconds, number, clock, caplog):
    connected = [2 if seconds else 5]
    clock.events[seconds] = lambda: connected.append(5)
    assert waiting.wait_for(lambda: connected[-1], 5, num_byzantine=2)
    assert caplog.messages == [NEEDS_FIVE] * number
    assert clock.now == seconds


def test_a_wait_ends_at_its_limit_and_other_options_may_ask_for_more_nodes(clock, caplog):
    assert not waiting.wait_for(lambda: 2, 5, num_byzantine=2, limit=45)
    assert 45 <= clock.now < 47
    assert caplog.messages == [NEEDS_FIVE] * 2 + ["too few clients came in 45 s: the model is kept"]
    assert not waiting.wait_for(lambda: 2, 12, num_byzantine=2, limit=0)
    assert "12 nodes are needed (by num_batches, or the minimum numbers" in caplog.text
    assert "num-supernodes=12" in caplog.text


@pytest.mark.parametrize(("api", "kind"), KINDS)
def test_a_run_logs_what_it_waits_for(api, kind, clock, caplog):
    clock.events[61] = lambda: 1 / 0  # in place of an endless wait
    with pytest.raises(ZeroDivisionError):
        ran(api, kind, num_rounds=1, num_nodes=2)
    assert caplog.messages.count(NEEDS_FIVE) == 3


def test_a_run_goes_on_with_the_nodes_that_come(clock, caplog):
    grid = AnsweringGrid(2, lambda node, server_round, arrays: [a + node for a in arrays])
    clock.events[31] = lambda: grid.node_ids.extend([2, 3, 4])
    strategy = MESSAGE.own.GeometricMedianOfMeans(num_byzantine=2, fraction_evaluate=0.0)
    result = strategy.start(grid, model(), num_rounds=1)
    assert caplog.messages.count(NEEDS_FIVE) == 2
    assert result.train_metrics_clientapp[1]["byz-clients"] == 5
