"""What happens beside replies to a training in steps: nodes that leave, files that go, errors."""

import tempfile
import time
from types import SimpleNamespace

import numpy as np
import pytest

from flwr_byz.aggregation import geometric_median_of_means
from flwr_byz.sent_models import SentModels
from flwr_byz.serverapp.strategy import AsyncGeometricMedianOfMeans, Hardened
from flwr_byz.transport import AsyncGrid
from tests.strategy.test_async_steps import Server
from tests.support import malformed
from tests.support.apis import MESSAGE
from tests.support.malformed import named as record


class Nodes:
    """A grid on which node n replies with the model that it was sent plus n, after `delay(n)` s."""

    def __init__(self, number, delay=lambda _: 0.0, broken=()):
        malformed.in_a_run()
        self.nodes, self.delay, self.broken = list(range(number)), delay, broken
        self.sent, self.num_pushed = {}, 0

    def get_node_ids(self):
        return self.nodes

    def push_messages(self, messages):
        (message,) = messages
        node = message.metadata.dst_node_id
        self.num_pushed += 1
        if node in self.broken:
            raise RuntimeError(f"no way to node {node}")
        message.metadata.__dict__["_message_id"] = message_id = f"{node} {self.num_pushed}"
        model = message.content["arrays"].to_numpy_ndarrays()
        reply = MESSAGE.reply([array + np.float32(node) for array in model])
        due = time.monotonic() + self.delay(node)
        self.sent[message_id] = due, malformed.reply_to(message, reply)
        return [message_id]

    def pull_messages(self, message_ids):
        due, reply = self.sent[message_ids[0]]
        return [reply] if time.monotonic() >= due else []


def trained(strategy, grid, start=0.0, num_rounds=2):
    """Return the first coordinate of the model, and the metrics of each step."""
    initial = record([np.full(5, start, "f4")])
    result = strategy.start(grid, initial, num_rounds=num_rounds, timeout=20)
    return result.arrays.to_numpy_ndarrays()[0][0], result.train_metrics_clientapp


def of_three(**options):
    return AsyncGeometricMedianOfMeans(num_byzantine=0, num_batches=3, **options)


def test_replies_to_messages_of_an_earlier_training_do_not_count_in_the_next_one():
    grid = AsyncGrid(Nodes(3, delay=lambda node: 0.3 * (node == 2)))
    trained(of_three(quorum=2), grid, num_rounds=1)  # node 2 is still at work
    time.sleep(0.3)
    model, metrics = trained(of_three(quorum=3), grid, 100.0, num_rounds=1)
    middle = geometric_median_of_means(np.arange(3.0)[:, None] * np.ones(5), 3).point[0]
    assert model == pytest.approx(100.0 + middle)
    assert metrics[1]["byz-rejected"] == 0


def test_a_node_to_which_nothing_can_be_sent_does_not_end_the_training():
    _, metrics = trained(of_three(quorum=2, concurrency=1), Nodes(3, broken=(1,)), num_rounds=4)
    assert [metrics[step]["byz-clients"] for step in range(1, 5)] == [3] * 4


def test_where_nothing_can_be_sent_at_all_the_training_ends_before_its_steps_are_used_up():
    nodes = Nodes(3, broken=range(3))
    with pytest.raises(RuntimeError, match="no way"):
        trained(of_three(), nodes, num_rounds=100)
    assert nodes.num_pushed <= 6


def test_the_last_mean_of_a_client_that_is_excluded_does_not_count():
    server = Server(9, num_batches=9, quorum=5, exclude_above=0.3)
    rows = []
    for _ in range(5):
        server.begin()
        bad = [(n, [server.model[0] + np.float32(1e3)]) for n in (0, 1) if n in server.asked]
        good = [(n, server.trained(n, 1 + 0.01 * n)) for n in sorted(server.unanswered) if n > 1]
        metrics, _ = server.end(*bad, *good)
        rows.append(metrics["byz-batches"])
    assert 0 not in server.asked
    assert rows == [5] * 5  # with the last means of 0 and 1, they would be 7


