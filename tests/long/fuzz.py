"""Payloads of every make against the code that reads them: ``python -m tests.long.fuzz``.

Each is an honest reply that was changed where it hurts. It has to be rejected as malformed or to
be read as finite numbers, in no more memory than two models take.
"""

import re
import time
import tracemalloc
from collections import Counter
from types import SimpleNamespace
from typing import Annotated

import numpy as np
import typer
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.common import Parameters
from rich.progress import Progress

from flwr_byz.metrics import common_metrics, robust_metrics
from flwr_byz.payload import (
    MalformedReply,
    arrays_layout,
    check_num_examples,
    parameters_layout,
    read_arrays,
    read_parameters,
)
from tests.support.malformed import npy

MODEL = {
    "conv": np.linspace(-1, 1, 120_000, dtype="f4").reshape(200, 3, 200),
    "dense": np.asfortranarray(np.linspace(0, 1, 4_000).reshape(40, 100)),
    "half": np.linspace(0, 9, 10, dtype="f2"),
    "scalar": np.array(0.5, dtype="f8"),
    "empty": np.zeros((0, 7), dtype="f4"),
    "counter": np.array([3], dtype="i8"),
    "mask": np.array([True, False, True]),
}
SIZE = sum(array.nbytes for array in MODEL.values())
SLACK = 1 << 19  # what NumPy takes to parse the longest header that is looked at
HONEST = {name: npy(array) for name, array in MODEL.items()}
LAYOUT = arrays_layout(ArrayRecord({name: Array(array) for name, array in MODEL.items()}))
CLASSIC_LAYOUT = parameters_layout(Parameters(list(HONEST.values()), "numpy.ndarray"))

_DESCRS = """
'<f4' '<f8' '>f8' '<f2' '|b1' '<i8' '<u8' '|i1' '<c8' '|O' '<U9' '|S1' '|V8' '<M8[s]' '<g' 'f4,f4'
'(2,)<f4' [('a','<f4')] [('a','|O')] 'object' None 7 '<f4'*9 __import__('os')"""
_SHAPES = f"""
(200,3,200) (40,100) (10,) () (0,7) (1,) (3,) (120000,) (200,600) (-1,) (-200,-3,200) (10**12,)
(1000000000000,) (9223372036854775808,) (18446744073709551616,0) (1e3,) (True,) ('a',) ((1,),) 5
None ({"9," * 99}) ({"0," * 400})"""
_NUMBERS = [np.nan, np.inf, -np.inf, 1e300, -1e39, 70000.0, 5e-324, 0.0]
_VARYING = re.compile(r"'[^']*'|[-+]?\d+(\.\d+)?|instead of.*|dtype .*")
_CLAIMS = [10, 0, -1, 10**400, 2**63, 1.5, float("nan"), float("inf"), [1, 2], [1.0] * 20, []]


def _one(rng, choices):
    return choices[int(rng.integers(len(choices)))]


