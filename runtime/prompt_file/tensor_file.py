"""Tensors and text in one file, in the safetensors format, read with NumPy alone.

8 bytes with the length of the header, little-endian; the header, JSON: for each tensor its dtype, its shape and where
its bytes lie in what follows, and `__metadata__`, strings by name; the bytes of the tensors.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_DTYPES = {"F32": "<f4", "F16": "<f2", "I32": "<i4", "U8": "|u1"}
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}
_MAX_HEADER = 10 << 20  # bytes; facts of a prompt are a few kilobytes
Wanted = Callable[[str], bool]  # by the name of a tensor


def pack(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a file; equal tensors and metadata give equal bytes."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for name, tensor in sorted(tensors.items()):
        ends = [offset, offset + tensor.nbytes]
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": ends}
        offset = ends[1]
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8, as the format asks
    return b"".join([struct.pack("<Q", len(text)), text, *(tensors[name].tobytes() for name in sorted(tensors))])


def digest_of(text: str, tensors: Mapping[str, NDArray[Any]]) -> str:
    """sha256 of a text and of tensors with their names, dtypes and shapes, in hexadecimal."""
    whole = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        whole.update(json.dumps([name, tensor.dtype.str, tensor.shape]).encode())
        whole.update(np.ascontiguousarray(tensor).tobytes())
    return whole.hexdigest()


def unpack(data: bytes, only: Wanted = lambda name: True) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read-only tensors, and metadata, of the bytes of a file: see `read`."""
    return read(io.BytesIO(data), only)


def read(file: BinaryIO, only: Wanted = lambda name: True) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read tensors, which are read-only, and metadata. What is not wanted is not read.

    Args:
        file: the open file, which can seek.
        only: whether a tensor of this name is wanted.

    Raises:
        ValueError: it is not such a file, or not a whole one.
        OSError: it cannot be read.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    try:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(_MAX_HEADER, size - 8):
            raise ValueError("its header is cut off")
        header = json.loads(file.read(length))
        metadata = {str(name): str(value) for name, value in header.pop("__metadata__", {}).items()}
        places = {name: _place(size - 8 - length, **entry) for name, entry in header.items()}
    except (struct.error, RecursionError, LookupError, AttributeError, TypeError) as error:
        raise ValueError("it is no safetensors file") from error
    wanted = {name: place for name, place in places.items() if only(name)}
    return {name: place.read(file, 8 + length) for name, place in wanted.items()}, metadata


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies behind the header."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    size: int

    def read(self, file: BinaryIO, body: int) -> NDArray[Any]:
        file.seek(body + self.start)
        data = file.read(self.size)
        if len(data) < self.size:  # somebody has cut the file meanwhile
            raise ValueError("a tensor is cut off")
        return np.frombuffer(data, self.dtype).reshape(self.shape)


def _place(body: int, dtype: str, shape: list[int], data_offsets: list[int]) -> _Place:
    """Check an entry of the header of a file with so many bytes behind it."""
    start, end = data_offsets
    if any(type(side) is not int or side < 0 for side in (*shape, start, end)) or end > body:
        raise ValueError("a tensor is cut off")
    kind = np.dtype(_DTYPES[dtype])
    if math.prod(shape) * kind.itemsize != end - start:
        raise ValueError("a tensor has another size than its shape")
    return _Place(kind, tuple(shape), start, end - start)
