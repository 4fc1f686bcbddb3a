"""Trainings in this process: nodes of the Message API, and clients of the classic one, at once.

Each of the nodes 0 … m − 1 answers what a `reply` makes of (node, round, model): arrays are a
reply, an Error is one, None is silence.
"""

import tempfile
from functools import cache, partial
from types import SimpleNamespace

import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.common import Code, EvaluateRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import Server, SimpleClientManager
from flwr.serverapp import Grid

from flwr_byz.serverapp.strategy import AsyncGeometricMedianOfMeans
from tests.support import malformed
from tests.support.apis import BY_NAME, Proxy, pushed

M = 11


class Stop(Exception):
    """Ends a training in the middle of a round."""


class AnsweringGrid(Grid):
    def __init__(self, num_nodes, reply):
        self.node_ids = list(range(num_nodes))
        self.reply = reply
        self.answers, self.num_pushed = {}, 0
        malformed.in_a_run()

    def get_node_ids(self):
        return self.node_ids

    def push_messages(self, messages):
        (message,) = pushed(messages)
        self.num_pushed += 1
        made = self.answer(message)
        if made is None:
            return [None]  # as for a node that has left
        self.answers[message.metadata.message_id] = [made]
        return [message.metadata.message_id]

    def answer(self, message):
        """Return a node's reply, or None."""
        model = message.content["arrays"].to_numpy_ndarrays()
        node, config = message.metadata.dst_node_id, message.content["config"]
        made = self.reply(node, int(config["server-round"]), model)
        if isinstance(made, list):
            metrics = {"num-examples": 10, "loss": float(node)}
            made = malformed.content(record(made), metrics)
        return None if made is None else malformed.reply_to(message, made)

    def pull_messages(self, message_ids):
        return [reply for i in message_ids for reply in self.answers.pop(i, [])]

    def send_and_receive(self, messages, *, timeout=None):
        pushed_one_by_one = [self.push_messages([message]) for message in messages]
        return [reply for ids in pushed_one_by_one for reply in self.pull_messages(ids)]

    set_run = run = create_message = None


class LateGrid(AnsweringGrid):
    """Nodes that reply so many steps after they were asked.

    What a reply says is made of (node, step) when it is pulled: the grid holds no model.
    """

    def __init__(self, num_nodes, reply, steps_late):
        super().__init__(num_nodes, reply)
        self.steps_late, self.step = steps_late, 0

    def push_messages(self, messages):
        (message,) = pushed(messages)
        self.step = message.content["config"]["server-round"]
        asked = Message(RecordDict(), metadata=message.metadata)
        self.answers[message.metadata.message_id] = self.step, asked
        return [message.metadata.message_id]

    def pull_messages(self, message_ids):
        (message_id,) = message_ids
        sent_in, asked = self.answers[message_id]
        node = asked.metadata.dst_node_id
        if self.step < sent_in + self.steps_late(node):
            return []
        del self.answers[message_id]
        return [malformed.reply_to(asked, malformed.content(self.reply(node, sent_in)))]


class Client(Proxy):
    def __init__(self, number, reply):
        super().__init__(str(number))
        self.reply = reply

    def fit(self, ins, timeout, group_id):
        arrays = self.reply(int(self.cid), group_id, parameters_to_ndarrays(ins.parameters))
        if not isinstance(arrays, list):
            raise ConnectionError
        return malformed.fit_res(arrays)

    def evaluate(self, ins, timeout, group_id):
        mean = float(parameters_to_ndarrays(ins.parameters)[0].mean())
        return EvaluateRes(Status(Code.OK, ""), mean, 10, {"round": group_id})


def record(arrays):
    return ArrayRecord({f"a{i}": Array(a) for i, a in enumerate(arrays)})


def model():
    return record([np.zeros((3, 4), "f4"), np.zeros(5, "f8")])


def drift(node, server_round, arrays):
    """Move towards one, with noise; node 0 attacks, 1 is silent, 2 fails in every other round."""
    if node == 1:
        return None
    if node == 2 and server_round % 2:
        return Error(2, "broken")
    rng = np.random.default_rng([node, server_round])
    step = -9.0 if node == 0 else 0.1
    return [(a + step * (1 - a) + 0.01 * rng.normal(size=a.shape)).astype(a.dtype) for a in arrays]


