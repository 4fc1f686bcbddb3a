"""The app's clients."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from pytorch_cnn.task import Net, load_data
from pytorch_cnn.task import test as test_model
from pytorch_cnn.task import train as train_model

app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    model, (data, _) = sent(msg), data_of(context)
    loss = train_model(model, data, msg.content["config"]["lr"])
    arrays = ArrayRecord(model.state_dict())
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(data[1])})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    _, data = data_of(context)
    loss, accuracy = test_model(sent(msg), data)
    metrics = {"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(data[1])}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)


def sent(msg):
    model = Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    return model


def data_of(context):
    return load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
