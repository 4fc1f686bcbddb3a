"""Every way of being malformed that a reply is known to come in, for both of Flower's APIs.

`MALFORMED` replies count as no message, as do `BAD_NUM_EXAMPLES`; `BAD_METRICS` must not reach the
aggregated metrics.
"""

import pickle
from io import BytesIO

import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.common import Code, FitRes, Parameters, Status
from flwr.supercore.task_identity import TaskIdentity

NAMES = ("w", "v", "b")


def model_arrays(value=0.0):
    """Two matrices and a vector, distinct in shape where it matters and alike where it tempts."""
    return [np.full((2, 3), value, "f4"), np.full((2, 3), -value, "f4"), np.full(4, value, "f4")]


def honest_arrays(client):
    rng = np.random.default_rng(client)
    return [(a + 0.1 * rng.normal(size=a.shape)).astype("f4") for a in model_arrays(1.0)]


def npy(array):
    stream = BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def forged(descr, shape):
    return with_header(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}")


def with_header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


A, IS_SECOND = honest_arrays(0), np.arange(6).reshape(2, 3) == 1
W = A[0]
WHOLE = npy(W)

BAD_TENSORS = {
    "one NaN coordinate": npy(np.where(IS_SECOND, np.float32("nan"), W)),
    "-Inf": npy(np.where(IS_SECOND, np.float32("-inf"), W)),
    "broadcastable shape (1,)": npy(np.zeros(1, "f4")),
    "broadcastable 3-D shape": npy(np.zeros((4, 2, 3), "f4")),
    "same size, other shape": npy(W.reshape(3, 2)),
    **{f"dtype {dtype}": npy(W.astype(dtype)) for dtype in ("c16", "?", "U8", "S8", "M8[s]")},
    "structured": npy(np.zeros((2, 3), [("a", "f4"), ("b", "i4")])),
    "float64 beyond float32": npy(np.full((2, 3), 1e300)),
    **{"garbage bytes": b"\x00\xffgarbage" * 9, "no bytes": b""},
    **{"truncated": WHOLE[:-1], "trailing bytes": WHOLE + b"\x00"},
    "pickled object": forged("|O", (2, 3)) + pickle.dumps([1, 2, 3]),
    "pickle alone": pickle.dumps(W),
    "zip archive": b"PK\x03\x04" + b"\x00" * 64,
    "header claims 4 TB": forged("<f4", (10**12,)),
    "header of negative sizes": forged("<f4", (-2, -3)) + W.tobytes(),
    "header of an unknown dtype": forged("<z9", (2, 3)),
    "header of nested brackets": b"\x93NUMPY\x01\x00\xe8\x03" + b"(" * 1000,
    "header with code": with_header("__import__('os').system('false')"),
    "header longer than the file": b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
    "header of version 9": b"\x93NUMPY\x09\x00" + WHOLE[8:],
}
NUMBERS = (0, -999, -110, float("nan"), float("inf"), 10**308, 10**400, [10])  # 110 are honest
BAD_NUM_EXAMPLES = {f"num_examples {n!r:.9}": n for n in NUMBERS}
VALUES = (float("nan"), "low", {"a": 1}, [1.0, 2.0], 10**400)
BAD_METRICS = {"metric missing": {}, **{f"metric {v!r:.9}": {"loss": v} for v in VALUES}}


def fit_res(arrays, num_examples=10, metrics=None):
    return _fit_res_of([npy(array) for array in arrays], num_examples, metrics)


def _fit_res_of(tensors, num_examples=10, metrics=None):
    metrics = {"loss": 0.5} if metrics is None else metrics
    return FitRes(Status(Code.OK, ""), Parameters(tensors, "numpy.ndarray"), num_examples, metrics)


_TENSORS = [npy(array) for array in A]
CLASSIC_MALFORMED = {
    **{kind: _fit_res_of([bad, *_TENSORS[1:]]) for kind, bad in BAD_TENSORS.items()},
    "num_examples missing": fit_res(A, None),
    **{"empty list": _fit_res_of([]), "no tensors": _fit_res_of(None)},
    "tensors that are no bytes": _fit_res_of([1, 2, 3]),
    "no parameters": FitRes(Status(Code.OK, ""), None, 10, {}),
    "permuted arrays": _fit_res_of(_TENSORS[::-1]),
}


def in_a_run():
    """Let messages be made outside of a run of Flower."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


def named(arrays, names=NAMES):
    names = [*names, *map(str, range(len(arrays)))]
    return ArrayRecord({n: Array(a) for n, a in zip(names, arrays, strict=False)})


def content(arrays=None, metrics=None):
    made = MetricRecord()  # filled as a forger would, past Flower's own type checks
    made.__dict__["_data"].update({"num-examples": 10, "loss": 0.5} if metrics is None else metrics)
    return RecordDict({"arrays": _record() if arrays is None else arrays, "metrics": made})


def reply_to(message, made):
    """Make the reply of the node that `message` went to: a RecordDict or an Error."""
    return Message(made, reply_to=message)


def _record(*without, **replaced):
    arrays = dict(named(A)) | replaced
    return ArrayRecord({name: array for name, array in arrays.items() if name not in without})


def _array(data, stype="numpy.ndarray"):
    return Array("float32", (2, 3), stype, data)


MESSAGE_MALFORMED = {
    **{kind: content(_record(w=_array(bad))) for kind, bad in BAD_TENSORS.items()},
    "num_examples missing": content(metrics={"loss": 0.5}),
    "renamed array": content(_record("w", x=_array(WHOLE))),
    "no arrays": content(ArrayRecord()),
    "names swapped with a longer array": content(_record(w=_record()["b"], b=_record()["w"])),
    "unknown serialisation": content(_record(w=_array(WHOLE, "pickle"))),
    "two ArrayRecords": RecordDict({**content(), "more": _record()}),
    "no ArrayRecord": RecordDict({"metrics": content()["metrics"]}),
    "another record key": RecordDict({"model": _record(), "metrics": content()["metrics"]}),
    "no MetricRecord": RecordDict({"arrays": _record()}),
    "two MetricRecords": RecordDict({**content(), "more": MetricRecord({"num-examples": 1})}),
    "nothing": RecordDict(),
    "an error": Error(code=2, reason="raised\n" * 1000),
}
