"""CUDA's runtime library through ctypes: memory, streams, graphs and the GPU's properties.

Needs neither torch nor cuda-python, which is heavy and bound to a version on JetPack. Prototypes and enum values are
those of the CUDA Runtime API, the same in CUDA 11.4 to 13.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from attri.runtime.errors import EngineError

LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
PREFIXES = ("/usr/local/cuda/lib64", "/usr/local/cuda/targets/aarch64-linux/lib")
SYMBOLS: dict[str, tuple[Any, ...]] = {
    "cudaGetDeviceCount": (POINTER(c_int),),
    "cudaGetDevice": (POINTER(c_int),),
    "cudaGetDeviceProperties": (c_void_p, c_int),
    "cudaDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cudaMemGetInfo": (POINTER(c_size_t), POINTER(c_size_t)),
    "cudaMalloc": (POINTER(c_void_p), c_size_t),
    "cudaFree": (c_void_p,),
    "cudaHostAlloc": (POINTER(c_void_p), c_size_t, c_uint),
    "cudaFreeHost": (c_void_p,),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaStreamCreateWithFlags": (POINTER(c_void_p), c_uint),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaStreamDestroy": (c_void_p,),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, POINTER(c_void_p)),
    "cudaGraphInstantiateWithFlags": (POINTER(c_void_p), c_void_p, c_ulonglong),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaGraphDestroy": (c_void_p,),
    "cudaGraphExecDestroy": (c_void_p,),
}
HOST_TO_DEVICE, DEVICE_TO_HOST = 1, 2  # cudaMemcpyKind
MAJOR, MINOR = 75, 76  # cudaDevAttrComputeCapabilityMajor and Minor
NON_BLOCKING = 1  # cudaStreamNonBlocking: no waiting for the legacy default stream
THREAD_LOCAL = 1  # cudaStreamCaptureModeThreadLocal: what other threads do cannot spoil a capture
PROPERTIES = 1 << 14  # bytes; cudaDeviceProp was 1032 in CUDA 12, and its name stands first in all versions


def is_tegra() -> bool:
    """Whether this is a Jetson. The kernel's name counts too: a container may see nothing else of it."""
    return Path("/etc/nv_tegra_release").exists() or "tegra" in platform.release()


def system() -> str:
    """Platform that TensorRT's libraries are built for: "x86_64", "aarch64", or on a Jetson "aarch64 Tegra"."""
    return f"{platform.machine()} Tegra" if is_tegra() else platform.machine()


@dataclass(frozen=True)
class Device:
    """A GPU and its memory.

    Attributes:
        name: "Orin".
        capability: compute capability, "8.7".
        free: memory, in bytes.
        total: memory, in bytes; on a Jetson the system's, which the CPU uses too.
    """

    name: str
    capability: str
    free: int
    total: int


class Cuda:
    """CUDA's runtime library. Every failed call raises EngineError with CUDA's own message.

    Args:
        library: the loaded library.

    Raises:
        EngineError: it lacks a function.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name in ("cudaGetErrorName", "cudaGetErrorString"):
            self._function(name).argtypes = (c_int,)
            self._function(name).restype = c_char_p
        for name, arguments in SYMBOLS.items():
            self._function(name).argtypes = arguments
            self._function(name).restype = c_int

    @classmethod
    def open(cls) -> Cuda:
        """Load the system's libcudart, or the one of pip's CUDA packages.

        Raises:
            EngineError: there is none.
        """
        for name in (*LIBRARIES, *_installed()):
            try:
                return cls(ctypes.CDLL(name))
            except OSError:
                continue
        raise EngineError("CUDA's runtime library (libcudart) is not here: on a Jetson, install JetPack's CUDA")

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function by its name.

        Raises:
            EngineError: it failed.
        """
        if code := self._function(name)(*arguments):
            what, text = (
                self._function(f"cudaGetError{kind}")(code).decode(errors="replace") for kind in ("Name", "String")
            )
            raise EngineError(f"CUDA failed in {name}: {text} ({what})")

    def device(self) -> Device:
        """The GPU that this thread uses.

        Raises:
            EngineError: there is none, or no driver.
        """
        count, number = c_int(), c_int()
        self.call("cudaGetDeviceCount", ctypes.byref(count))
        if not count.value:
            raise EngineError("CUDA sees no GPU here")
        self.call("cudaGetDevice", ctypes.byref(number))
        properties = ctypes.create_string_buffer(PROPERTIES)
        self.call("cudaGetDeviceProperties", properties, number)
        capability = [c_int(), c_int()]
        for value, attribute in zip(capability, (MAJOR, MINOR), strict=True):
            self.call("cudaDeviceGetAttribute", ctypes.byref(value), attribute, number)
        free, total = c_size_t(), c_size_t()
        self.call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        major, minor = (value.value for value in capability)
        return Device(properties.value.decode(errors="replace"), f"{major}.{minor}", free.value, total.value)

    def new(self, name: str, *arguments: Any) -> int:
        """Call a function that makes something.

        Returns:
            The handle or address that it wrote to its first argument.

        Raises:
            EngineError: it failed.
        """
        handle = c_void_p()
        self.call(name, ctypes.byref(handle), *arguments)
        return handle.value or 0

    def _function(self, name: str) -> Any:
        try:
            return getattr(self._library, name)
        except AttributeError as error:
            raise EngineError(f"{self._library._name} has no {name}: CUDA 11.4 to 13 are known") from error


