"""Graphs on ONNX Runtime. What was asked for is what runs: a provider that is not there is an error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from numpy.typing import NDArray

from attri.runtime._util.cpus import usable_cpus
from attri.runtime._util.wording import first_line
from attri.runtime.errors import EngineError, MissingExtra, UsageError

Device = Literal["auto", "cpu", "cuda", "tensorrt", "openvino", "migraphx", "rocm", "coreml", "qnn"]
DEVICES: tuple[Device, ...] = get_args(Device)
PROVIDERS: dict[Device, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "qnn": "QNNExecutionProvider",
}
# What to install for a provider; each of these packages takes the place of onnxruntime.
_PACKAGES: dict[Device, str] = {
    "cuda": "pip install 'attri[gpu]'",
    "tensorrt": "pip install 'attri[gpu]'",
    "openvino": "pip install onnxruntime-openvino in the place of onnxruntime",
    "migraphx": "install AMD's onnxruntime-migraphx in the place of onnxruntime",
    "rocm": "install AMD's onnxruntime-rocm in the place of onnxruntime",
    "coreml": "it comes with onnxruntime on macOS alone",
    "qnn": "install onnxruntime-qnn in the place of onnxruntime",
}
# What TensorRT cannot take runs on CUDA beside it; ONNX Runtime itself adds the CPU to every session.
SESSIONS: dict[Device, list[str]] = {name: [provider] for name, provider in PROVIDERS.items()} | {
    "tensorrt": [PROVIDERS["tensorrt"], PROVIDERS["cuda"]]
}


class OrtEngine:
    """A graph in an ONNX Runtime session.

    Args:
        path: the ONNX file.
        device: "cpu", "cuda", "tensorrt" (ONNX Runtime's own use of TensorRT; what that cannot take runs on CUDA),
            "openvino" and others by the name of their provider, or "auto": CUDA where ONNX Runtime has it and it
            starts, else the CPU.
        threads: for the operators on the CPU; None is as many as CPUs that this process may use.
        integers: whether integer kernels compute int8 products; False computes them in float32, as ONNX defines them.
            Processors without VNNI add pairs of products in 16 bits, where weights of 8 bits overflow.

    Attributes:
        device: the one that runs it.

    Raises:
        EngineError: the device is not there, or the graph cannot be loaded.
        MissingExtra: ONNX Runtime is not installed.
        UsageError: no such kind of device.
    """

    def __init__(
        self, path: Path, device: Device = "auto", threads: int | None = None, *, integers: bool = True
    ) -> None:
        try:
            import onnxruntime as ort
        except ModuleNotFoundError as error:
            raise MissingExtra("onnxruntime") from error
        if device not in DEVICES:
            raise UsageError(f"device is {device!r}: choose {', '.join(DEVICES)}")
        available = ort.get_available_providers()
        if device != "auto" and PROVIDERS[device] not in available:
            lack = f"this ONNX Runtime has no {PROVIDERS[device]}"
            raise EngineError(f"`device` {device}: {lack}: {_PACKAGES.get(device, 'install it again')}")
        wanted = auto_device() if device == "auto" else device
        try:
            self._session = _session(path, wanted, threads, integers)
            self.device = wanted
            self.description = f"ONNX Runtime {ort.__version__} on {wanted}"
        except EngineError:
            if device != "auto" or wanted == "cpu":
                raise
            self._session, self.device = _session(path, "cpu", threads, integers), "cpu"
            self.description = f"CUDA does not start here: ONNX Runtime {ort.__version__} on cpu"

    limits: Mapping[str, int] = {}  # nothing is bounded, and nobody writes to it

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the graph. Raises EngineError."""
        try:
            outputs: list[NDArray[Any]] = self._session.run(None, dict(inputs))
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed: {first_line(error)}") from error
        return outputs

    def close(self) -> None:
        """A session goes with its last reference, and has no other way."""


def auto_device() -> Device:
    """The device that "auto" tries first: "cuda" where this ONNX Runtime has its provider, else "cpu"."""
    import onnxruntime as ort

    return "cuda" if PROVIDERS["cuda"] in ort.get_available_providers() else "cpu"


def _session(path: Path, device: Device, threads: int | None, integers: bool) -> Any:
    """A session on `device` and nothing else. Raises EngineError."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or usable_cpus().count
    # Two graphs take turns. Threads of the one that is done would spin on for a while, and keep the cores from the
    # other: that costs a fifth of a frame and more on two cores (benchmarks/session.md).
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not integers:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.log_severity_level = 3
    try:
        session = _strict(ort)(str(path), options, providers=_providers(device, options), enable_fallback=0)
    except Exception as error:  # onnxruntime raises a dozen kinds, all of them its own
        raise EngineError(f"ONNX Runtime cannot load {path} on {device}: {first_line(error)}") from error
    # Without its libraries a provider logs an error and leaves the session to the CPU.
    if session.get_providers()[0] != PROVIDERS[device]:
        lack = f"{PROVIDERS[device]} does not start here (driver or libraries missing)"
        raise EngineError(f"`device` {device}: {lack}: use `device` cpu")
    return session


def _providers(device: Device, options: Any) -> list[Any]:
    """Names of the providers for a device, with the settings of those that do not take the session's."""
    if device == "openvino":
        return [(PROVIDERS[device], {"num_of_threads": str(options.intra_op_num_threads)})]
    return list(SESSIONS[device])


def _strict(ort: Any) -> Any:
    """The class of a session whose provider fails with an error.

    Left to itself it prints on stdout, where results go, and goes on with the CPU. Releases before the keyword
    `enable_fallback` (1.20) set this attribute themselves, and read it while they start.
    """

    class Session(ort.InferenceSession):  # type: ignore[misc]  # the module is known at run time only
        _enable_fallback = property(lambda self: False, lambda self, value: None)

    return Session