def forged(rng, descr, order, shape):
    """A .npy file whose header says that, with a few numbers."""
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    version = _one(rng, [b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x00\x01"])
    width = 2 if version == b"\x01\x00" else 4
    return b"\x93NUMPY" + version + len(header).to_bytes(width, "little") + header + bytes(8)


def changed_tensor(rng, honest):
    """The bytes of one array, changed in one of many ways."""
    kind = int(rng.integers(9)) if honest else 2
    if kind == 0:
        content = bytearray(honest)
        for index in rng.integers(0, min(len(content), 140), int(rng.integers(1, 5))):
            content[index] = int(rng.integers(256))
        return bytes(content)
    if kind == 1:
        order = _one(rng, ["True", "False", "2", "'no'"])
        return forged(rng, _one(rng, _DESCRS.split()), order, _one(rng, _SHAPES.split()))
    if kind == 2:
        return rng.bytes(int(rng.integers(0, 300)))
    if kind == 3:
        return HONEST[_one(rng, list(HONEST))]
    if kind == 4:  # every numeric dtype, with numbers that leave the range of another
        array = MODEL[_one(rng, list(MODEL))]
        with np.errstate(all="ignore"):
            return npy(array.astype(_one(rng, ["f2", "f4", "f8", ">f4", "i1", "u8", "c8", "?"])))
    if kind <= 6:  # bytes lost or added, here or at the end
        cut = _one(rng, [int(rng.integers(len(honest))), len(honest)])
        rest = _one(rng, [honest[cut + int(rng.integers(20)) :], b""])
        return honest[:cut] + rng.bytes(_one(rng, [0, int(rng.integers(100))])) + rest
    array = _one(rng, [a for a in MODEL.values() if a.dtype.kind == "f" and a.size]).copy(order="K")
    with np.errstate(all="ignore"):
        array[np.unravel_index(rng.integers(array.size), array.shape)] = _one(rng, _NUMBERS)
    return npy(array)


def changed_tensors(rng):
    """An honest reply's arrays, of which some or none are changed, doubled, lost or renamed."""
    tensors = dict(HONEST)
    for _ in range(int(rng.integers(3))):
        name = _one(rng, list(tensors))
        tensors[name] = changed_tensor(rng, tensors[name])
    if rng.random() < 0.1:
        tensors.pop(_one(rng, list(tensors)))
    if rng.random() < 0.1:
        tensors[_one(rng, ["", "conv ", "x" * 1000, "0"])] = npy(np.zeros(3))
    return tensors


def read_one(rng):
    """Make a payload of either API and read it; return what became of it."""
    tensors = changed_tensors(rng)
    claim = 10 if rng.random() < 0.8 else _one(rng, _CLAIMS)
    read, layout = _one(rng, [(read_parameters, CLASSIC_LAYOUT), (read_arrays, LAYOUT)])
    if layout is CLASSIC_LAYOUT:
        payload = Parameters(list(tensors.values()), "numpy.ndarray")
    else:
        stype = "numpy.ndarray" if rng.random() < 0.95 else "pickle"
        claimed = (10**9, -1) if rng.random() < 0.5 else ()
        made = {name: Array("float32", claimed, stype, data) for name, data in tensors.items()}
        payload = ArrayRecord(made)
        if rng.random() < 0.1:
            payload = ArrayRecord(dict(reversed(payload.items())))
    del tensors
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    start = time.process_time()
    try:
        model = read(payload, layout)
        check_num_examples(claim, "num-examples")
        model.check_finite()
        outcome = "read"
    except MalformedReply as error:
        outcome, model = f"rejected: {_VARYING.sub('…', str(error))[:60]}", None
    seconds = time.process_time() - start
    memory = tracemalloc.get_traced_memory()[1] - before
    for values, array in zip(model.values, MODEL.values(), strict=True) if model else []:
        assert values.shape == array.shape
        with np.errstate(over="ignore"):
            assert np.isfinite(values.astype(array.dtype)).all()
    return outcome, memory, seconds


def read_metrics(rng):
    """Aggregate made-up metrics of a few clients; whatever comes out is finite."""
    names = ["loss", "accuracy", "byz-gap", "x" * 500]
    drawn = [map(str, rng.choice(names, 2, replace=False)) for _ in range(3)]
    claims = [{name: _one(rng, _CLAIMS) for name in pair} for pair in drawn]
    try:
        RecordDict({"metrics": MetricRecord(claims[0])})  # what Flower lets through at all
    except (TypeError, ValueError, OverflowError):
        return
    aggregated, _ = robust_metrics(claims, 2, lambda num_reporters: 1)
    for metrics in [aggregated, *common_metrics(claims, 2)]:
        for value in (metrics or {}).values():
            assert np.isfinite(np.asarray(value, np.float64)).all()


def fuzz(num_payloads, seed=0, advance=lambda: None):
    """Read that many payloads; return what became of them, or raise what a reader let through."""
    rng = np.random.default_rng(seed)
    tally = SimpleNamespace(outcomes=Counter(), most_memory=0, slowest=0.0)
    tracemalloc.start()
    try:
        for _ in range(num_payloads):
            outcome, memory, seconds = read_one(rng)
            if rng.random() < 0.1:
                read_metrics(rng)
            tally.outcomes[outcome] += 1
            tally.most_memory = max(tally.most_memory, memory)
            tally.slowest = max(tally.slowest, seconds)
            advance()
    finally:
        tracemalloc.stop()
    return tally


def main(
    payloads: Annotated[int, typer.Option(min=1, help="How many.")] = 1_000_000,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
) -> None:
    """Fuzz the code that reads replies."""
    with Progress() as progress:
        task = progress.add_task("payloads", total=payloads)
        tally = fuzz(payloads, seed, lambda: progress.advance(task))
    for outcome, count in tally.outcomes.most_common():
        print(f"{count:>9}  {outcome}")
    print(f"most memory {tally.most_memory} bytes, {tally.most_memory / SIZE:.2f} models")
    print(f"slowest {1000 * tally.slowest:.1f} ms")
    assert tally.most_memory <= 2 * SIZE + SLACK


if __name__ == "__main__":
    typer.run(main)
