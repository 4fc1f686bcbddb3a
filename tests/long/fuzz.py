"""Payloads of every make against the code that reads them: ``python -m tests.long.fuzz``.

Each is an honest reply that was changed where it hurts. It has to be rejected as malformed or to
be read as finite numbers, in no more memory than two models take.
"""

import random
import re
import time
import tracemalloc
from collections import Counter
from types import SimpleNamespace
from typing import Annotated

import numpy as np
import typer
from flwr.app import Array, ArrayRecord
from flwr.common import Parameters
from rich.progress import track

from flwr_byz import payload
from tests.support.malformed import npy, with_header

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
LAYOUT = payload.arrays_layout(ArrayRecord({name: Array(array) for name, array in MODEL.items()}))
CLASSIC_LAYOUT = payload.parameters_layout(Parameters(list(HONEST.values()), "numpy.ndarray"))

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


def changed_tensor(rng, honest):
    """The bytes of one array, changed in one of many ways."""
    kind = rng.randrange(9) if honest else 2
    if kind == 0:
        content = bytearray(honest)
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(min(len(content), 140))] = rng.randrange(256)
        return bytes(content)
    if kind == 1:  # a header that states something else, and a few numbers
        order = rng.choice(["True", "False", "2", "'no'"])
        descr, shape = rng.choice(_DESCRS.split()), rng.choice(_SHAPES.split())
        text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
        return with_header(text) + bytes(8)
    if kind == 2:
        return rng.randbytes(rng.randrange(300))
    if kind == 3:
        return rng.choice(list(HONEST.values()))
    if kind == 4:  # every numeric dtype, with numbers that leave the range of another
        array = rng.choice(list(MODEL.values()))
        with np.errstate(all="ignore"):
            return npy(array.astype(rng.choice(["f2", "f4", "f8", ">f4", "i1", "u8", "c8", "?"])))
    if kind <= 6:  # bytes lost or added, here or at the end
        cut = rng.choice([rng.randrange(len(honest)), len(honest)])
        rest = rng.choice([honest[cut + rng.randrange(20) :], b""])
        return honest[:cut] + rng.randbytes(rng.choice([0, rng.randrange(100)])) + rest
    array = rng.choice([a for a in MODEL.values() if a.dtype.kind == "f" and a.size]).copy("K")
    with np.errstate(all="ignore"):
        array[np.unravel_index(rng.randrange(array.size), array.shape)] = rng.choice(_NUMBERS)
    return npy(array)


def changed_tensors(rng):
    """An honest reply's arrays, of which some or none are changed, doubled, lost or renamed."""
    tensors = dict(HONEST)
    for _ in range(rng.randrange(3)):
        name = rng.choice(list(tensors))
        tensors[name] = changed_tensor(rng, tensors[name])
    if rng.random() < 0.1:
        del tensors[rng.choice(list(tensors))]
    if rng.random() < 0.1:
        tensors[rng.choice(["", "conv ", "x" * 1000, "0"])] = npy(np.zeros(3))
    return tensors


def made_of(rng, tensors):
    """Return a payload of either API, what reads it, and the model's layout."""
    if rng.random() < 0.5:
        parameters = Parameters(list(tensors.values()), "numpy.ndarray")
        return parameters, payload.read_parameters, CLASSIC_LAYOUT
    stype = "numpy.ndarray" if rng.random() < 0.95 else "pickle"
    claimed = (10**9, -1) if rng.random() < 0.5 else ()
    names = list(reversed(tensors)) if rng.random() < 0.1 else list(tensors)
    made = {name: Array("float32", claimed, stype, tensors[name]) for name in names}
    return ArrayRecord(made), payload.read_arrays, LAYOUT


def read_one(rng, tally):
    """Make a payload and read it; note what became of it, in how much memory and time."""
    made, read, layout = made_of(rng, changed_tensors(rng))
    claim = 10 if rng.random() < 0.8 else rng.choice(_CLAIMS)
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    start = time.process_time()
    try:
        model = read(made, layout)
        payload.check_num_examples(claim, "num-examples")
        model.check_finite()
        outcome = "read"
    except payload.MalformedReply as error:
        outcome, model = f"rejected: {_VARYING.sub('…', str(error))[:60]}", None
    tally.slowest = max(tally.slowest, time.process_time() - start)
    tally.most_memory = max(tally.most_memory, tracemalloc.get_traced_memory()[1] - before)
    tally.outcomes[outcome] += 1
    for values, array in zip(model.values, MODEL.values(), strict=True) if model else []:
        assert values.shape == array.shape
        with np.errstate(over="ignore"):
            assert np.isfinite(values.astype(array.dtype)).all()


def fuzz(numbers, seed=0):
    """Read a payload for each number; return what became of them, or raise what was let through."""
    rng = random.Random(seed)
    tally = SimpleNamespace(outcomes=Counter(), most_memory=0, slowest=0.0)
    tracemalloc.start()
    try:
        for _ in numbers:
            read_one(rng, tally)
    finally:
        tracemalloc.stop()
    assert tally.most_memory <= 2 * SIZE + SLACK
    return tally


def main(
    payloads: Annotated[int, typer.Option(min=1, help="How many.")] = 1_000_000,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
) -> None:
    """Fuzz the code that reads replies."""
    tally = fuzz(track(range(payloads), "payloads"), seed)
    for outcome, count in tally.outcomes.most_common():
        print(f"{count:>9}  {outcome}")
    print(f"most memory {tally.most_memory} bytes, {tally.most_memory / SIZE:.2f} models")
    print(f"slowest {1000 * tally.slowest:.1f} ms")


if __name__ == "__main__":
    typer.run(main)
