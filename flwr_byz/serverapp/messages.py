"""Flower's messages, opened and closed: replies to checked models, metrics and back."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from flwr.app import Array, ArrayRecord, Message, MetricRecord, MetricRecordValues, RecordDict
from numpy.typing import NDArray

from ..identity import ClientId
from ..payload import Layout, MalformedReply, check_num_examples, read_arrays
from ..round import Reply
from ..transport import Unreadable

Record = TypeVar("Record", ArrayRecord, MetricRecord)


def opened(
    messages: Iterable[Message],
    sent: Sequence[Message],
    layout: Layout,
    arrays_key: str,
    weight_key: str,
) -> Iterator[Reply]:
    """Check replies to what was sent; whatever one of them trips over is its own fault.

    Parameters
    ----------
    messages, sent : iterables of Message
    layout : Layout
        Of the model that was sent.
    arrays_key, weight_key : str
        Name of the one ArrayRecord, and of the number of examples in the one MetricRecord.
    """
    sender_of = senders(sent)
    for message in messages:
        client = sender_of(message)
        if message.has_error():
            yield Reply(client, None, reason="an error reply", is_error=True)
            continue
        content = None
        try:
            content = message.content
            model = read_arrays(_arrays(content, arrays_key), layout)
            reply = Reply(client, model, _metrics(content, weight_key), content)
            del model
        except Exception as error:
            reply = Reply(client, None, reason=str(error) or repr(error), payload=content)
        yield reply
        del reply  # before the next one is waited for


def letting_go(replies: Iterable[Reply]) -> Iterator[Reply]:
    """Empty each reply of its arrays when the next one is asked for."""
    for reply in replies:
        content = reply.payload or RecordDict()
        yield reply
        del reply
        for name, record in records_of(content, ArrayRecord).items():
            record.clear()  # it may be part of a reference cycle and live on for a while
            del content[name]


def evaluated(messages: Iterable[Message], sent: Sequence[Message], weight_key: str) -> list[Reply]:
    """Check replies to a request to evaluate; errors are left out."""
    sender_of = senders(sent)
    replies = []
    for message in messages:
        if message.has_error():
            continue
        client = sender_of(message)
        try:
            content = message.content
            replies.append(Reply(client, None, _metrics(content, weight_key), content))
        except Exception as error:
            replies.append(Reply(client, None, reason=str(error) or repr(error)))
    return replies


def senders(sent: Sequence[Message]) -> Callable[[Message], ClientId]:
    """Return what tells from a reply which node the message was sent to that it answers."""
    nodes = {
        m.metadata.message_id: m.metadata.dst_node_id
        for m in sent
        if m.metadata.message_id  # filled in when Flower pushes the message
    }

    def sender_of(reply: Message) -> ClientId:
        return nodes.get(reply.metadata.reply_to_message_id, reply.metadata.src_node_id)

    return sender_of


def numpy_arrays(arrays: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Return the arrays of a record by name."""
    return {name: array.numpy() for name, array in arrays.items()}


def array_record(arrays: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    """Return a record of arrays."""
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def metric_record(metrics: dict[str, MetricRecordValues] | None) -> MetricRecord | None:
    """Return a record of metrics; None where there are none."""
    return None if metrics is None else MetricRecord(metrics)


def with_metrics(content: RecordDict, metrics: Mapping[str, MetricRecordValues]) -> RecordDict:
    """Return content with its one MetricRecord cut down to some metrics."""
    (name,) = records_of(content, MetricRecord)
    return RecordDict({**content, name: MetricRecord(dict(metrics))})


def records_of(content: RecordDict, kind: type[Record]) -> dict[str, Record]:
    """Return the records of one kind; Flower's own properties check all of them at each access."""
    return {name: record for name, record in content.items() if isinstance(record, kind)}


def _arrays(content: RecordDict, key: str) -> ArrayRecord:
    if isinstance(content, Unreadable):
        raise MalformedReply(content.reason)
    records = records_of(content, ArrayRecord)
    if set(records) != {key}:
        raise MalformedReply(f"expected one ArrayRecord, named {key!r}, got {list(records)}")
    return records[key]


def _metrics(content: RecordDict, weight_key: str) -> Mapping[str, object]:
    records = records_of(content, MetricRecord)
    if len(records) != 1:
        raise MalformedReply(f"expected one MetricRecord, got {len(records)}")
    (record,) = records.values()
    check_num_examples(record.get(weight_key), weight_key)
    return record