def mean(arrays):
    return float(np.mean([a.mean() for a in arrays]))


def run(api, make, num_rounds, reply=drift, num_nodes=M, *, initial=None, stop_after=None):
    """Train with the strategy that `make` returns, which the server evaluates by the mean.

    The result has what the training ended with, exactly, and which nodes it asked, by round.
    With `stop_after`, the round after that one is aggregated and then raises `Stop`.
    """
    asked, initial = {}, initial or model()

    def noted(node, server_round, arrays):
        asked.setdefault(server_round, set()).add(node)
        return reply(node, server_round, arrays)

    def evaluate(server_round, arrays):
        if stop_after is not None and server_round > stop_after:
            raise Stop
        return mean(arrays)

    if api == "message":

        def evaluate_fn(server_round, arrays):
            return MetricRecord({"mean": evaluate(server_round, arrays.to_numpy_ndarrays())})

        grid = AnsweringGrid(num_nodes, noted)
        result = make().start(grid, initial, num_rounds, evaluate_fn=evaluate_fn)
        arrays = result.arrays.to_numpy_ndarrays()
        return SimpleNamespace(arrays=arrays, history=vars(result), asked=asked)
    strategy = make(
        initial_parameters=ndarrays_to_parameters(initial.to_numpy_ndarrays()),
        evaluate_fn=lambda r, a, _: (evaluate(r, a), {"mean": np.float32(mean(a))}),
    )
    manager = SimpleClientManager()
    for number in range(num_nodes):
        manager.register(Client(number, noted))
    server = Server(client_manager=manager, strategy=strategy)
    server.set_max_workers(1)  # CPython 3.11 fails at times to parse .npy headers in many threads
    history, _ = server.fit(num_rounds, None)
    arrays = parameters_to_ndarrays(server.parameters)
    return SimpleNamespace(arrays=arrays, history=vars(history), asked=asked)


def train(folder, num_rounds, reply=drift, api="message", num_nodes=M, stop_after=None, **options):
    """Train with checkpoints and an audit trail in a folder; `options` are the strategy's."""
    kind = BY_NAME[api].own.GeometricMedianOfMeans
    files = {"checkpoints": folder / "checkpoints", "audit": folder / "audit.jsonl"}
    make = partial(kind, **{"num_byzantine": 2, "fraction_evaluate": 0.0} | files | options)
    return run(api, make, num_rounds, reply, num_nodes, stop_after=stop_after)


def train_to_the_end(folder, num_rounds, connection):
    """Train in a process that sends when it has begun and, once it may end, its history."""
    send_once = cache(connection.send)

    def reply(node, server_round, arrays):
        send_once("begun")
        if (node, server_round) == (M - 1, num_rounds):
            connection.recv()
        return drift(node, server_round, arrays)

    connection.send(train(folder, num_rounds, reply).history)


def step_to_the_end(folder, num_steps, connection):
    """Train as `train_to_the_end`, in steps: node 0 attacks, 1 is late, and 2 never replies."""
    tempfile.tempdir = str(folder)
    send_once = cache(connection.send)

    def reply(node, step):
        send_once("begun")
        rng = np.random.default_rng([node, step])
        goal = -9 if node == 0 else 1
        zeros = model().to_numpy_ndarrays()
        return record([(goal + rng.normal(0, 0.1, z.shape)).astype(z.dtype) for z in zeros])

    def evaluate(step, arrays):
        if step == num_steps:
            connection.recv()
        return MetricRecord({"mean": mean(arrays.to_numpy_ndarrays())})

    files = {"checkpoints": folder / "checkpoints", "audit": folder / "audit.jsonl"}
    strategy = AsyncGeometricMedianOfMeans(num_byzantine=2, server_learning_rate=0.2, **files)
    late = {1: 3, 2: num_steps + 1}
    grid = LateGrid(M, reply, lambda node: late.get(node, 0))
    result = strategy.start(grid, model(), num_steps, evaluate_fn=evaluate)
    connection.send(vars(result))
