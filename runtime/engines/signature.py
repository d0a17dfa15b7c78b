"""What stands at the border of an ONNX file: names, types and dimensions, and the names of its nodes.

A device has no onnx package, and TensorRT names neither the dimensions of outputs nor, in 8.6, the node that it
rejects. So the few fields that matter are read from protobuf's wire format (protobuf.dev/programming-guides/encoding),
by the numbers of onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from attri.runtime.errors import EngineError

DTYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16"}  # TensorProto.DataType
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
GRAPH, NODE, INPUT, OUTPUT = 7, 1, 11, 12
NODE_NAME, OPERATOR = 3, 4


@dataclass(frozen=True)
class Tensor:
    """An input or output. dims: a number where it is fixed, else the name of the dimension ("B")."""

    name: str
    dtype: str  # in NumPy's words
    dims: tuple[int | str, ...]


@dataclass(frozen=True)
class Border:
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    nodes: tuple[tuple[str, str], ...]  # name and operator, in the file's order

    @property
    def dims(self) -> set[str]:
        """Names of all dynamic dimensions of the inputs."""
        return {dim for tensor in self.inputs for dim in tensor.dims if isinstance(dim, str)}


def read_border(path: Path) -> Border:
    """Raises EngineError where it is no ONNX file."""
    try:
        return parse_border(path.read_bytes(), str(path))
    except OSError as error:
        raise EngineError(f"{path} cannot be read ({error.strerror}): export the bundle again") from error


def parse_border(data: bytes, name: str) -> Border:
    """Raises EngineError, with that name, where these bytes are no ONNX file."""
    try:
        return _border(memoryview(data))
    except (ValueError, IndexError, KeyError, StopIteration, RuntimeError) as error:  # Runtime: Stop in a generator
        raise EngineError(f"{name} cannot be read as an ONNX file: export the bundle again") from error


class _Field(NamedTuple):
    """One field of a message: its bytes, or its value where it is a number."""

    number: int
    data: memoryview
    value: int


def _border(data: memoryview) -> Border:
    inputs, outputs, nodes = [], [], []
    for field in _fields(_one(data, GRAPH).data):
        if field.number == INPUT:
            inputs.append(_tensor(field.data))
        elif field.number == OUTPUT:
            outputs.append(_tensor(field.data))
        elif field.number == NODE:
            nodes.append((_text(field.data, NODE_NAME), _text(field.data, OPERATOR)))
    return Border(tuple(inputs), tuple(outputs), tuple(nodes))


def _tensor(data: memoryview) -> Tensor:
    """A ValueInfoProto: name 1, type 2 (tensor 1 (element type 1, shape 2 (dim 1 (value 1, name 2))))."""
    kind = _one(_one(data, 2).data, 1).data
    dims = [next(_fields(dim.data)) for dim in _fields(_one(kind, 2).data)]
    named = [str(dim.data, "utf-8") if dim.number == 2 else dim.value for dim in dims]
    return Tensor(_text(data, 1), DTYPES[_one(kind, 1).value], tuple(named))


def _one(data: memoryview, wanted: int) -> _Field:
    return next(field for field in _fields(data) if field.number == wanted)


def _text(data: memoryview, wanted: int) -> str:
    return next((str(field.data, "utf-8") for field in _fields(data) if field.number == wanted), "")


def _fields(data: memoryview) -> Iterator[_Field]:
    """The fields of a message, in order; bytes are not copied."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind, value, size = tag >> 3, tag & 7, 0, 0
        if kind == VARINT:
            value, at = _varint(data, at)
        elif kind == BYTES:
            size, at = _varint(data, at)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {at}")
        if at + size > len(data):
            raise ValueError("it ends too early")
        yield _Field(number, data[at : at + size], value)
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
    raise ValueError(f"a number without end at byte {at}")
