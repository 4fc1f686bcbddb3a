"""The app's clients."""

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from own_loop.task import load_data
from own_loop.task import train as train_model

app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    weights = msg.content["arrays"]["weights"].numpy()
    data = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    weights = train_model(weights, data, msg.content["config"]["lr"])
    arrays = ArrayRecord({"weights": Array(weights)})
    metrics = MetricRecord({"num-examples": len(data[1])})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=msg)
