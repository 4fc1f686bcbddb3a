"""Untrusted Flower payloads to checked arrays, and the trusted model back to payloads.

The only room that parses bytes. A payload is read in place (no copy where its dtype is the
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

# A .npy header holds a dtype, an order and a shape; NumPy writes 118 bytes for most arrays.
_MAX_HEADER_SIZE = 1024

_CHECKED_AT_ONCE = 1 << 16
_WIDEST_FLOAT = 8  # bytes: sums are taken in float64


class MalformedReply(ValueError):
    """A reply that counts as no message; its text says why."""


@dataclass(frozen=True)
class ArraySpec:
    """What one array of the model looks like; any other array in its place is malformed."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool = False

    @property
    def size(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    @property
    def order(self) -> Literal["C", "F"]:
        """Memory order of its entries."""
        return "F" if self.fortran_order else "C"

    @property
    def is_float(self) -> bool:
        """Whether its entries are coordinates of the model's vector."""
        return self.dtype.kind == "f"


@dataclass(frozen=True)
class Layout:
    """The arrays of a model in the server's order.

    Float arrays, in that order, make the model's vector. Integer and bool arrays (counters, masks)
    are carried beside it: as coordinates they would drown the weights.
    """

    arrays: tuple[ArraySpec, ...]

    @cached_property
    def floats(self) -> tuple[ArraySpec, ...]:
        """The arrays whose entries are the coordinates of the vector."""
        return tuple(spec for spec in self.arrays if spec.is_float)

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of all arrays."""
        return frozenset(spec.name for spec in self.arrays)

    @property
    def precision(self) -> np.dtype[np.floating]:
        """Precision in which to aggregate: float64 where an array has it, else float32."""
        double = any(spec.dtype.itemsize > 4 for spec in self.floats)
        return np.dtype(np.float64 if double else np.float32)

    def empty_floats(self) -> list[NDArray[Any]]:
        """Return flat arrays for the float arrays' entries, not filled in."""
        return [np.empty(spec.size, spec.dtype) for spec in self.floats]

    def model(self, floats: Sequence[NDArray[Any]], counters: Sequence[NDArray[Any]]) -> "Model":
        """Return the model of this layout that has these flat float arrays and these counters."""
        remaining_floats, remaining_counters = iter(floats), iter(counters)
        return Model(
            self,
            tuple(
                next(remaining_floats).reshape(spec.shape, order=spec.order)
                if spec.is_float
                else next(remaining_counters)
                for spec in self.arrays
            ),
        )


@dataclass(frozen=True, eq=False)
class Model:
    """Checked values of all arrays of a layout; whether they are finite is not looked at.

    Attributes
    ----------
    layout : Layout
    values : tuple of ndarray
        One array per `layout.arrays`, with its shape: read-only views of a payload. Those of float
        arrays are real numbers of any dtype that fit into the array's.
    """

    layout: Layout
    values: tuple[NDArray[Any], ...]

    def floats(self) -> list[NDArray[Any]]:
        """Return the float arrays, flattened in the server's order: the model's vector."""
        return [
            value.ravel(spec.order)
            for spec, value in zip(self.layout.arrays, self.values, strict=True)
            if spec.is_float
        ]

    def counters(self) -> list[NDArray[Any]]:
        """Return the integer and bool arrays."""
        return [
            value
            for spec, value in zip(self.layout.arrays, self.values, strict=True)
            if not spec.is_float
        ]

    def check_finite(self) -> None:
        """Raise MalformedReply where a float array holds NaN or infinity."""
        for spec, values in zip(self.layout.floats, self.floats(), strict=True):
            if not np.isfinite(values).all():
                raise MalformedReply(f"array {spec.name!r} holds NaN or infinity")


# --- Flower's two kinds of payload -----------------------------------------------------------


def read_parameters(parameters: Parameters, layout: Layout) -> Model:
    """Check the `Parameters` of a reply (classic API) against the model that was sent.

    Raises
    ------
    MalformedReply
    """
    tensors = parameters.tensors
    if len(tensors) != len(layout.arrays):
        raise MalformedReply(f"{len(tensors)} arrays instead of {len(layout.arrays)}")
    return _read(tensors, layout)


def read_arrays(record: ArrayRecord, layout: Layout) -> Model:
    """Check the `ArrayRecord` of a reply (Message API) against the model that was sent.

    Arrays are found by name; the order of the record is the client's and means nothing.

    Raises
    ------
    MalformedReply
    """
    if len(record) != len(layout.arrays) or any(name not in layout.names for name in record):
        raise MalformedReply(
            f"{len(record)} arrays whose names are not those of the model's {len(layout.arrays)}"
        )
    return _read([_npy_bytes(record[spec.name]) for spec in layout.arrays], layout)


def parameters_layout(parameters: Parameters) -> Layout:
    """Return the layout of `Parameters` from their headers alone; names are "0", "1", ….

    Raises
    ------
    MalformedReply
        Where an array is not real, integer or bool, is wider than float64, or its size is not what
        its header says.
    """
    return _layout({str(i): tensor for i, tensor in enumerate(parameters.tensors)})


def arrays_layout(record: ArrayRecord) -> Layout:
    """Return the layout of an `ArrayRecord` from its headers alone.

    Raises
    ------
    MalformedReply
        Where an array is not real, integer or bool, is wider than float64, or its size is not what
        its header says.
    """
    return _layout({name: _npy_bytes(array) for name, array in record.items()})


def most_common_layout(layouts: Iterable[Layout | None]) -> Layout | None:
    """Take a vote on the layout, for a server that does not know what it sent; None where none is.

    Ties go by the layouts' text, whatever the order of replies.
    """
    votes = Counter(layout for layout in layouts if layout is not None)
    return max(votes, key=lambda layout: (votes[layout], repr(layout)), default=None)


def to_parameters(model: Model) -> Parameters:
    """Serialise a model for the classic API."""
    return Parameters(
        tensors=[_array(spec, value).data for spec, value in _items(model)],
        tensor_type="numpy.ndarray",
    )


def to_arrays(model: Model) -> ArrayRecord:
    """Serialise a model for the Message API, in the order of its layout."""
    return ArrayRecord({spec.name: _array(spec, value) for spec, value in _items(model)})


def read_npy(data: bytes, name: str) -> NDArray[Any]:
    """Read a .npy file in place; its array is read-only.

    Raises
    ------
    MalformedReply
        Where it holds objects, or is not of the size that its header says.
    """
    shape, fortran_order, dtype, offset = _parse(data, name)
    flat = np.frombuffer(data, dtype, count=prod(shape), offset=offset)
    return flat.reshape(shape, order="F" if fortran_order else "C")


def read_number(value: object, what: str) -> float:
    """Check a number that a client claims.

    Raises
    ------
    MalformedReply
        Where it is no int or float, not finite, or an int beyond the range of float64.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MalformedReply(f"{what} is no number but {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        raise MalformedReply(f"{what} is beyond float64") from None
    if not np.isfinite(number):
        raise MalformedReply(f"{what} is {number}")
    return number


def check_num_examples(value: object, what: str) -> None:
    """Check that a client claims a positive finite number of examples.

    Raises
    ------
    MalformedReply
    """
    if read_number(value, what) <= 0:
        raise MalformedReply(f"{what} is {value}, not positive")


# --- one array --------------------------------------------------------------------------------


def _items(model: Model) -> Iterator[tuple[ArraySpec, NDArray[Any]]]:
    return zip(model.layout.arrays, model.values, strict=True)


def _array(spec: ArraySpec, value: NDArray[Any]) -> Array:
    """Serialise an array, copying its numbers once."""
    value = np.asarray(value, order=spec.order)
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(value))
    numbers = value.ravel(spec.order).view(np.uint8).data
    return Array(
        dtype=str(value.dtype),
        shape=value.shape,
        stype="numpy.ndarray",
        data=b"".join((header.getvalue(), numbers)),
    )


def _npy_bytes(array: Array) -> bytes:
    if array.stype != "numpy.ndarray":
        raise MalformedReply("an array is not serialised as numpy.ndarray")
    return array.data


def _layout(tensors: Mapping[str, bytes]) -> Layout:
    specs = []
    for name, data in tensors.items():
        shape, fortran_order, dtype, _ = _parse(data, name)
        if dtype.kind not in "fiub":
            raise MalformedReply(f"array {name!r} has dtype {dtype}, not real, integer or bool")
        _check_width(dtype, name)
        specs.append(ArraySpec(name, shape, dtype, fortran_order))
    return Layout(tuple(specs))


def _read(tensors: Sequence[bytes], layout: Layout) -> Model:
    values = tuple(
        _read_array(data, spec) for data, spec in zip(tensors, layout.arrays, strict=True)
    )
    return Model(layout, values)


def _read_array(data: bytes, spec: ArraySpec) -> NDArray[Any]:
    shape, fortran_order, dtype, offset = _parse(data, spec.name)
    if shape != spec.shape:
        raise MalformedReply(f"array {spec.name!r} is not of shape {spec.shape}")
    if (dtype.kind not in "fiu") if spec.dtype.kind != "b" else (dtype.kind != "b"):
        raise MalformedReply(f"array {spec.name!r} has dtype {dtype} instead of {spec.dtype}")
    _check_width(dtype, spec.name)
    flat = np.frombuffer(data, dtype, count=spec.size, offset=offset)
    if not spec.is_float:
        flat = _as_counter(flat, spec)
    elif dtype != spec.dtype:
        _check_fits(flat, spec)
    return flat.reshape(shape, order="F" if fortran_order else "C")


def _check_width(dtype: np.dtype[Any], name: str) -> None:
    if dtype.kind == "f" and dtype.itemsize > _WIDEST_FLOAT:
        raise MalformedReply(f"array {name!r} has dtype {dtype}, which is wider than float64")


def _check_fits(values: NDArray[Any], spec: ArraySpec) -> None:
    """Check that numbers of another dtype stay finite in the model's, with no copy of them all."""
    for start in range(0, len(values), _CHECKED_AT_ONCE):
        with np.errstate(all="ignore"):
            cast = values[start : start + _CHECKED_AT_ONCE].astype(spec.dtype)
        if not np.isfinite(cast).all():
            raise MalformedReply(
                f"array {spec.name!r} holds NaN, infinity or what leaves the range of {spec.dtype}"
            )


def _as_counter(values: NDArray[Any], spec: ArraySpec) -> NDArray[Any]:
    """Return numbers as the model's integers; what leaves their range is malformed."""
    if values.dtype == spec.dtype:
        return values
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise MalformedReply(f"array {spec.name!r} holds NaN or infinity")
        values = np.rint(values)
    limits = np.iinfo(spec.dtype)
    if values.size and not limits.min <= int(values.min()) <= int(values.max()) <= limits.max:
        raise MalformedReply(f"array {spec.name!r} leaves the range of {spec.dtype}")
    return values.astype(spec.dtype)


def _parse(data: object, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, order, dtype and offset of a .npy payload whose size is what it says."""
    if not isinstance(data, bytes):
        raise MalformedReply(f"array {name!r} is no bytes but {type(data).__name__}")
    length_field = 4 if data[6:7] in (b"\x02", b"\x03") else 2
    offset = 8 + length_field + int.from_bytes(data[8 : 8 + length_field], "little")
    if not data.startswith(b"\x93NUMPY") or offset > min(_MAX_HEADER_SIZE, len(data)):
        raise MalformedReply(f"array {name!r} is no .npy payload")
    try:
        shape, fortran_order, dtype = _parse_header(data[:offset])
    except Exception:  # whatever the parser trips over in a forged header
        raise MalformedReply(f"array {name!r} has a malformed .npy header") from None
    if len(data) - offset != prod(shape) * dtype.itemsize:
        raise MalformedReply(f"array {name!r} is not of the size that its header says")
    return shape, fortran_order, dtype, offset


@lru_cache(maxsize=4096)
def _parse_header(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    stream = BytesIO(header)
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, fortran_order, dtype = read(stream)
    if dtype.hasobject or dtype.subdtype or min(shape, default=0) < 0:
        raise ValueError("not a plain array")
    return tuple(int(n) for n in shape), bool(fortran_order), dtype
