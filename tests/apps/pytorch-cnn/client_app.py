"""The app's clients."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from .model import Net
from .task import load_data
from .torch_task import train as train_model

app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    model, node = Net(), context.node_config
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict(), strict=False)
    data, _ = load_data(node["partition-id"], node["num-partitions"])
    train_model(model, data)
    arrays, metrics = ArrayRecord(model.state_dict()), MetricRecord({"num-examples": len(data[1])})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=msg)
