"""What the stand-in's classes share: the module, attributes, device memory."""

from __future__ import annotations

import ctypes
import types
from typing import Any

import onnx

MAGIC = b"stand-in engine\n"


TYPES = {1: "FLOAT", 10: "HALF", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 2: "UINT8"}
HELD = 64  # bytes of device memory of an engine, and of a context


class Module(types.ModuleType):
    """A stand-in, and what the tests ask of it beside."""

    __version__: str
    cudart: ctypes.CDLL
    gpu = ("Orin", "8.7")
    broken = ""  # name of a method that fails
    capturable = True
    fixing = False  # an engine shows dimensions of which the profile has one extent as fixed
    fused = False  # the inspector shows one layer, as 8.6 does of a transformer
    skew = 0.0  # added to every float32 output: an engine that computes something else
    builds = 0
    live: dict[str, int]


def attribute(key: str, value: Any = None) -> Any:
    """A plain attribute that may be set."""
    private = f"_{key}"
    return property(
        lambda self: getattr(self, private, value), lambda self, new: object.__setattr__(self, private, new)
    )


class Held:
    """Device memory that goes when its owner goes."""

    def __init__(self, trt: Module, kind: str) -> None:
        self.trt, self.kind, self.at = trt, kind, ctypes.c_void_p()
        assert trt.cudart.cudaMalloc(ctypes.byref(self.at), ctypes.c_size_t(HELD)) == 0
        trt.live[kind] = trt.live.get(kind, 0) + 1

    def __del__(self) -> None:
        self.trt.cudart.cudaFree(self.at)
        self.trt.live[self.kind] -= 1


class Member:
    """What `_class` adds to each class."""

    _trt: Module


def host_memory(trt: Module, data: bytes) -> Any:
    """IHostMemory lends its bytes to memoryview, which a Python class cannot before 3.12: an array of ctypes does."""
    array = ctypes.c_ubyte * len(data)
    body = {name: value for name, value in vars(trt.IHostMemory).items() if not name.startswith("__")}
    kind: Any = type("IHostMemory", (array,), body | {"nbytes": property(lambda self: len(data))})
    return kind.from_buffer_copy(data)


def dims(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim)
