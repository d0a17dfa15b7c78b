"""A TensorRT engine that reads and writes NumPy arrays: pinned buffers, one stream, a CUDA graph once shapes repeat.

One code path for TensorRT 8.6, 10 and 11: only names that all of them have are called (tests/trt holds the lists).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attri.runtime.engines.signature import Border, Tensor
from attri.runtime.engines.tensorrt.cuda import Buffer, Cuda, Graph, Stream
from attri.runtime.engines.tensorrt.logger import make_log
from attri.runtime.errors import EngineError

_LOGGER = logging.getLogger("attri")
CLOSING = 0.2  # seconds that closing waits for a run: attri-run has 2 to end, of which its pipeline takes 1.5
# By the name of the member of trt.DataType: trt.nptype raises for types that NumPy lacks.
DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT32": "int32",
    "INT64": "int64",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}


class TrtEngine:
    """A plan in one execution context. Calls from several threads take turns.

    Args:
        trt: the module `tensorrt`.
        plan: a serialized engine. It is code: take it from the engine cache, which looks where it comes from.
        border: of the ONNX file that the plan was built from.
        host_code: the plan brings its own runtime (VERSION_COMPATIBLE), which may run.

    Attributes:
        limits: greatest extent of each dynamic dimension of the inputs, by its name.

    Raises:
        EngineError: TensorRT does not take the plan, it is of another graph, or the device has too little memory.
    """

    def __init__(self, trt: Any, cuda: Cuda, serialized: bytes, border: Border, *, host_code: bool = False) -> None:
        self._trt, self._cuda, self._border = trt, cuda, border
        self._lock = threading.Lock()
        self._closed = False  # or being closed
        self._buffers: dict[str, Buffer] = {}
        self._graph: Graph | None = None
        self._capture = True  # until TensorRT shows that it cannot be
        self._shapes: dict[str, tuple[int, ...]] = {}  # of inputs and outputs, as the context has them
        self._runs = 0  # with these shapes
        self._stream: Stream | None = None
        self._log = make_log(trt)
        try:
            self._runtime = trt.Runtime(self._log)
        except (RuntimeError, TypeError) as error:  # what the bindings make of a null pointer
            raise EngineError(f"TensorRT {trt.__version__} does not start: {self._log.reason()}") from error
        if host_code:
            self._runtime.engine_host_code_allowed = True
        self._log.start()
        self._engine = self._runtime.deserialize_cuda_engine(serialized)
        if self._engine is None:
            raise EngineError(f"TensorRT {trt.__version__} does not take the engine: {self._log.reason()}")
        self._check_border()
        self._ranges = self._profile()
        self.limits: Mapping[str, int] = {dim: high for dim, (_, high) in self._ranges.items()}
        self._log.start()
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"TensorRT {trt.__version__} cannot start the engine: {self._log.reason()}")
        self._stream = Stream(cuda)
        self.description = f"TensorRT {trt.__version__} on {cuda.device().name}"

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs in the graph's order, as arrays of their own.

        Raises:
            EngineError: inputs that are missing, unknown, of another type or outside the profile; or the run failed.
        """
        with self._lock:
            if self._closed:
                raise EngineError("the engine is closed")
            arrays = self._check_inputs(inputs)
            self._log.start()
            try:
                return self._run(arrays)
            except BaseException:
                self._shapes = {}  # whatever state the context is in, the next run sets all of it again
                raise
            finally:
                if self._closed:  # meanwhile
                    self._release()

    def inspect(self) -> str:
        """What TensorRT tells of its layers, as JSON; types are in it where the plan was built with DETAILED."""
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Give back all device memory; further runs raise EngineError.

        A run that does not end, as on a hung GPU, holds the memory: it is given back when the run ends, if it does.
        """
        if self._closed:
            return
        self._closed = True
        if not self._lock.acquire(timeout=CLOSING):
            _LOGGER.warning("a run on the GPU has not ended: its memory is given back when it does")
            return
        try:
            self._release()
        finally:
            self._lock.release()

    def __del__(self) -> None:
        with suppress(Exception):  # half made, or the interpreter is on its way out
            self.close()

    def _release(self) -> None:
        """With the lock held. Does nothing where it was done already, or where nothing was made yet."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        self._drop_graph()
        for buffer in self._buffers.values():
            buffer.close()
        self._buffers = {}
        stream.close()
        # In this order: each of them uses the next.
        self._context = self._engine = self._runtime = None

    def _run(self, arrays: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        shapes = {name: array.shape for name, array in arrays.items()}
        if not shapes.items() <= self._shapes.items():
            self._set_shapes(shapes)
        for name, array in arrays.items():
            np.copyto(self._buffers[name].view(array.dtype, array.shape), array)
        self._launch()
        assert self._stream is not None
        self._stream.synchronize()
        self._runs += 1
        return [
            self._buffers[tensor.name].view(tensor.dtype, self._shapes[tensor.name]).copy()
            for tensor in self._border.outputs
        ]

    def _launch(self) -> None:
        """Copy in, compute, copy out. The first run with new shapes is no graph: in it TensorRT settles its state."""
        assert self._stream is not None
        if self._graph is None and self._runs and self._capture:
            self._graph = self._captured(self._stream)
            self._capture = self._graph is not None
        if self._graph is not None:
            self._graph.launch(self._stream)
        else:
            self._enqueue(self._stream)

    def _captured(self, stream: Stream) -> Graph | None:
        """A graph of one run, or None where something in it cannot be captured."""
        try:
            with stream.capture() as capture:
                self._enqueue(stream)
            return capture.graph
        except EngineError as error:
            _LOGGER.debug("no CUDA graph: %s", error)
            return None

    def _enqueue(self, stream: Stream) -> None:
        for tensor in self._border.inputs:
            self._buffers[tensor.name].upload(_nbytes(tensor, self._shapes), stream)
        if not self._context.execute_async_v3(stream.handle):
            raise EngineError(f"TensorRT {self._trt.__version__} failed: {self._log.reason()}")
        for tensor in self._border.outputs:
            self._buffers[tensor.name].download(_nbytes(tensor, self._shapes), stream)

    def _set_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Tell the context the inputs' shapes, learn those of the outputs, and have buffers for all."""
        self._drop_graph()  # it holds the old shapes and addresses
        self._shapes, self._runs = {}, 0
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise EngineError(f"TensorRT takes no {list(shape)} as {name}: {self._log.reason()}")
        try:
            missing = self._context.infer_shapes()
        except RuntimeError as error:
            raise EngineError(f"TensorRT {self._trt.__version__} failed: {self._log.reason()}") from error
        if missing:
            raise EngineError(f"TensorRT misses the shape of {', '.join(missing)}")
        extents = _extents(self._border.inputs, shapes)
        for tensor in self._border.outputs:
            found = tuple(self._context.get_tensor_shape(tensor.name))
            wanted = tuple(extents.get(dim, -1) if isinstance(dim, str) else dim for dim in tensor.dims)
            if found != wanted:
                raise EngineError(f"TensorRT gives {tensor.name} the shape {list(found)}, expected {list(wanted)}")
            shapes = shapes | {tensor.name: found}
        for tensor in (*self._border.inputs, *self._border.outputs):
            self._reserve(tensor.name, _nbytes(tensor, shapes))
        self._shapes = shapes

    def _reserve(self, name: str, nbytes: int) -> None:
        """A buffer of at least that size; it grows and never shrinks."""
        old = self._buffers.get(name)
        if old is None or old.nbytes < nbytes:
            if old is not None:
                del self._buffers[name]
                old.close()
            self._buffers[name] = Buffer(self._cuda, nbytes)
        if not self._context.set_tensor_address(name, self._buffers[name].device):
            raise EngineError(f"TensorRT does not take the address of {name}: {self._log.reason()}")

    def _check_inputs(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        wanted = [tensor.name for tensor in self._border.inputs]
        if odd := set(wanted) ^ inputs.keys():
            raise EngineError(f"the engine reads {', '.join(wanted)}; missing or unknown: {', '.join(sorted(odd))}")
        extents: dict[str, int] = {}
        for tensor in self._border.inputs:
            array = inputs[tensor.name]
            if array.dtype != tensor.dtype:
                raise EngineError(f"{tensor.name} is {array.dtype}, the engine reads {tensor.dtype}")
            given = f"{tensor.name} is {list(array.shape)}"
            if len(array.shape) != len(tensor.dims):
                raise EngineError(f"{given}, the engine reads {list(tensor.dims)}")
            for dim, size in zip(tensor.dims, array.shape, strict=True):
                low, high = self._ranges[dim] if isinstance(dim, str) else (dim, dim)
                if not low <= size <= high:
                    raise EngineError(
                        f"{given}, its {dim} must be {low} to {high} in this engine: give less at once,"
                        " or build it with a greater --max-batch or --max-labels"
                    )
                if isinstance(dim, str) and extents.setdefault(dim, size) != size:
                    raise EngineError(f"{given}, its {dim} is {extents[dim]} in another input")
        return dict(inputs)

    def _check_border(self) -> None:
        """The engine has the graph's inputs and outputs, with their types and fixed dimensions.

        A dimension that the graph leaves open may be fixed here, where the profile leaves one extent only.
        """
        engine = self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        found = {
            name: (
                engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT,
                DTYPES.get(engine.get_tensor_dtype(name).name),
                tuple(engine.get_tensor_shape(name)),
            )
            for name in names
        }
        for tensors, is_input in ((self._border.inputs, True), (self._border.outputs, False)):
            for tensor in tensors:
                mode, dtype, dims = found.pop(tensor.name, (None, None, ()))
                same = (mode, dtype, len(dims)) == (is_input, tensor.dtype, len(tensor.dims))
                if not same or any(not isinstance(a, str) and a != b for a, b in zip(tensor.dims, dims, strict=True)):
                    raise EngineError(f"the engine is of another graph, {tensor.name} differs: build it again")
        if found:
            raise EngineError(f"the engine is of another graph, it has {', '.join(found)}: build it again")

    def _profile(self) -> dict[str, tuple[int, int]]:
        """Least and greatest extent of each dynamic dimension, in the first profile."""
        ranges: dict[str, tuple[int, int]] = {}
        for tensor in self._border.inputs:
            if not any(isinstance(dim, str) for dim in tensor.dims):
                continue
            shape = self._engine.get_tensor_shape(tensor.name)
            fixed = -1 not in tuple(shape)
            least, _, most = (shape,) * 3 if fixed else self._engine.get_tensor_profile_shape(tensor.name, 0)
            for dim, low, high in zip(tensor.dims, tuple(least), tuple(most), strict=True):
                if isinstance(dim, str):
                    before = ranges.get(dim, (low, high))
                    ranges[dim] = max(low, before[0]), min(high, before[1])
        return ranges

    def _drop_graph(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            graph.close()


def _extents(inputs: tuple[Tensor, ...], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    return {
        dim: size
        for tensor in inputs
        for dim, size in zip(tensor.dims, shapes[tensor.name], strict=True)
        if isinstance(dim, str)
    }


def _nbytes(tensor: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> int:
    return int(np.prod(shapes[tensor.name], dtype=np.int64)) * np.dtype(tensor.dtype).itemsize
