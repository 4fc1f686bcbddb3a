"""The app's clients."""

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from .task import load_data
from .task import test as test_model
from .task import train as train_model

app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    weights = msg.content["arrays"].to_numpy_ndarrays()[0]
    data, _ = data_of(context)
    epochs, lr = context.run_config["local-epochs"], msg.content["config"]["lr"]
    weights, loss = train_model(weights, data, epochs, lr)
    arrays = ArrayRecord({"weights": Array(weights)})
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(data[1])})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    _, data = data_of(context)
    loss, accuracy = test_model(msg.content["arrays"].to_numpy_ndarrays()[0], data)
    metrics = {"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(data[1])}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)


def data_of(context):
    return load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
