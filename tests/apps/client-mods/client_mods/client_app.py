"""The app's clients."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, arrays_size_mod, fixedclipping_mod

from client_mods.task import load_data
from client_mods.task import train as train_model

private = LocalDpMod(clipping_norm=2.0, sensitivity=0.01, epsilon=5.0, delta=1e-5)
app = ClientApp(mods=[arrays_size_mod, private, fixedclipping_mod])


@app.train()
def train(msg: Message, context: Context):
    arrays = {name: array.numpy() for name, array in msg.content["arrays"].items()}
    data = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    lr = msg.content["config"]["lr"]
    weights, bias = train_model(arrays["weights"], arrays["bias"], data, lr)
    arrays = ArrayRecord({"weights": Array(weights), "bias": Array(np.asarray(bias))})
    metrics = MetricRecord({"num-examples": len(data[1])})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=msg)
