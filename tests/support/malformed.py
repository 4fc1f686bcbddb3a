"""Every way of being malformed that a reply is known to come in, for both of Flower's APIs.

Each entry maps a name to a function that turns an honest reply into a malformed one. `MALFORMED`
count as no message; `FALSE` are well-formed lies, which the rule has to outvote; `BAD_METRICS` have
an honest model and metrics that must not reach the aggregate.
"""

import pickle
from io import BytesIO

import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.common import Code, FitRes, Parameters, Status, ndarrays_to_parameters
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


def forged_header(text):
    header = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


# What the bytes of one array can be. -----------------------------------------------------------

W = honest_arrays(0)[0]


def with_entry(value):
    array = W.copy()
    array[0, 1] = value
    return array


BAD_TENSORS = {
    "all NaN": npy(np.full_like(W, np.nan)),
    "one NaN coordinate": npy(with_entry(np.nan)),
    "+Inf": npy(np.full_like(W, np.inf)),
    "-Inf": npy(with_entry(-np.inf)),
    "wrong shape": npy(np.zeros((5, 5), "f4")),
    "broadcastable shape (1,)": npy(np.zeros(1, "f4")),
    "broadcastable 3-D shape": npy(np.zeros((4, 2, 3), "f4")),
    "same size, other shape": npy(W.reshape(3, 2)),
    "complex": npy(W.astype(complex)),
    "bool": npy(W > 0),
    "string": npy(W.astype("U8")),
    "bytes string": npy(W.astype("S8")),
    "structured": npy(np.zeros((2, 3), [("a", "f4"), ("b", "i4")])),
    "datetime": npy(np.zeros((2, 3), "M8[s]")),
    "float64 beyond float32": npy(np.full((2, 3), 1e300)),
    "garbage bytes": b"\x00\xffgarbage" * 9,
    "no bytes": b"",
    "truncated": npy(W)[:-1],
    "trailing bytes": npy(W) + b"\x00",
    "pickled object": forged_header("{'descr': '|O', 'fortran_order': False, 'shape': (2, 3), }")
    + pickle.dumps([1, 2, 3]),
    "pickle alone": pickle.dumps(W),
    "zip archive": b"PK\x03\x04" + b"\x00" * 64,
    "header claims 4 TB": forged_header(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"
    ),
    "header of negative sizes": forged_header(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -3), }"
    )
    + W.tobytes(),
    "header of an unknown dtype": forged_header(
        "{'descr': '<z9', 'fortran_order': False, 'shape': (2, 3), }"
    ),
    "header of nested brackets": b"\x93NUMPY\x01\x00\xe8\x03" + b"(" * 1000,
    "header with code": forged_header("__import__('os').system('false')"),
    "header longer than the file": b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
    "header of version 9": b"\x93NUMPY\x09\x00" + npy(W)[8:],
}

BAD_NUM_EXAMPLES = {
    "num_examples 0": 0,
    "num_examples negative": -999,
    "num_examples NaN": float("nan"),
    "num_examples inf": float("inf"),
    "num_examples 10**400": 10**400,
}

# The classic API -------------------------------------------------------------------------------


def fit_res(arrays, num_examples=10, metrics=None):
    return FitRes(
        status=Status(code=Code.OK, message=""),
        parameters=ndarrays_to_parameters(arrays),
        num_examples=num_examples,
        metrics={"loss": 0.5} if metrics is None else metrics,
    )


def _fit_res_of(tensors, **options):
    result = fit_res(honest_arrays(0), **options)
    result.parameters = Parameters(tensors=tensors, tensor_type="numpy.ndarray")
    return result


def _tensors():
    return [npy(array) for array in honest_arrays(0)]


CLASSIC_MALFORMED = {
    **{kind: _fit_res_of([bad, *_tensors()[1:]]) for kind, bad in BAD_TENSORS.items()},
    **{k: fit_res(honest_arrays(0), num_examples=n) for k, n in BAD_NUM_EXAMPLES.items()},
    "num_examples a list": fit_res(honest_arrays(0), num_examples=[10]),
    "num_examples missing": fit_res(honest_arrays(0), num_examples=None),
    "missing array": _fit_res_of(_tensors()[:-1]),
    "extra array": _fit_res_of([*_tensors(), npy(W)]),
    "empty list": _fit_res_of([]),
    "tensors that are no bytes": _fit_res_of([1, 2, 3]),
    "no tensors": _fit_res_of(None),
    "no parameters": FitRes(Status(Code.OK, ""), None, 10, {}),
    "permuted arrays": _fit_res_of(_tensors()[::-1]),
}

