"""Tensors and text in one file, in the safetensors format, read with NumPy alone.

8 bytes with the length of the header, little-endian; the header, JSON: for each tensor its dtype, its shape and where
its bytes lie in what follows, and `__metadata__`, strings by name; the bytes of the tensors.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DTYPES = {"F32": "<f4", "F16": "<f2", "I32": "<i4", "U8": "|u1"}
_NAMES = {np.dtype(code): name for name, code in _DTYPES.items()}
_MAX_HEADER = 10 << 20  # bytes; facts of a prompt are a few kilobytes


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


def unpack(data: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Tensors, which are read-only views of `data`, and metadata.

    Raises:
        ValueError: the bytes are not such a file, or not a whole one.
    """
    try:
        (length,) = struct.unpack_from("<Q", data)
        if length > min(_MAX_HEADER, len(data) - 8):
            raise ValueError("its header is cut off")
        header = json.loads(data[8 : 8 + length])
        metadata = {str(name): str(value) for name, value in header.pop("__metadata__", {}).items()}
        body = memoryview(data)[8 + length :]
        tensors = {name: _view(body, **entry) for name, entry in header.items()}
    except (struct.error, RecursionError, LookupError, AttributeError, TypeError) as error:
        raise ValueError("it is no safetensors file") from error
    return tensors, metadata


def _view(body: memoryview, dtype: str, shape: list[int], data_offsets: list[int]) -> NDArray[Any]:
    start, end = data_offsets
    if any(type(side) is not int or side < 0 for side in (*shape, start, end)) or end > len(body):
        raise ValueError("a tensor is cut off")
    kind = np.dtype(_DTYPES[dtype])
    if math.prod(shape) * kind.itemsize != end - start:
        raise ValueError("a tensor has another size than its shape")
    return np.frombuffer(body[start:end], kind).reshape(shape)
