"""A node of either API, in this process, whose app sends model updates that a test chooses."""

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import FitIns, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common.recorddict_compat import fitins_to_recorddict, recorddict_to_fitres

from tests.support import malformed

SENT = [np.full((2, 3), 5.0, "f4"), np.array([4, 4], "i8"), np.array(1.0, "f8")]


class Node:
    """A node with mods; `config` are more entries of its node config.

    Its app adds a number to float arrays, or with `gradients` sends that number in place of them,
    and counts integers up by one.
    """

    def __init__(self, api, *mods, number=3, gradients=False, run_config=None, run_id=11, **config):
        malformed.in_a_run()
        config = {"partition-id": number, "num-partitions": 10} | config
        self.api, self.gradients = api, gradients
        self.context = Context(run_id, 1000 + number, config, RecordDict(), run_config or {})
        if api == "message":
            self.app = ClientApp(mods=list(mods))
            self.app.train()(self.train)
            self.app.evaluate()(self.train)
        else:
            self.app = ClientApp(lambda context: _Client(self).to_client(), mods=list(mods))

    def trained(self, arrays):
        update = [self.update if a.dtype.kind == "f" else 1 for a in self.like]
        origin = [a * (not self.gradients or a.dtype.kind != "f") for a in arrays]
        made = zip(origin, update, self.like, strict=True)
        return [np.asarray(a.astype(like.dtype) + u, like.dtype) for a, u, like in made]

    def train(self, message, context):
        record = message.content["arrays"]
        made = malformed.named(self.trained(record.to_numpy_ndarrays()))
        record.clear()  # as an app does that is short of memory
        content = malformed.content(made, {"num-examples": 7, "loss": 0.5})
        return Message(content, reply_to=message)

    def ask(self, update=1.0, server_round=0, sent=SENT, like=None, kind="train"):
        """Return the arrays that come back in a round, where the app makes those dtypes."""
        self.update, self.like = update, like or sent
        if self.api == "message":
            config = {"server-round": server_round} if server_round else {}
            records = {"arrays": malformed.named(sent), "config": ConfigRecord(config)}
            message = Message(RecordDict(records), dst_node_id=1, message_type=kind)
            content = self.app(message, self.context).content
            assert dict(content["metrics"]) == {"num-examples": 7, "loss": 0.5}
            return content["arrays"].to_numpy_ndarrays()
        content = fitins_to_recorddict(FitIns(ndarrays_to_parameters(sent), {}), True)
        group = str(server_round or "")
        message = Message(content, dst_node_id=1, message_type=kind, group_id=group)
        result = recorddict_to_fitres(self.app(message, self.context).content, True)
        assert (result.num_examples, result.metrics) == (7, {"loss": 0.5})
        return parameters_to_ndarrays(result.parameters)


class _Client(NumPyClient):
    def __init__(self, node):
        self.node = node

    def fit(self, parameters, config):
        return self.node.trained(parameters), 7, {"loss": 0.5}
