"""Flower's messages, opened and closed: replies to checked models, metrics and back."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from flwr.app import Array, ArrayRecord, Message, MetricRecord, MetricRecordValues, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords
from numpy.typing import NDArray

from .. import payload
from ..hardening import Form, form_of_metrics
from ..payload import Layout, MalformedReply, Model
from ..robust_server import MetricsFunction
from ..round import Reply
from ..transport import Unreadable

Record = TypeVar("Record", ArrayRecord, MetricRecord)


def opened(
    messages: Iterable[Message],
    sent: Sequence[Message],
    weight_key: str,
    arrays_key: str = "",
    layout: Layout | None = None,
    *,
    lets_go: bool = False,
) -> Iterator[Reply]:
    """Check replies to what was sent; whatever one of them trips over is its own fault.

    `weight_key` names the number of examples in the one MetricRecord, where there has to be one,
    `arrays_key` the one ArrayRecord; without the `layout` of the model that was sent, no arrays are
    looked for. With `lets_go`, a reply is emptied of its arrays when the next one is asked for,
    or none any more.
    """
    pushed = [m.metadata for m in sent if m.metadata.message_id]  # Flower sets it in pushing
    nodes = {metadata.message_id: metadata.dst_node_id for metadata in pushed}
    for message in messages:
        client = nodes.get(message.metadata.reply_to_message_id, message.metadata.src_node_id)
        if message.has_error():
            reason = f"an error reply: {message.error.reason}"
            yield Reply(client, None, reason=reason, is_error=True)
            continue
        content = RecordDict()
        try:
            content = message.content
            metrics = _metrics(content, weight_key)
            reply = Reply(client, _model(content, arrays_key, layout), metrics, message)
        except Exception as error:
            reply = Reply(client, None, reason=error)
        try:
            yield reply
        finally:
            del reply  # before the next one is waited for
            if lets_go:
                for name, record in records_of(content, ArrayRecord).items():
                    record.clear()  # it may be part of a reference cycle and live on for a while
                    del content[name]


def rebuilt(reply: Reply) -> Message:
    """Return the message of a reply, with its arrays as they were checked: in the model's order."""
    message: Message = reply.payload
    if reply.model is not None:
        ((name, record),) = records_of(message.content, ArrayRecord).items()
        arrays = {s.name: _array(record[s.name], s, value) for s, value in reply.model.items()}
        message.content = RecordDict({**message.content, name: ArrayRecord(arrays)})
    return message


def form_of(reply: Reply) -> Form | None:
    """Return the names and types of a reply's records and metrics, as `form_of_metrics` does."""
    metrics = form_of_metrics(reply)
    records = {(name, type(record).__name__) for name, record in reply.payload.content.items()}
    return None if metrics is None else metrics | records


def one_reply(model: Model, sent: Sequence[Message], arrays_key: str, weight_key: str) -> Message:
    """Return a reply with a model, as if there were one client only."""
    metrics = MetricRecord({weight_key: 1})
    content = RecordDict({arrays_key: payload.to_arrays(model), "metrics": metrics})
    return Message(content, reply_to=sent[0])


def of_replies(
    aggregate: Callable[[list[RecordDict], str], MetricRecord] | None, weight_key: str
) -> MetricsFunction | None:
    """Return a user's function of contents as one of replies and the metrics chosen of them.

    None where it is Flower's default, which one client can poison.
    """
    if aggregate is None or aggregate is aggregate_metricrecords:
        return None

    def aggregated(chosen: Sequence[tuple[Reply, Any]]) -> MetricRecord:
        contents = [reply.payload.content for reply, _ in chosen]
        names = Counter(name for content in contents for name in records_of(content, MetricRecord))
        usual = max(names, key=lambda name: (names[name], name), default="metrics")
        cut_down = []
        for content, (_, metrics) in zip(contents, chosen, strict=True):
            others = {n: r for n, r in content.items() if not isinstance(r, MetricRecord)}
            cut_down.append(RecordDict(others | {usual: MetricRecord(dict(metrics))}))
        return aggregate(cut_down, weight_key)

    return aggregated


def numpy_arrays(arrays: ArrayRecord) -> dict[str, NDArray[Any]]:
    """Return the arrays of a record by name, read-only and in place: no memory is taken."""
    return {name: payload.read_npy(array.data, name) for name, array in arrays.items()}


def array_record(arrays: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    """Return a record of arrays."""
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def updated_model(
    function: Callable[[int, ArrayRecord], ArrayRecord], server_round: int, model: Model
) -> Model:
    """Return what a caller's function makes of a model, as `ArrayRecord`s."""
    return payload.read_arrays(function(server_round, payload.to_arrays(model)), model.layout)


def metric_record(metrics: dict[str, MetricRecordValues] | None) -> MetricRecord | None:
    """Return a record of metrics; None for None."""
    return None if metrics is None else MetricRecord(metrics)


def records_of(content: RecordDict, kind: type[Record]) -> dict[str, Record]:
    """Return the records of one kind.

    Flower's own properties check all of them at each access, and let them live on in a reference
    cycle.
    """
    return {name: record for name, record in content.items() if isinstance(record, kind)}


def _model(content: RecordDict, key: str, layout: Layout | None) -> Model | None:
    if layout is None:
        return None
    records = records_of(content, ArrayRecord)
    if set(records) != {key}:
        found = payload.listed(sorted(records))
        raise payload.OtherLayout(
            f"its ArrayRecords are {found}, not {key!r} alone: let clients reply under {key!r}, or "
            "give the strategy arrayrecord_key"
        )
    return payload.read_arrays(records[key], layout)


def _array(received: Array, spec: payload.ArraySpec, value: NDArray[Any]) -> Array:
    """Return an array as it was received, its form as checked; cast where its dtype is another."""
    if value.dtype != spec.dtype:
        return Array(value.astype(spec.dtype))
    claimed, checked = (received.dtype, received.shape), (str(spec.dtype), spec.shape)
    is_true = type(received) is Array and claimed == checked
    return received if is_true else Array(*checked, received.stype, received.data)


def _metrics(content: RecordDict, weight_key: str) -> Mapping[str, object]:
    if isinstance(content, Unreadable):
        raise MalformedReply(content.reason)
    records = records_of(content, MetricRecord)
    if len(records) != 1:
        found = f"its MetricRecords are {payload.listed(sorted(records))}"
        raise MalformedReply(f"{found}: let clients reply with one, which has {weight_key!r}")
    (record,) = records.values()
    if weight_key:
        payload.check_num_examples(record.get(weight_key), weight_key)
    return record
