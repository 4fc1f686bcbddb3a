"""Untrusted Flower payloads to checked arrays, and the trusted model back to payloads.

The only module that parses bytes. A payload is read in place (no copy where its dtype is the
model's), is never unpickled, and never makes the reader allocate more than the model holds: what
does not match the model's own names, shapes and sizes is a `MalformedReply`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from io import BytesIO
from math import prod
from typing import Any, Literal

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.common import Parameters
from numpy.typing import NDArray

_MAX_HEADER_SIZE = 1024  # bytes for a dtype, an order and a shape; NumPy writes 118 for most arrays
_CHECKED_AT_ONCE = 1 << 16
_WIDEST_FLOAT = 8  # bytes: sums are taken in float64
_MOST_BITS = 64  # of an integer that is a metric: what Flower can send


class MalformedReply(ValueError):
    """A reply that counts as no message; its text says why."""


class OtherLayout(MalformedReply):
    """A reply whose arrays are not those of the model: of an attacker, or of an app that errs."""


@dataclass(frozen=True)
class ArraySpec:
    """What one array of the model looks like; any other array in its place is malformed."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: Literal["C", "F"] = "C"  # of its entries in memory

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether its entries are coordinates of the model's vector."""
        return self.dtype.kind == "f"


@dataclass(frozen=True)
class Layout:
    """The arrays of a model in the server's order, in which float arrays make its vector.

    Integer and bool arrays (counters, masks) are carried beside it: as coordinates they would drown
    the weights.
    """

    arrays: tuple[ArraySpec, ...]

    @cached_property
    def floats(self) -> tuple[ArraySpec, ...]:
        """The arrays that make the vector."""
        return tuple(spec for spec in self.arrays if spec.is_float)

    @property
    def precision(self) -> np.dtype[np.floating]:
        """Precision in which to aggregate: float64 where an array has it, else float32."""
        double = any(spec.dtype.itemsize > 4 for spec in self.floats)
        return np.dtype(np.float64 if double else np.float32)

    def model(self, floats: Sequence[NDArray[Any]], counters: Sequence[NDArray[Any]]) -> "Model":
        """Return the model of this layout that has these flat float arrays and these counters."""
        of_kind = {True: iter(floats), False: iter(counters)}
        values = (
            next(of_kind[spec.is_float]).reshape(spec.shape, order=spec.order)
            for spec in self.arrays
        )
        return Model(self, tuple(values))


@dataclass(frozen=True, eq=False)
class Model:
    """Checked values of all arrays of a layout; they may be NaN or infinite.

    `values` has one array per `layout.arrays`, with its shape: read-only views of a payload. Those
    of float arrays are real numbers of any dtype that fit into the array's.
    """

    layout: Layout
    values: tuple[NDArray[Any], ...]

    def items(self) -> Iterator[tuple[ArraySpec, NDArray[Any]]]:
        """Return the specification and the values of each array."""
        return zip(self.layout.arrays, self.values, strict=True)

    def floats(self) -> list[NDArray[Any]]:
        """Return the float arrays, flattened in the server's order: the model's vector."""
        return [value.ravel(spec.order) for spec, value in self.items() if spec.is_float]

    def counters(self) -> list[NDArray[Any]]:
        """Return the integer and bool arrays."""
        return [value for spec, value in self.items() if not spec.is_float]

    def with_counters_of(self, other: "Model") -> "Model":
        """Return this model with the integer and bool arrays of another, by name."""
        counters = {spec.name: (spec, value) for spec, value in other.items() if not spec.is_float}
        items = [counters.get(spec.name, (spec, value)) for spec, value in self.items()]
        return Model(Layout(tuple(s for s, _ in items)), tuple(value for _, value in items))

    def check_can_be_trained(self) -> None:
        """Raise MalformedReply where a model to be sent has no entries, or is not finite."""
        if not any(spec.size for spec in self.layout.arrays):
            raise MalformedReply("it has no entries; give the arrays of your model")
        try:
            self.check_finite()
        except MalformedReply as error:
            hint = "a constant such as a mask of -inf is no weight: leave it out of what is sent"
            raise MalformedReply(f"{error} ({hint})") from None

    def check_finite(self) -> None:
        """Raise MalformedReply where a float array holds NaN or infinity."""
        for spec, value in self.items():
            if spec.is_float and not all(np.isfinite(v).all() for v in pieces(value, spec.order)):
                raise MalformedReply(f"array {spec.name!r} holds NaN or infinity")


