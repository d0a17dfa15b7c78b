"""Which engines run a bundle here: what was asked for, or the best that this machine has. They say which, and why."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from attri.runtime.bundle import ENGINES, Bundle
from attri.runtime.engines.base import Engine, Progress
from attri.runtime.engines.onnxruntime import DEVICES, Device, OrtEngine
from attri.runtime.engines.verified import require_agreement
from attri.runtime.errors import EngineError, MissingExtra, UsageError

if TYPE_CHECKING:
    from attri.runtime.engines.tensorrt.load import Gpu

_LOGGER = logging.getLogger("attri")
Backend = Literal["auto", "onnxruntime", "tensorrt"]
_GPUS = ("auto", "cuda", "tensorrt")  # devices that are NVIDIA's, or may be
BACKENDS: tuple[Backend, ...] = get_args(Backend)


@dataclass(frozen=True)
class EngineOptions:
    """Which engines a caller asks for.

    Attributes:
        backend: "auto" takes TensorRT where it and a GPU are, and else ONNX Runtime.
        device: "auto", "cpu", "cuda", or a provider of ONNX Runtime: "tensorrt", "openvino", ... .
        threads: On the CPU; None is one per CPU that this process may use.
        engine_dir: Where TensorRT's engines are kept; None is engines/ in the bundle.
        rebuild_engines: Build them again, whatever is there.
    """

    backend: Backend = "auto"
    device: Device = "auto"
    threads: int | None = None
    engine_dir: Path | None = None
    rebuild_engines: bool = False

    @property
    def needs_tensorrt(self) -> bool:
        """Whether only TensorRT can do what is asked."""
        return self.backend == "tensorrt" or self.engine_dir is not None or self.rebuild_engines

    def check(self) -> None:
        """Raises UsageError for a value that does not exist, or two that exclude each other."""
        for name, value, known in (("backend", self.backend, BACKENDS), ("device", self.device, DEVICES)):
            if value not in known:
                raise UsageError(f"`{name}` is {value!r}: choose {', '.join(known)}")
        if self.device == "tensorrt" and self.backend != "onnxruntime":
            raise UsageError("`device` tensorrt is a provider of ONNX Runtime: add `backend` onnxruntime")
        if self.needs_tensorrt and self.device not in _GPUS:
            raise UsageError(
                f"TensorRT runs on an NVIDIA GPU: leave out `device` {self.device}, or `backend`, `engine_dir` and"
                " `rebuild_engines`"
            )
        if self.backend == "onnxruntime" and self.needs_tensorrt:
            raise UsageError("`engine_dir` and `rebuild_engines` are about TensorRT's engines, ONNX Runtime has none")


def open_engines(
    bundle: Bundle, request: EngineOptions | None = None, progress: Progress | None = None
) -> tuple[Engine, ...]:
    """The engines of a bundle's graphs, in the order of `Bundle.graph_files`.

    Args:
        bundle: whose graphs are run.
        request: what was asked for; None leaves the choice to attri.
        progress: is given lines while TensorRT builds; None logs them.

    Raises:
        EngineError: what was asked for is not here, or does not work here.
        MissingExtra: neither TensorRT nor ONNX Runtime is installed, or not the one that was asked for.
        ParityError: An engine, of TensorRT or of any provider but ONNX Runtime's CPU, does not agree with the model.
        UsageError: what was asked for contradicts itself.
    """
    from attri.runtime.engines.tensorrt.load import load_or_build

    request = request or EngineOptions()
    request.check()
    gpu, why = choose_tensorrt(request)
    if gpu is not None:
        folder = request.engine_dir or bundle.file(ENGINES)
        progress = progress or (lambda line: _LOGGER.info("%s", line))
        return load_or_build(bundle, gpu, folder, progress, rebuild=request.rebuild_engines)
    engines = tuple(_on_onnx_runtime(bundle, name, request) for name in bundle.graph_files)
    require_agreement(bundle, dict(zip(bundle.graph_files, engines, strict=True)))
    engines[0].description = f"{why}: {engines[0].description}" if why else engines[0].description
    return engines


def _on_onnx_runtime(bundle: Bundle, name: str, request: EngineOptions) -> OrtEngine:
    tensorrt = request.device == "tensorrt"  # ONNX Runtime's provider of it wants the same graph
    graph = bundle.graph(name, tensorrt=tensorrt)
    try:
        return OrtEngine(graph, request.device, request.threads)
    except EngineError as error:  # the path of what is held says nothing to a person
        file = bundle.path / bundle.graph_name(name, tensorrt=tensorrt)
        raise EngineError(str(error).replace(str(graph), str(file))) from error


def choose_tensorrt(request: EngineOptions) -> tuple[Gpu | None, str]:
    """The GPU for TensorRT; or None, where ONNX Runtime is to be taken, and why if TensorRT would have been welcome.

    Raises:
        EngineError, MissingExtra: TensorRT was asked for and does not work here.
    """
    from attri.runtime.engines.tensorrt.load import find_tensorrt

    if request.backend == "onnxruntime" or request.device not in _GPUS:
        return None, ""
    try:
        return find_tensorrt(), ""
    except (EngineError, MissingExtra) as error:
        if request.needs_tensorrt:
            raise
        # To go without what is optional is no fault: how to install it is nothing that was asked for.
        why = str(error).partition(":")[0] if isinstance(error, MissingExtra) else str(error)
        return None, f"no TensorRT here ({why})"
