"""Steps that wait for a quorum of batches: who is asked, what counts, and from which model."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error

from flwr_byz import audit
from flwr_byz.aggregation import geometric_median_of_means
from flwr_byz.serverapp.strategy import AsyncGeometricMedianOfMeans, GeometricMedianOfMeans
from tests.support import malformed
from tests.support.apis import MESSAGE, flat, pushed
from tests.support.malformed import named as record

START = [np.zeros(5, "f4")]


class Server:
    """A strategy in steps whose replies come as a test says; node n's is ``n`` unless it differs.

    `unanswered` has the message of each node that is at work.
    """

    def __init__(self, nodes=9, model=START, **options):
        malformed.in_a_run()
        given = {"num_byzantine": 2} | ({"num_batches": 8} if nodes == 9 else {}) | options
        self.strategy = AsyncGeometricMedianOfMeans(**given)
        self.nodes, self.model, self.step = list(range(nodes)), model, 0
        self.unanswered, self.asked = {}, []
        self.grid = SimpleNamespace(get_node_ids=lambda: self.nodes, send=self.send)

    def send(self, messages):
        for message in pushed(messages):
            node = message.metadata.dst_node_id
            assert node not in self.unanswered
            self.unanswered[node] = message
            self.asked.append(node)

    def begin(self):
        self.step, self.asked = self.step + 1, []
        arguments = self.step, record(self.model), ConfigRecord(), self.grid
        self.send(self.strategy.configure_train(*arguments))

    def end(self, *replies):
        """Aggregate (node, arrays or Error); return the metrics, and the replies not taken."""
        waiting = list(replies)

        def arriving():
            while waiting:
                node, made = waiting.pop(0)
                made = made if isinstance(made, Error) else MESSAGE.reply(made)
                yield malformed.reply_to(self.unanswered.pop(node), made)

        arrays, metrics = self.strategy.aggregate_train(self.step, arriving())
        self.is_kept = arrays is None
        if arrays is not None:
            self.model = arrays.to_numpy_ndarrays()
        return dict(metrics), waiting

    def run_step(self, *nodes, update=lambda node: float(node)):
        """Begin a step, and end it with updates of the model that these nodes were sent."""
        self.begin()
        return self.end(*((node, self.trained(node, update(node))) for node in nodes))

    def trained(self, node, update):
        sent = self.unanswered[node].content["arrays"].to_numpy_ndarrays()
        return [array + np.float32(update) for array in sent]


def median(updates, num_byzantine=2, k=None):
    vectors = [np.full(5, u, "f8") for u in updates]
    made = geometric_median_of_means(vectors, k or len(updates), num_byzantine=num_byzantine)
    return float(made.point[0])


def test_a_step_is_made_at_the_quorum_and_later_replies_count_in_the_next_one():
    server = Server()  # of 8 batches, one of them of two nodes
    metrics, waiting = server.run_step(*range(2, 9))
    assert [node for node, _ in waiting] == [7, 8]
    assert metrics["byz-clients"] == 5
    assert metrics["byz-training"] == 4
    assert metrics["byz-staleness"] == metrics["byz-missing"] == metrics["byz-rejected"] == 0
    assert server.model[0] == pytest.approx(median([2, 3, 4, 5, 6]), rel=1e-5)
    server.begin()
    assert sorted(server.asked) == [2, 3, 4, 5, 6]  # the others are still at work
    late = [(node, [np.full(5, node, "f4")]) for node in (7, 8)]
    metrics, _ = server.end(*late, *((n, server.trained(n, 0.0)) for n in (2, 3, 4)))
    assert metrics["byz-staleness"] == 1
    assert metrics["byz-clients"] == 5


def test_a_batch_is_filled_by_the_replies_of_half_of_its_clients():
    server = Server(15, num_byzantine=1, num_batches=3)  # of five clients each
    metrics, waiting = server.run_step(*(0, 5, 10, 1, 6, 11, 2, 7, 12, 3))
    assert metrics["byz-clients"] == 9
    assert [node for node, _ in waiting] == [3]


def test_a_late_update_counts_from_the_model_it_was_trained_from_and_is_scaled_by_its_age():
    options = {"num_batches": 3, "quorum": 2, "keep_steps": 0, "staleness_exponent": 0.5}
    server = Server(3, num_byzantine=0, **options)
    for _ in range(3):
        server.run_step(0, 1, update=lambda node: 0.5 + node)
    assert server.model[0] == pytest.approx(3.0)
    server.begin()
    server.end((2, [np.full(5, 8.0, "f4")]), (0, server.trained(0, 1.0)))
    moved = float(server.model[0][0]) - 3.0
    assert moved == pytest.approx((8.0 * 4**-0.5 + 1.0) / 2, rel=1e-6)  # 2 rows: their midpoint


def test_gradients_need_no_earlier_model_and_are_scaled_as_well():
    options = {"num_batches": 2, "quorum": 1, "keep_steps": 0, "reply": "gradients"}
    server = Server(2, num_byzantine=0, **options)
    server.run_step(0, update=lambda _: 1.0)
    server.begin()
    before = server.model[0].copy()
    server.end((1, [np.full(5, 2.0, "f4")]))
    assert before - server.model[0] == pytest.approx(2.0 * 2**-0.5)


def test_a_reply_that_is_too_old_is_left_out_and_its_node_asked_again():
    server = Server(3, num_byzantine=0, num_batches=3, quorum=2, max_staleness=2)
    for _ in range(3):
        server.run_step(0, 1, update=lambda node: 0.5 + node)
    server.begin()
    assert 2 not in server.asked
    late = 2, [np.full(5, 99.0, "f4")]
    metrics, _ = server.end(late, *((n, server.trained(n, n - 0.5)) for n in (0, 1)))
    assert metrics["byz-rejected"] == 1
    assert server.model[0] == pytest.approx(3.0)
    server.begin()
    assert 2 in server.asked


def test_a_batch_without_a_new_reply_counts_with_its_last_mean_for_so_many_steps():
    server = Server(5, quorum=5, keep_steps=2)
    server.run_step(*range(5), update=lambda node: 10.0 * node)
    seen = []
    for _ in range(3):
        before = float(server.model[0][0])
        server.begin()
        metrics, _ = server.end(*((n, server.trained(n, 0.0)) for n in range(3)))
        seen.append((metrics["byz-batches"], float(server.model[0][0]) - before))
    expected = median([0, 0, 0, 30, 40])
    assert [number for number, _ in seen] == [5, 5, 3]
    assert [moved for _, moved in seen] == pytest.approx([expected, expected, 0.0], abs=1e-4)


def test_kept_means_are_not_taken_over_to_another_training():
    server = Server(5, quorum=5)
    server.run_step(*range(5))
    grid = SimpleNamespace(push_messages=None, get_node_ids=list)
    server.strategy.start(grid, record(START), num_rounds=0)
    server.unanswered, server.step, server.model = {}, 1, START
    metrics, _ = server.run_step(0)
    assert server.is_kept
    assert metrics["byz-batches"] == 1


def test_in_each_step_a_node_is_asked_once_however_fast_it_answers():
    server = Server(9, concurrency=3)
    server.begin()
    taken = []

    def arriving():
        while server.unanswered:
            node = max(server.unanswered)  # the one that was asked last is the fastest
            taken.append(node)
            assert len(server.unanswered) <= 3
            yield malformed.reply_to(server.unanswered.pop(node), MESSAGE.reply(server.model))

    server.strategy.aggregate_train(1, arriving())
    assert len(taken) == len(set(taken)) == 5  # then the quorum is there


def test_with_few_nodes_at_a_time_every_node_has_its_turn():
    server, turns = Server(9, concurrency=3, quorum=5), []
    for _ in range(18):
        server.begin()

        def arriving(server=server):
            while server.unanswered:
                node = next(iter(server.unanswered))
                turns.append(node)
                yield malformed.reply_to(server.unanswered.pop(node), MESSAGE.reply(server.model))

        server.strategy.aggregate_train(server.step, arriving())
    counts = np.bincount(turns)
    assert len(counts) == 9
    assert max(counts) - min(counts) <= 1


def test_malformed_and_error_replies_fill_no_batch_and_are_not_asked_for_again_in_the_step():
    server = Server(9)
    server.begin()
    bad = [(0, [np.full(5, np.nan, "f4")]), (1, [np.zeros(4, "f4")]), (2, Error(2, "broken"))]
    good = [(node, server.trained(node, 1.0)) for node in range(3, 9)]
    metrics, waiting = server.end(*bad, *good)
    assert (metrics["byz-rejected"], metrics["byz-clients"]) == (3, 8)
    assert len(waiting) == 1
    assert server.unanswered.keys() == {8}


def test_a_node_that_failed_at_an_old_model_is_given_the_new_one_in_the_same_step():
    server = Server(9)
    server.run_step(*range(2, 9))
    server.begin()
    server.end((0, Error(2, "it took too long")), (1, Error(2, "it took too long")))
    assert server.asked[-2:] == [0, 1]


def test_without_a_quorum_a_step_is_made_only_with_an_honest_majority():
    server = Server(9)
    server.run_step(*range(1, 5))  # in four of eight batches
    assert server.is_kept
    server.begin()
    server.end((5, server.trained(5, 1.0)))  # the fifth row that is there
    assert not server.is_kept


def test_the_same_numbers_from_all_are_refused_in_every_step():
    server = Server(9)
    for _ in range(3):
        server.run_step(
            *sorted({*range(9)} - server.unanswered.keys() | {8})[:5], update=lambda _: 1
        )
        assert server.is_kept


def test_a_row_that_is_not_finite_does_not_outlive_its_step():
    server = Server(9, quorum=6)
    server.begin()
    largest = np.finfo("f4").max
    honest = [(node, server.trained(node, 0.1)) for node in range(2, 8)]
    server.model[0][:] = 0
    overflow = [(0, [np.full(5, largest, "f4")]), (1, [np.full(5, largest, "f4")])]  # one batch
    metrics, _ = server.end(*overflow, *honest)
    assert metrics["byz-trimmed"] == 1
    server.begin()
    metrics, _ = server.end(*((node, server.trained(node, 0.1)) for node in range(2, 8)))
    assert metrics["byz-trimmed"] == 0


def test_where_too_few_nodes_are_there_no_model_is_given_out_and_late_replies_count(monkeypatch):
    server = Server(9)
    server.run_step(*range(4, 9))
    server.nodes = [7, 8]
    monkeypatch.setattr(server.strategy, "_timeout", 0.0)
    server.begin()
    assert server.asked == []
    server.end(*((node, [np.full(5, node, "f4")]) for node in range(4)))
    assert server.asked == []
    assert not server.is_kept


def test_nodes_that_are_away_for_a_while_stay_in_their_batches():
    server = Server(9, num_batches=9, quorum=9, keep_steps=2)
    server.run_step(*range(9))
    server.strategy.quorum, server.strategy._fewest = 5, 5
    server.nodes = list(range(4, 9))
    rows = []
    for _ in range(4):
        server.begin()
        metrics, _ = server.end(*((n, server.trained(n, 0.0)) for n in range(4, 9)))
        rows.append(metrics["byz-batches"])
    assert rows == [9, 9, 5, 5]


def test_with_equal_speed_and_all_batches_steps_are_those_of_the_synchronous_rule_to_the_bit():
    rng = np.random.default_rng(0)
    model = [rng.normal(size=700).astype("f4"), rng.normal(size=(3, 5))]
    for k, trim in [(9, None), (5, "auto"), (12, "auto")]:
        options = {"num_byzantine": 2, "num_batches": k, "trim_norm": trim}
        one = Server(12, model, quorum=k, **options)
        sent = model
        for step in range(1, 4):
            one.begin()
            replies = [
                [a + rng.normal(size=a.shape).astype(a.dtype) for a in sent] for _ in range(12)
            ]
            contents = {node: MESSAGE.reply(made) for node, made in enumerate(replies)}
            synchronous = GeometricMedianOfMeans(streaming=True, **options)
            expected, _ = MESSAGE.round(synchronous, contents, sent, step)
            one.end(*enumerate(replies))
            if one.unanswered:  # of batches of two, the last need not be waited for
                break
            assert flat(one.model).tobytes() == flat(expected).tobytes()
            sent = one.model


@pytest.mark.parametrize("when", ["first", "last", "stale"])
@pytest.mark.parametrize("keep_steps", [0, 20])
def test_colluders_move_a_step_no_further_than_the_bound_whenever_they_reply(when, keep_steps):
    rng = np.random.default_rng(1)
    server = Server(9, num_batches=9, quorum=6, keep_steps=keep_steps)
    bad, honest = [0, 1], list(range(2, 9))
    for step in range(12):
        slow = honest[step % 7]
        server.begin()
        before = server.model[0].astype("f8")
        updates = {n: 0.5 + 0.1 * rng.normal(size=5) for n in honest}
        good = [(n, [server.model[0] + updates[n].astype("f4")]) for n in honest if n != slow]
        good = [(n, made) for n, made in good if n in server.unanswered]
        evil = [(n, [np.full(5, -1e6, "f4")]) for n in bad if n in server.unanswered]
        if when == "stale" and step % 3:
            evil = []
        order = [*evil, *good] if when == "first" else [*good[:4], *evil, *good[4:]]
        metrics, _ = server.end(*order)
        if server.is_kept:
            continue
        moved = server.model[0] - before
        assert np.linalg.norm(moved - 0.5) < metrics["byz-bound"] * 3.0


def test_the_audit_trail_names_who_replied_and_not_who_is_at_work(tmp_path):
    server = Server(9, audit=tmp_path / "audit.jsonl")
    server.run_step(*range(2, 9))
    (line,) = audit.read(tmp_path / "audit.jsonl")
    assert sorted(line["clients"], key=int) == ["2", "3", "4", "5", "6"]
    assert {entry["reply"] for entry in line["clients"].values()} == {"used"}


def test_a_model_that_cannot_be_kept_costs_the_replies_to_it_alone(monkeypatch):
    server = Server(9)
    monkeypatch.setattr("flwr_byz.sent_models.SentModels.keep", _disk_is_full)
    server.run_step(*range(2, 7))
    server.begin()
    good = [(node, server.trained(node, 0.5)) for node in range(2, 7)]
    metrics, _ = server.end((0, [np.ones(5, "f4")]), *good)
    assert metrics["byz-rejected"] == 1
    assert not server.is_kept


def _disk_is_full(*_):
    raise OSError("no space left")


WRONG = {
    "missing": (TypeError, {}),
    "quorum must be": (ValueError, {"num_byzantine": 2, "quorum": 4}),
    "quorum must": (ValueError, {"num_byzantine": 2, "num_batches": 6, "quorum": 7}),
    "num_byzantine": (TypeError, {"num_byzantine": None, "num_batches": 9}),
    "leave room for one": (ValueError, {"num_byzantine": 2, "concurrency": 2}),
    "max_staleness": (ValueError, {"num_byzantine": 2, "max_staleness": -1}),
    "staleness_exponent": (ValueError, {"num_byzantine": 2, "staleness_exponent": -0.5}),
    "keep_steps": (TypeError, {"num_byzantine": 2, "keep_steps": 1.5}),
    "concurrency says": (TypeError, {"num_byzantine": 2, "fraction_train": 0.5}),
    "evaluate_fn": (TypeError, {"num_byzantine": 2, "fraction_evaluate": 1.0}),
    "before the first reply": (TypeError, {"num_byzantine": 2, "group_by_key": "partition-id"}),
    "did you mean num_batches": (TypeError, {"num_byzantine": 2, "num_batch": 5}),
}


@pytest.mark.parametrize(("text", "wrong"), WRONG.items(), ids=WRONG)
def test_wrong_options_are_refused_with_what_helps(text, wrong):
    error, options = wrong
    with pytest.raises(error, match=text):
        AsyncGeometricMedianOfMeans(**options)


def test_a_grid_that_forgets_late_replies_is_refused():
    strategy = AsyncGeometricMedianOfMeans(num_byzantine=1)
    configure = partial(strategy.configure_train, 1, record(START), ConfigRecord())
    with pytest.raises(TypeError, match="AsyncGrid"):
        configure(SimpleNamespace(get_node_ids=lambda: [1, 2, 3]))
