"""The app's clients."""

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from .model import test as test_model
from .model import train as train_model
from .task import load_data

app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    data, _ = data_of(context)
    epochs, lr = context.run_config["local-epochs"], msg.content["config"]["lr"]
    arrays, loss = train_model(msg.content["arrays"], data, epochs, lr)
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(data[1])})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    _, data = data_of(context)
    loss, accuracy = test_model(msg.content["arrays"], data)
    metrics = {"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(data[1])}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)


def data_of(context):
    return load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
