"""A TensorRT engine that reads and writes NumPy arrays.

One code path for TensorRT 8.6, 10 and 11: only names that all of them have are called (tests/support/tensorrt/members
lists them).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from numpy.typing import NDArray

from attri.runtime.engines.signature import GraphSignature
from attri.runtime.engines.tensorrt.cuda import Cuda
from attri.runtime.engines.tensorrt.execution import Execution
from attri.runtime.engines.tensorrt.interface import check_engine, check_inputs, profile_ranges
from attri.runtime.engines.tensorrt.logger import make_log
from attri.runtime.errors import EngineError

_LOGGER = logging.getLogger("attri")
_CLOSE_TIMEOUT = 0.2  # seconds that `close` waits for a run: attri-run has 2 to end, of which its pipeline takes 1.5


class TrtEngine:
    """An engine in one execution context. It may be used from several threads; their runs take turns.

    Args:
        trt: the module `tensorrt`.
        cuda: CUDA's runtime library.
        serialized: the engine. It is code: take it from the engine cache, which verifies where it comes from.
        signature: of the graph that the engine was built from.
        host_code: the engine may bring its own runtime, which runs on the host (VERSION_COMPATIBLE).

    Attributes:
        description: TensorRT's version and the GPU.
        limits: greatest extent of each dynamic dimension of the inputs, by its name.

    Raises:
        EngineError: TensorRT refuses the engine, it is of another graph, or the device has too little memory.
    """

    def __init__(
        self, trt: Any, cuda: Cuda, serialized: bytes, signature: GraphSignature, *, host_code: bool = False
    ) -> None:
        self._trt = trt
        self._signature = signature
        self._lock = threading.Lock()
        self._closed = False  # or being closed
        self._execution: Execution | None = None
        self._log = make_log(trt)
        self._runtime = self._start_runtime(host_code)
        self._engine = self._deserialize(serialized)
        check_engine(trt, self._engine, signature)
        self._ranges = profile_ranges(self._engine, signature)
        self.limits: Mapping[str, int] = {dim: high for dim, (_, high) in self._ranges.items()}
        self._execution = Execution(trt, cuda, self._engine, signature, self._log)
        self.description = f"TensorRT {trt.__version__} on {cuda.device().name}"

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the graph.

        Args:
            inputs: arrays by the graph's names, in its dtypes and within `limits`.

        Returns:
            Outputs in the graph's order, as arrays of their own.

        Raises:
            EngineError: an input is missing, unknown, of another dtype or outside the profile; or the run failed.
        """
        with self._lock:
            if self._closed or self._execution is None:
                raise EngineError("the engine is closed")
            check_inputs(inputs, self._signature, self._ranges)
            try:
                return self._execution.run(dict(inputs))
            finally:
                if self._closed:  # meanwhile
                    self._release()

    @property
    def uses_cuda_graph(self) -> bool:
        """Whether the last run replayed a CUDA graph."""
        return self._execution is not None and self._execution.uses_cuda_graph

    def inspect(self) -> str:
        """Layers of the engine as JSON, with number types if it was built with DETAILED verbosity."""
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Give back all device memory; further runs raise EngineError.

        A run that does not end, as on a hung GPU, holds the memory: it is given back when the run ends, if it does.
        """
        if self._closed:
            return
        self._closed = True
        if not self._lock.acquire(timeout=_CLOSE_TIMEOUT):
            _LOGGER.warning("a run on the GPU has not ended: its memory is given back when it does")
            return
        try:
            self._release()
        finally:
            self._lock.release()

    def __del__(self) -> None:
        with suppress(Exception):  # half made, or the interpreter is on its way out
            self.close()

    def _start_runtime(self, host_code: bool) -> Any:
        try:
            runtime = self._trt.Runtime(self._log)
        except (RuntimeError, TypeError) as error:  # what the bindings make of a null pointer
            raise EngineError(f"TensorRT {self._trt.__version__} does not start: {self._log.reason()}") from error
        if host_code:
            runtime.engine_host_code_allowed = True
        return runtime

    def _deserialize(self, serialized: bytes) -> Any:
        self._log.start()
        engine = self._runtime.deserialize_cuda_engine(serialized)
        if engine is None:
            raise EngineError(f"TensorRT {self._trt.__version__} does not take the engine: {self._log.reason()}")
        return engine

    def _release(self) -> None:
        """Give everything back. The caller holds the lock; nothing happens the second time."""
        execution, self._execution = self._execution, None
        if execution is not None:
            execution.close()
        # In this order: the execution's context uses the engine, and the engine the runtime.
        self._engine = self._runtime = None