def test_the_reply_of_a_node_that_left_while_it_was_at_work_counts():
    server = Server(9, num_batches=9, keep_steps=0)
    server.run_step(*range(5))
    server.nodes = list(range(8))
    for replies in ((0, 1, 2, 3, 4), (0, 1, 2, 3, 8)):
        server.begin()
        metrics, _ = server.end(*((node, server.trained(node, node)) for node in replies))
    assert (metrics["byz-clients"], metrics["byz-rejected"]) == (5, 0)
    assert metrics["byz-staleness"] == 2


def test_a_malformed_reply_does_not_show_that_its_client_is_in_no_row():
    server = Server(5, quorum=5)
    server.run_step(0, 1, 2)
    server.begin()
    server.end((0, [np.full(5, np.nan, "f4")]), (3, server.trained(3, 3.0)))
    assert server.is_kept  # two of the four rows may be Byzantine, that of node 0 too


def test_the_rows_of_one_author_are_not_kept():
    server = Server(9, num_batches=9)
    server.run_step(*range(5), update=lambda _: 1.0)
    metrics, _ = server.run_step(5)
    assert metrics["byz-batches"] == 1
    assert server.is_kept


def test_rows_that_are_kept_stay_those_of_their_batches():
    server = Server(5, num_byzantine=1, num_batches=5)
    server.run_step(1, 2, 3, update=lambda node: node**2)
    before = float(server.model[0][0])
    server.begin()
    server.end((0, server.trained(0, 0.0)))
    rows = np.array([0.0, 1.0, 4.0, 9.0])[:, None] * np.ones(5)
    expected = geometric_median_of_means(rows, 4, num_byzantine=1).point[0]
    assert server.model[0][0] - before == pytest.approx(expected)


def test_counters_of_a_new_reply_take_the_place_of_those_kept():
    server = Server(3, [np.zeros(5, "f4"), np.zeros(1, "i8")], num_byzantine=0, num_batches=3)
    server.strategy.quorum = 3
    for count in (5, 9):
        server.begin()
        server.end(*((node, [np.full(5, node, "f4"), np.array([count])]) for node in range(3)))
        assert server.model[1] == count


def test_each_late_reply_of_a_batch_is_scaled():
    server = Server(3, num_byzantine=0, num_batches=2, quorum=2)
    server.begin()
    server.end()
    server.begin()
    updates = np.array([1.0, 2.0, 6.0])
    server.end(*((node, server.trained(node, update)) for node, update in enumerate(updates)))
    expected = geometric_median_of_means(updates[:, None] * np.ones(5) * 2**-0.5, 2).point[0]
    assert server.model[0][0] == pytest.approx(expected)


def test_a_second_reply_of_a_node_is_rejected():
    server = Server(5)
    server.begin()
    message = server.unanswered.pop(0)
    twice = [malformed.reply_to(message, MESSAGE.reply([np.full(5, 9.0, "f4")])) for _ in range(2)]
    _, metrics = server.strategy.aggregate_train(1, iter(twice))
    assert (metrics["byz-clients"], metrics["byz-rejected"]) == (1, 1)


def test_a_gradient_that_is_too_old_is_left_out():
    options = {"num_batches": 2, "reply": "gradients", "max_staleness": 1}
    for steps, rejected in ((1, 0), (2, 1)):
        server = Server(2, num_byzantine=0, **options)
        for _ in range(steps):
            server.begin()
            server.end()
        server.begin()
        metrics, _ = server.end((1, [np.full(5, 2.0, "f4")]))
        assert metrics["byz-rejected"] == rejected


def test_no_row_is_kept_for_a_model_of_another_layout_or_through_an_error():
    for layout in ([np.zeros((1, 5), "f4")], [np.zeros(5, "f4"), np.zeros(1, "i8")]):
        server = Server(5, quorum=5)
        server.run_step(*range(5))
        server.model = layout
        server.begin()
        metrics, _ = server.end((0, layout))
        assert metrics["byz-batches"] == 1
    server = Server(5, quorum=5)
    server.run_step(*range(5))
    server.begin()

    def breaking_off():
        model = MESSAGE.reply(server.trained(0, 9.0))
        yield malformed.reply_to(server.unanswered.pop(0), model)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        server.strategy.aggregate_train(2, breaking_off())
    server.begin()
    metrics, _ = server.end((1, server.model))
    assert metrics["byz-batches"] == 1