def pieces(values: NDArray[Any], order: Literal["C", "F"]) -> Iterator[NDArray[Any]]:
    """Yield entries piece by piece, in their order in memory: masks of a piece take little room."""
    flat = values.ravel(order)
    return (flat[i : i + _CHECKED_AT_ONCE] for i in range(0, len(flat), _CHECKED_AT_ONCE))


def read_parameters(parameters: Parameters, layout: Layout) -> Model:
    """Check the `Parameters` of a reply (classic API); raise MalformedReply if they do not fit."""
    tensors = parameters.tensors
    if len(tensors) != len(layout.arrays):
        raise OtherLayout(f"{len(tensors)} arrays instead of {len(layout.arrays)}")
    return Model(layout, tuple(map(_read_array, tensors, layout.arrays)))


def read_arrays(record: ArrayRecord, layout: Layout) -> Model:
    """Check the `ArrayRecord` of a reply (Message API), in any order, as `read_parameters` does."""
    names = [spec.name for spec in layout.arrays]
    if set(record) != set(names):
        missing = listed([name for name in names if name not in record])
        extra = listed(sorted(set(record).difference(names)))
        raise OtherLayout(f"its arrays are not the model's: missing {missing}, extra {extra}")
    tensors = [_npy_bytes(record[name]) for name in names]
    return Model(layout, tuple(map(_read_array, tensors, layout.arrays)))


def parameters_layout(parameters: Parameters) -> Layout:
    """Return the layout of `Parameters` from their headers alone; names are "0", "1", ….

    Raises MalformedReply where an array is not real, integer or bool, is wider than float64, or its
    size is not what its header says.
    """
    return _layout({str(i): tensor for i, tensor in enumerate(parameters.tensors)})


def arrays_layout(record: ArrayRecord) -> Layout:
    """Return the layout of an `ArrayRecord`, as `parameters_layout` does."""
    return _layout({name: _npy_bytes(array) for name, array in record.items()})


def most_common_layout(layouts: Iterable[Layout | None]) -> Layout | None:
    """Return the layout that most replies have, for a server that does not know what it sent.

    Ties go by the layouts' text, whatever the order of replies; None where no reply has a layout.
    """
    votes = Counter(layout for layout in layouts if layout is not None)
    return max(votes, key=lambda layout: (votes[layout], repr(layout)), default=None)


def to_parameters(model: Model) -> Parameters:
    """Serialise a model for the classic API."""
    return Parameters([_array(*item).data for item in model.items()], "numpy.ndarray")


def to_arrays(model: Model) -> ArrayRecord:
    """Serialise a model for the Message API, in the order of its layout."""
    return ArrayRecord({spec.name: _array(spec, value) for spec, value in model.items()})


def read_npy(data: bytes, name: str) -> NDArray[Any]:
    """Read a .npy file in place, as a read-only array.

    Raises MalformedReply where it holds objects, or is not of the size that its header says.
    """
    found, flat = _parse(data, name)
    return flat.reshape(found.shape, order=found.order)


def read_number(value: object, what: str) -> float:
    """Return a reported number; raise MalformedReply where it is not finite or beyond 64 bits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MalformedReply(f"{what} is no number but {type(value).__name__}")
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise MalformedReply(f"{what} is beyond {_MOST_BITS} bits")
    number = float(value)
    if not np.isfinite(number):
        raise MalformedReply(f"{what} is {number}")
    return number


def check_num_examples(value: object, what: str) -> None:
    """Raise MalformedReply where a client's number of examples is not positive and finite."""
    if value is None:
        raise MalformedReply(f"{what} is missing")
    if read_number(value, what) <= 0:
        raise MalformedReply(f"{what} is {value}, not positive")


def listed(names: Sequence[str]) -> str:
    """Name the first two by how they end, and count the others."""
    if not names:
        return "none"
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(f"{name[-50:]!r}" for name in names[:2]) + more


def _array(spec: ArraySpec, value: NDArray[Any]) -> Array:
    """Serialise an array, copying its numbers once."""
    value = np.asarray(value, order=spec.order)
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(value))
    data = b"".join((header.getvalue(), value.ravel(spec.order).view(np.uint8).data))
    return Array(str(value.dtype), value.shape, "numpy.ndarray", data)


