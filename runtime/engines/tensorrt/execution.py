"""Runs of a TensorRT engine: pinned buffers, one CUDA stream, and a CUDA graph once shapes repeat."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attri.runtime.engines.signature import GraphSignature, TensorSpec
from attri.runtime.engines.tensorrt.cuda import Buffer, Cuda, Graph, Stream
from attri.runtime.errors import EngineError

_LOGGER = logging.getLogger("attri")
Shapes = Mapping[str, tuple[int, ...]]


class Execution:
    """An execution context with its stream and buffers. Not for several threads at once.

    The first run with new shapes is launched operation by operation, since TensorRT settles its state in it. The
    second is captured as a CUDA graph, which all further runs with these shapes replay. If something cannot be
    captured, no other graph is tried.

    Args:
        trt: the module `tensorrt`.
        cuda: CUDA's runtime library.
        engine: an ICudaEngine.
        signature: of the graph.
        log: from `make_log`, the one that the engine's runtime logs to.

    Raises:
        EngineError: the device has too little memory.
    """

    def __init__(self, trt: Any, cuda: Cuda, engine: Any, signature: GraphSignature, log: Any) -> None:
        self._version = f"TensorRT {trt.__version__}"
        self._cuda = cuda
        self._signature = signature
        self._log = log
        self._buffers: dict[str, Buffer] = {}
        self._graph: Graph | None = None
        self._can_capture = True  # until a capture fails
        self._shapes: Shapes = {}  # of inputs and outputs, as the context has them
        self._resident: dict[str, NDArray[Any]] = {}  # read-only inputs whose content is on the device
        self._runs = 0  # with these shapes
        log.start()
        self._context = engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"{self._version} cannot start the engine: {log.reason()}")
        self._stream = Stream(cuda)

    @property
    def uses_cuda_graph(self) -> bool:
        """Whether the last run replayed a CUDA graph."""
        return self._graph is not None

    def run(self, inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Copy inputs to the device, compute, and copy outputs back, as arrays of their own.

        An input that is the same read-only array as in the run before is on the device already: a prompt is copied
        once.

        Args:
            inputs: arrays that `check_inputs` has passed.

        Raises:
            EngineError: TensorRT or CUDA failed. The next run sets everything up again.
        """
        self._log.start()
        try:
            return self._run(inputs)
        except BaseException:
            self._shapes = {}  # whatever state the context is in, the next run sets all of it again
            raise

    def close(self) -> None:
        """Give back the memory, the stream and the context."""
        self._drop_graph()
        for buffer in self._buffers.values():
            buffer.close()
        self._buffers = {}
        self._stream.close()
        self._context = None

    def _run(self, inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        shapes = {name: array.shape for name, array in inputs.items()}
        if not shapes.items() <= self._shapes.items():
            self._set_shapes(shapes)
        self._keep({name: array for name, array in inputs.items() if not array.flags.writeable})
        for name, array in inputs.items():
            if name not in self._resident:
                np.copyto(self._buffers[name].view(array.dtype, array.shape), array)
        self._launch()
        self._stream.synchronize()
        self._runs += 1
        return [
            self._buffers[tensor.name].view(tensor.dtype, self._shapes[tensor.name]).copy()
            for tensor in self._signature.outputs
        ]

    def _keep(self, fixed: dict[str, NDArray[Any]]) -> None:
        """Copy read-only inputs to the device, but for those that are there since the run before."""
        if fixed.keys() != self._resident.keys():
            self._drop_graph()  # which copies other inputs
            self._runs = 0
        new = {name: array for name, array in fixed.items() if self._resident.get(name) is not array}
        self._resident = {}  # until all of them are there
        for name, array in new.items():
            np.copyto(self._buffers[name].view(array.dtype, array.shape), array)
            self._buffers[name].upload(array.nbytes, self._stream)
        if new:
            self._stream.synchronize()  # a capture begins with nothing under way
        self._resident = fixed

    def _launch(self) -> None:
        if self._graph is None and self._runs and self._can_capture:
            self._graph = self._captured()
            self._can_capture = self._graph is not None
        if self._graph is not None:
            self._graph.launch(self._stream)
        else:
            self._enqueue()

    def _captured(self) -> Graph | None:
        """A CUDA graph of one run; None if something in it cannot be captured."""
        try:
            with self._stream.capture() as capture:
                self._enqueue()
            return capture.graph
        except EngineError as error:
            _LOGGER.debug("no CUDA graph: %s", error)
            return None

    def _enqueue(self) -> None:
        for tensor in self._signature.inputs:
            if tensor.name not in self._resident:
                self._buffers[tensor.name].upload(_nbytes(tensor, self._shapes), self._stream)
        if not self._context.execute_async_v3(self._stream.handle):
            raise EngineError(f"{self._version} failed: {self._log.reason()}")
        for tensor in self._signature.outputs:
            self._buffers[tensor.name].download(_nbytes(tensor, self._shapes), self._stream)

    def _set_shapes(self, inputs: Shapes) -> None:
        """Set the shapes of the inputs, infer those of the outputs, and make buffers for all."""
        self._drop_graph()  # it holds the old shapes and addresses
        self._shapes, self._resident = {}, {}
        self._runs = 0
        for name, shape in inputs.items():
            if not self._context.set_input_shape(name, shape):
                raise EngineError(f"TensorRT takes no {list(shape)} as {name}: {self._log.reason()}")
        shapes = {**inputs, **self._output_shapes(inputs)}
        for tensor in (*self._signature.inputs, *self._signature.outputs):
            self._reserve(tensor.name, _nbytes(tensor, shapes))
        self._shapes = shapes

    def _output_shapes(self, inputs: Shapes) -> dict[str, tuple[int, ...]]:
        try:
            missing = self._context.infer_shapes()
        except RuntimeError as error:
            raise EngineError(f"{self._version} failed: {self._log.reason()}") from error
        if missing:
            raise EngineError(f"TensorRT misses the shape of {', '.join(missing)}")
        extents = _extents(self._signature.inputs, inputs)
        shapes = {}
        for tensor in self._signature.outputs:
            found = tuple(self._context.get_tensor_shape(tensor.name))
            wanted = tuple(extents.get(dim, -1) if isinstance(dim, str) else dim for dim in tensor.dims)
            if found != wanted:
                raise EngineError(f"TensorRT gives {tensor.name} the shape {list(found)}, expected {list(wanted)}")
            shapes[tensor.name] = found
        return shapes

    def _reserve(self, name: str, nbytes: int) -> None:
        """Make a buffer of at least that size, and bind it. Buffers grow and never shrink."""
        old = self._buffers.get(name)
        if old is None or old.nbytes < nbytes:
            if old is not None:
                del self._buffers[name]
                old.close()
            self._buffers[name] = Buffer(self._cuda, nbytes)
        if not self._context.set_tensor_address(name, self._buffers[name].device):
            raise EngineError(f"TensorRT does not take the address of {name}: {self._log.reason()}")

    def _drop_graph(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            graph.close()


def _extents(inputs: tuple[TensorSpec, ...], shapes: Shapes) -> dict[str, int]:
    """Extent of each dynamic dimension of the inputs, by its name."""
    return {
        dim: size
        for tensor in inputs
        for dim, size in zip(tensor.dims, shapes[tensor.name], strict=True)
        if isinstance(dim, str)
    }


def _nbytes(tensor: TensorSpec, shapes: Shapes) -> int:
    return int(np.prod(shapes[tensor.name], dtype=np.int64)) * np.dtype(tensor.dtype).itemsize