CLASSIC_BAD_METRICS = {
    "metric missing": fit_res(honest_arrays(0), metrics={}),
    "metric NaN": fit_res(honest_arrays(0), metrics={"loss": float("nan")}),
    "metric a string": fit_res(honest_arrays(0), metrics={"loss": "low"}),
    "metric nested": fit_res(honest_arrays(0), metrics={"loss": {"a": 1}}),
    "metric a list": fit_res(honest_arrays(0), metrics={"loss": [1.0, 2.0]}),
    "metric 10**400": fit_res(honest_arrays(0), metrics={"loss": 10**400}),
}

# The Message API -------------------------------------------------------------------------------


def in_a_run():
    """Let messages be made outside of a run of Flower."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1


def named(arrays):
    return ArrayRecord({n: Array(a) for n, a in zip(NAMES, arrays, strict=False)})


def content(arrays=None, metrics=None):
    record = named(honest_arrays(0)) if arrays is None else arrays
    metrics = {"num-examples": 10, "loss": 0.5} if metrics is None else metrics
    return RecordDict({"arrays": record, "metrics": _unchecked(metrics)})


def _unchecked(metrics):
    """A MetricRecord as a forger would make it, past Flower's own type checks."""
    record = MetricRecord()
    record.__dict__["_data"].update(metrics)
    return record


def _array(data, dtype="float32", shape=(2, 3), stype="numpy.ndarray"):
    return Array(dtype, shape, stype, data)


def _record(**replaced):
    return ArrayRecord(dict(named(honest_arrays(0))) | replaced)


def reply_to(message, made):
    """Make the reply of the node that `message` went to: a RecordDict or an Error."""
    return Message(made, reply_to=message)


def _without(record, name):
    return ArrayRecord({k: v for k, v in record.items() if k != name})


MESSAGE_MALFORMED = {
    **{kind: content(_record(w=_array(bad))) for kind, bad in BAD_TENSORS.items()},
    **{k: content(metrics={"num-examples": n, "loss": 0.5}) for k, n in BAD_NUM_EXAMPLES.items()},
    "num_examples a list": content(metrics={"num-examples": [10], "loss": 0.5}),
    "num_examples missing": content(metrics={"loss": 0.5}),
    "missing array": content(_without(_record(), "v")),
    "extra array": content(_record(extra=_array(npy(W)))),
    "renamed array": content(_without(_record(x=_array(npy(W))), "w")),
    "no arrays": content(ArrayRecord()),
    "names swapped with a longer array": content(_record(w=_record()["b"], b=_record()["w"])),
    "unknown serialisation": content(_record(w=_array(npy(W), stype="pickle"))),
    "two ArrayRecords": RecordDict({**content(), "more": _record()}),
    "no ArrayRecord": RecordDict({"metrics": content()["metrics"]}),
    "another record key": RecordDict({"model": _record(), "metrics": content()["metrics"]}),
    "no MetricRecord": RecordDict({"arrays": _record()}),
    "two MetricRecords": RecordDict({**content(), "more": MetricRecord({"num-examples": 1})}),
    "nothing": RecordDict(),
    "an error": Error(code=2, reason="raised\n" * 1000),
}

MESSAGE_BAD_METRICS = {
    "metric missing": content(metrics={"num-examples": 10}),
    "metric NaN": content(metrics={"num-examples": 10, "loss": float("nan")}),
    "metric a string": content(metrics={"num-examples": 10, "loss": "low"}),
    "metric nested": content(metrics={"num-examples": 10, "loss": {"a": 1}}),
    "metric a list": content(metrics={"num-examples": 10, "loss": [1.0, 2.0]}),
    "metric 10**400": content(metrics={"num-examples": 10, "loss": 10**400}),
}

# Well-formed lies, alike in both APIs: arrays and a number of examples. -------------------------

FALSE = {
    "1e38 values": ([np.full_like(a, 1e38) for a in honest_arrays(0)], 10),
    "1e6 times the values": ([1e6 * a for a in honest_arrays(0)], 10),
    "sign flip times 10": ([-10 * a for a in honest_arrays(0)], 10),
    "num_examples 1e12": ([1e6 * a for a in honest_arrays(0)], 10**12),
    "int64 arrays": ([np.full(a.shape, 7) for a in honest_arrays(0)], 10),
    "float64 arrays": ([3.0 * a.astype("f8") for a in honest_arrays(0)], 10),
    "float16 arrays": ([a.astype("f2") for a in honest_arrays(0)], 10),
    "big-endian arrays": ([-a.astype(">f4") for a in honest_arrays(0)], 10),
    "Fortran order": ([np.asfortranarray(5 * a) for a in honest_arrays(0)], 10),
    "all zero": ([np.zeros_like(a) for a in honest_arrays(0)], 10),
}