def _npy_bytes(array: Array) -> bytes:
    if array.stype != "numpy.ndarray":
        raise MalformedReply("an array is not serialised as numpy.ndarray")
    return array.data


def _layout(tensors: Mapping[str, bytes]) -> Layout:
    specs = tuple(_parse(data, name)[0] for name, data in tensors.items())
    for spec in specs:
        if spec.dtype.kind not in "fiub":
            raise MalformedReply(f"{_dtype_of(spec)}, not real, integer or bool")
    return Layout(specs)


def _read_array(data: bytes, spec: ArraySpec) -> NDArray[Any]:
    found, flat = _parse(data, spec.name)
    if found.shape != spec.shape:
        text = f"array {spec.name!r} has shape {found.shape}, not {spec.shape}"
        raise OtherLayout(text)
    if found.dtype.kind not in ("b" if spec.dtype.kind == "b" else "fiu"):
        raise OtherLayout(f"{_dtype_of(found)} instead of {spec.dtype}")
    if found.dtype != spec.dtype:
        if spec.is_float:
            _check_fits(flat, spec)
        else:
            flat = _as_counter(flat, spec)
    return flat.reshape(spec.shape, order=found.order)


def _dtype_of(spec: ArraySpec) -> str:
    void = spec.dtype.kind == "V" and not spec.dtype.names
    hint = " (as bfloat16 and float8 arrive: send float32)" if void else ""
    return f"array {spec.name!r} has dtype {spec.dtype}{hint}"


def _check_fits(values: NDArray[Any], spec: ArraySpec) -> None:
    """Check that numbers of another dtype stay finite in the model's, with no copy of them all."""
    for piece in pieces(values, "C"):
        with np.errstate(all="ignore"):
            cast = piece.astype(spec.dtype)
        if not np.isfinite(cast).all():
            raise MalformedReply(
                f"array {spec.name!r} holds NaN, infinity or what leaves the range of {spec.dtype}"
            )


def _as_counter(values: NDArray[Any], spec: ArraySpec) -> NDArray[Any]:
    """Return numbers of another dtype as the model's integers."""
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise MalformedReply(f"array {spec.name!r} holds NaN or infinity")
        values = np.rint(values)
    limits = np.iinfo(spec.dtype)
    if values.size and not limits.min <= int(values.min()) <= int(values.max()) <= limits.max:
        raise MalformedReply(f"array {spec.name!r} leaves the range of {spec.dtype}")
    return values.astype(spec.dtype)


def _parse(data: object, name: str) -> tuple[ArraySpec, NDArray[Any]]:
    """Return what a .npy payload of the right size holds, and its numbers where they lie."""
    if not isinstance(data, bytes):
        raise MalformedReply(f"array {name!r} is no bytes but {type(data).__name__}")
    length_field = 4 if data[6:7] in (b"\x02", b"\x03") else 2
    offset = 8 + length_field + int.from_bytes(data[8 : 8 + length_field], "little")
    if not data.startswith(b"\x93NUMPY") or offset > min(_MAX_HEADER_SIZE, len(data)):
        raise MalformedReply(f"array {name!r} is no .npy payload")
    try:
        found = ArraySpec(name, *_parse_header(data[:offset]))
    except Exception:  # whatever the parser trips over in a forged header
        raise MalformedReply(f"array {name!r} has a malformed .npy header") from None
    if len(data) - offset != found.size * found.dtype.itemsize:
        raise MalformedReply(f"array {name!r} is not of the size that its header says")
    if found.is_float and found.dtype.itemsize > _WIDEST_FLOAT:
        raise MalformedReply(f"array {name!r} has dtype {found.dtype}, which is wider than float64")
    return found, np.frombuffer(data, found.dtype, count=found.size, offset=offset)


@lru_cache(maxsize=4096)
def _parse_header(header: bytes) -> tuple[tuple[int, ...], np.dtype[Any], Literal["C", "F"]]:
    stream, npy = BytesIO(header), np.lib.format
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    shape, fortran_order, dtype = readers[npy.read_magic(stream)](stream)
    if dtype.hasobject or dtype.subdtype or not dtype.itemsize or min(shape, default=0) < 0:
        raise ValueError("not a plain array")
    return tuple(int(n) for n in shape), dtype, "F" if fortran_order else "C"