def _installed() -> Sequence[str]:
    """Files of libcudart that JetPack and pip install where the loader does not look."""
    folders = [Path(prefix) for prefix in PREFIXES]
    nvidia = find_spec("nvidia")
    for base in nvidia.submodule_search_locations or () if nvidia else ():
        folders += [Path(base) / "cu13" / "lib", Path(base) / "cuda_runtime" / "lib"]
    return [str(file) for folder in folders for file in sorted(folder.glob("libcudart.so*"))]


class Buffer:
    """Memory on the device, and as much pinned memory on the host, from which copies are asynchronous and fast.

    Args:
        cuda: CUDA's runtime library.
        nbytes: size.

    Attributes:
        nbytes: size.
        device: address on the device.
        host: address on the host.

    Raises:
        EngineError: there is too little memory.
    """

    def __init__(self, cuda: Cuda, nbytes: int) -> None:
        self._cuda, self.nbytes = cuda, nbytes
        self.device = cuda.new("cudaMalloc", nbytes)
        try:
            self.host = cuda.new("cudaHostAlloc", nbytes, 0)
        except EngineError:
            cuda.call("cudaFree", self.device)
            raise

    def view(self, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
        """The host's memory as an array, which must not be used once the buffer is closed."""
        raw = memoryview((ctypes.c_byte * self.nbytes).from_address(self.host))
        array: NDArray[Any] = np.ndarray(shape, dtype, raw)
        return array

    def upload(self, nbytes: int, stream: Stream) -> None:
        """Copy the first bytes from the host to the device, in the order of the stream."""
        self._cuda.call("cudaMemcpyAsync", self.device, self.host, nbytes, HOST_TO_DEVICE, stream.handle)

    def download(self, nbytes: int, stream: Stream) -> None:
        """Copy the first bytes from the device to the host, in the order of the stream."""
        self._cuda.call("cudaMemcpyAsync", self.host, self.device, nbytes, DEVICE_TO_HOST, stream.handle)

    def close(self) -> None:
        """Free the memory; a second call does nothing."""
        device, host, self.device, self.host = self.device, self.host, 0, 0
        if device:
            self._cuda.call("cudaFree", device)
            self._cuda.call("cudaFreeHost", host)


class Stream:
    """A CUDA stream, which does not wait for the legacy default stream.

    Args:
        cuda: CUDA's runtime library.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.handle = cuda.new("cudaStreamCreateWithFlags", NON_BLOCKING)

    def synchronize(self) -> None:
        """Wait until everything in the stream is done."""
        self._cuda.call("cudaStreamSynchronize", self.handle)

    @contextmanager
    def capture(self) -> Iterator[Capture]:
        """Record what the block does with the stream as a graph, instead of doing it.

        Yields:
            The capture, which has the graph once the block has ended.

        Raises:
            EngineError: something in the block cannot be captured. The stream still works.
        """
        self._cuda.call("cudaStreamBeginCapture", self.handle, THREAD_LOCAL)
        capture = Capture()
        try:
            yield capture
        except BaseException:
            with suppress(EngineError):
                self._end_capture().close()
            raise
        capture.graph = self._end_capture()

    def _end_capture(self) -> Graph:
        captured = c_void_p()
        self._cuda.call("cudaStreamEndCapture", self.handle, ctypes.byref(captured))
        return Graph(self._cuda, captured.value or 0)

    def close(self) -> None:
        """Destroy the stream; a second call does nothing."""
        handle, self.handle = self.handle, 0
        if handle:
            self._cuda.call("cudaStreamDestroy", handle)


@dataclass
class Capture:
    """What a capture of a stream ends with.

    Attributes:
        graph: None until the capture has ended.
    """

    graph: Graph | None = None


class Graph:
    """An executable CUDA graph: what a stream recorded, launched as one.

    Args:
        cuda: CUDA's runtime library.
        captured: handle of a cudaGraph_t, which is destroyed here.

    Raises:
        EngineError: CUDA cannot instantiate it.
    """

    def __init__(self, cuda: Cuda, captured: int) -> None:
        self._cuda = cuda
        try:
            self._handle = cuda.new("cudaGraphInstantiateWithFlags", captured, 0)
        finally:
            cuda.call("cudaGraphDestroy", captured)

    def launch(self, stream: Stream) -> None:
        """Put the graph into a stream."""
        self._cuda.call("cudaGraphLaunch", self._handle, stream.handle)

    def close(self) -> None:
        """Destroy the graph; a second call does nothing."""
        handle, self._handle = self._handle, 0
        if handle:
            self._cuda.call("cudaGraphExecDestroy", handle)
