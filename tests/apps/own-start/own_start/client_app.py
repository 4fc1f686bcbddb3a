"""The app's clients."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from own_start.task import load_data
from own_start.task import train as train_model

app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    (weights,) = msg.content["arrays"].to_numpy_ndarrays()
    data = load_data(context.node_config["partition-id"])
    arrays = ArrayRecord([train_model(weights, data, msg.content["config"]["lr"])])
    metrics = MetricRecord({"num-examples": len(data[1])})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=msg)
