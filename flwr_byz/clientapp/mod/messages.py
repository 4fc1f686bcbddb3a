"""What a mod reads in the messages of a ClientApp, of either API."""

from flwr.app import ArrayRecord, Message, MessageType


def asks_to_train(message: Message) -> bool:
    """Return whether a message asks for training, by whatever function of the app."""
    return message.metadata.message_type.split(".")[0] == MessageType.TRAIN


def server_round(message: Message) -> int:
    """Return the number of the round that a message belongs to; 0 where it has none."""
    configs = message.content.config_records.values()
    named = [record["server-round"] for record in configs if "server-round" in record]
    return int(str(named[0] if named else message.metadata.group_id or 0))


def only_array_record(message: Message) -> ArrayRecord:
    """Return the model of a message or reply; raise ValueError where it has none, or several."""
    records = list(message.content.array_records.values())
    if len(records) != 1:
        raise ValueError(f"a mod needs one ArrayRecord in a message, got {len(records)}")
    return records[0]
