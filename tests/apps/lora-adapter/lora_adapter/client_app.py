"""The app's clients."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from lora_adapter.task import Adapted, load_data
from lora_adapter.task import train as train_model

app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    model = Adapted()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict(), strict=False)
    node = context.node_config
    data, _ = load_data(node["partition-id"], node["num-partitions"])
    train_model(model, data, msg.content["config"]["lr"])
    arrays, metrics = ArrayRecord(model.adapter()), MetricRecord({"num-examples": len(data[1])})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=msg)