def test_what_is_known_of_nodes_does_not_grow_with_those_that_came_and_left():
    server = Server(9, keep_steps=2)
    for step in range(10):
        server.nodes = list(range(9 * step, 9 * step + 9))
        server.begin()
        server.end(*((node, server.trained(node, 1.0)) for node in sorted(server.unanswered)))
    at_work = server.strategy._at_work
    assert len(at_work._last_turn) <= len(at_work.nodes) <= 3 * 9 + len(at_work.training)


def test_models_are_kept_only_while_a_reply_to_them_can_count():
    for max_staleness, steps in ((0, set()), (1, {3}), (2, {2, 3})):
        server = Server(9, num_byzantine=0, num_batches=9, quorum=1, max_staleness=max_staleness)
        for node in range(3):
            server.run_step(node)
        server.begin()
        assert set(server.strategy._models._files) == steps


def test_no_file_is_left_open_where_the_disk_is_full_or_training_is_over(monkeypatch):
    opened, temporary = [], tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: opened.append(temporary()) or opened[-1])
    models, disk = SentModels(), SimpleNamespace(dtype=np.dtype("f4"), nbytes=4)
    disk.tofile = lambda file: file.write(b"part") and _full()
    with pytest.raises(OSError, match="full"):
        models.keep(1, SimpleNamespace(floats=lambda: [disk]))
    assert opened[0].closed
    trained(of_three(quorum=2), Nodes(3, delay=lambda node: 20.0 * (node == 2)))
    assert len(opened) > 1
    assert all(file.closed for file in opened)


def test_a_file_that_is_gone_costs_the_reply_alone(monkeypatch):
    server = Server(9)
    server.run_step(*range(2, 7))
    server.begin()
    monkeypatch.setattr(SentModels, "floats", lambda *_: _full())
    good = [(node, server.trained(node, 0.5)) for node in range(2, 7)]
    metrics, _ = server.end((0, [np.ones(5, "f4")]), *good)
    assert metrics["byz-rejected"] == 1
    assert not server.is_kept


@pytest.mark.parametrize(
    "model",
    [
        [np.arange(6).reshape(2, 3)],
        [np.zeros(1, "f2"), np.zeros(3, "f8"), np.zeros(0, "f4"), np.zeros((), "f4")],
        [np.asfortranarray(np.zeros((3, 2), "f4")), np.array([True, False]), np.zeros(2, "f2")],
        [np.zeros(3, ">f4")],
    ],
    ids=["integers", "many dtypes", "Fortran", "big-endian"],
)
def test_late_replies_and_kept_rows_of_any_model(model):
    server = Server(5, model=model, num_batches=5, quorum=3, num_byzantine=1)

    def made(node):
        sent = server.unanswered[node].content["arrays"].to_numpy_ndarrays()
        return [a if a.dtype.kind == "b" else np.asarray(a + a.dtype.type(node)) for a in sent]

    for nodes in ((0, 1, 2), (3, 4, 0), (0, 1, 2)):
        server.begin()
        metrics, _ = server.end(*((node, made(node)) for node in nodes))
        assert (metrics["byz-rejected"], server.is_kept) == (0, False)
    assert metrics["byz-batches"] == 5
    assert [(a.dtype, a.shape) for a in server.model] == [(a.dtype, a.shape) for a in model]


def test_hardened_around_it_is_refused():
    with pytest.raises(TypeError, match="as it is"):
        Hardened(AsyncGeometricMedianOfMeans(num_byzantine=1), num_byzantine=1)


def test_nodes_that_are_asked_to_evaluate_would_take_replies_of_training_and_are_refused():
    class Evaluated(AsyncGeometricMedianOfMeans):
        def configure_evaluate(self, server_round, arrays, config, grid):
            content = malformed.content(arrays, {"num-examples": 1})
            return self._construct_messages(content, grid.get_node_ids(), "evaluate")

    changed = of_three()
    changed.fraction_evaluate = 1.0
    for strategy in (changed, Evaluated(num_byzantine=0)):
        with pytest.raises(TypeError, match="evaluate_fn"):
            trained(strategy, Nodes(3))


def _full():
    raise OSError("the disk is full")
