"""A grid in this process whose nodes answer at once; also a server on it, to be killed.

``python -m tests.support.answering_grid FOLDER ROUNDS`` trains, with checkpoints and an audit trail
in the folder, and writes the final model and history there.
"""

import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Error, MetricRecord, RecordDict
from flwr.serverapp import Grid

from flwr_byz.serverapp.strategy import GeometricMedianOfMeans
from tests.support import malformed


class AnsweringGrid(Grid):
    """Nodes 0 … m − 1, of which each answers what `reply` makes of (node, round, model).

    None is silence, an Error is one, arrays are a reply.
    """

    def __init__(self, num_nodes, reply):
        self.node_ids = list(range(num_nodes))
        self.reply = reply
        self.answers = {}
        self.numbers = itertools.count()
        malformed.in_a_run()

    def get_node_ids(self):
        return self.node_ids

    def push_messages(self, messages):
        (message,) = messages
        message_id = f"message {next(self.numbers)}"
        message.metadata.__dict__["_message_id"] = message_id
        node = message.metadata.dst_node_id
        model = message.content["arrays"].to_numpy_ndarrays()
        made = self.reply(node, int(message.content["config"]["server-round"]), model)
        if isinstance(made, list):
            arrays = ArrayRecord({f"a{i}": Array(a) for i, a in enumerate(made)})
            metrics = MetricRecord({"num-examples": 10, "loss": float(node)})
            made = RecordDict({"arrays": arrays, "metrics": metrics})
        if made is None:
            return [None]  # as for a node that has left: nobody waits for it
        self.answers[message_id] = [malformed.reply_to(message, made)]
        return [message_id]

    def pull_messages(self, message_ids):
        return [reply for i in message_ids for reply in self.answers.pop(i, [])]

    def send_and_receive(self, messages, *, timeout=None):
        pushed = [self.push_messages([message]) for message in messages]
        return [reply for message_ids in pushed for reply in self.pull_messages(message_ids)]

    def set_run(self, run): ...
    def run(self): ...
    def create_message(self, *arguments): ...


def model():
    values = [np.zeros((3, 4), "f4"), np.zeros(5, "f8")]
    return ArrayRecord({f"a{i}": Array(a) for i, a in enumerate(values)})


def drift(node, server_round, arrays):
    """Move towards one, with noise; node 0 lies, 1 is silent, 2 fails in every other round."""
    if node == 1:
        return None
    if node == 2 and server_round % 2:
        return Error(2, "broken")
    rng = np.random.default_rng([node, server_round])
    step = -9.0 if node == 0 else 0.1
    return [(a + step * (1 - a) + 0.01 * rng.normal(size=a.shape)).astype(a.dtype) for a in arrays]


def train(folder, num_rounds, reply=drift, num_nodes=11, grid=AnsweringGrid, **options):
    """Train with checkpoints; return Flower's result."""
    strategy = GeometricMedianOfMeans(
        num_byzantine=2,
        checkpoints=folder / "checkpoints",
        audit=folder / "audit.jsonl",
        fraction_evaluate=0.0,
        **options,
    )
    return strategy.start(
        grid(num_nodes, reply),
        model(),
        num_rounds,
        evaluate_fn=lambda _, arrays: MetricRecord(
            {"mean": float(np.mean([a.mean() for a in arrays.to_numpy_ndarrays()]))}
        ),
    )


def summary(result):
    """Everything a training comes to, exactly."""
    return {
        "model": [array.tobytes().hex() for array in result.arrays.to_numpy_ndarrays()],
        "train": {r: dict(m) for r, m in result.train_metrics_clientapp.items()},
        "evaluate": {r: dict(m) for r, m in result.evaluate_metrics_serverapp.items()},
    }


if __name__ == "__main__":
    there = Path(sys.argv[1])

    def slowly(node, server_round, arrays):
        time.sleep(0.002)
        return drift(node, server_round, arrays)

    ended = summary(train(there, int(sys.argv[2]), slowly))
    (there / "ended.json").write_text(json.dumps(ended))
