"""From an ONNX file to a TensorRT plan, on the machine that will run it. No torch, no onnx.

Precision travels in the graph. TensorRT 10 and 11 build strongly typed networks, in which every tensor has the type
that the file gives it. 8.6 has no such thing and may pick any type that its flags allow: there each layer is bound to
the type of its outputs. What a version can do is asked for by name, never by its number.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attri.runtime.engines.signature import Border, read_border
from attri.runtime.engines.tensorrt.logger import make_log
from attri.runtime.errors import EngineError, UsageError

Tell = Callable[[str], None]
Range = tuple[int, int, int]  # least, most usual, greatest
CHECK_LABELS = 16  # the engines are checked on that many
TOKENS_PER_LABEL = 8  # own tokens that a label of a full set may have on average
TICK = 5.0  # seconds between lines of progress
FLOATS = ("FLOAT", "HALF")
UNTYPED = ("CONSTANT", "SHAPE", "CAST", "QUANTIZE", "DEQUANTIZE")  # types of these follow from what they are


@dataclass(frozen=True)
class BuildOptions:
    """What engines are built for.

    max_batch            images at once
    max_labels           labels at once; larger sets take several runs
    workspace            bytes that TensorRT may use beside weights; None is half of what is free
    hardware_compatible  the plan runs on Ampere and newer GPUs, at some cost in speed
    version_compatible   the plan runs with later TensorRT versions, at some cost in speed
    """

    max_batch: int = 4
    max_labels: int = 128
    workspace: int | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise UsageError("--max-batch must be at least 1")
        if self.max_labels < CHECK_LABELS:
            raise UsageError(f"--max-labels must be at least {CHECK_LABELS}, on which engines are checked")

    def ranges(self, context_length: int) -> dict[str, Range]:
        """Extents by the names of dimensions: images, prefix tokens, labels, suffix tokens of one and of all labels."""
        tokens = max(context_length, TOKENS_PER_LABEL * self.max_labels)
        labels = min(self.max_labels, 100)
        return {
            "B": (1, 1, self.max_batch),
            "P": (1, min(5, context_length), context_length),
            "C": (1, labels, self.max_labels),
            "T": (1, min(4, context_length), context_length),
            "R": (1, min(4 * labels, tokens), tokens),
        }


@dataclass(frozen=True)
class Built:
    plan: bytes
    timing_cache: bytes  # b"" where none is in use
    seconds: float


def build(
    trt: Any,
    graph: Path,
    precision: str,
    options: BuildOptions,
    ranges: Mapping[str, Range],
    *,
    workspace: int,
    timing_cache: bytes | None = b"",
    tell: Tell = lambda line: None,
    adjust: Callable[[Any], None] = lambda config: None,
    name: str | None = None,
) -> Built:
    """Build one graph.

    Args:
        trt: the module `tensorrt`, or `tensorrt_rtx`.
        precision: "fp32", "fp16" or "int8", as the graph was exported; it is not changed here.
        ranges: of every dynamic dimension.
        workspace: in bytes.
        timing_cache: of an earlier build, which saves time; b"" starts one, None goes without (tensorrt_rtx has none).
        adjust: is given the builder's config last (tensorrt_rtx must be told its GPUs).
        name: of the graph in messages; None is that of its path.

    Raises:
        EngineError: a node that TensorRT cannot take, by name, operator and reason; or the build failed.
        UsageError: an option that this TensorRT does not have.
        KeyboardInterrupt: Ctrl-C, at the next step of the build; on 8.6, which asks nobody, when it is done.
    """
    started, name = time.perf_counter(), name or graph.name
    log, border = make_log(trt), read_border(graph)
    try:
        builder = trt.Builder(log)
    except (RuntimeError, TypeError) as error:  # what the bindings make of a null pointer
        raise EngineError(f"TensorRT {trt.__version__} does not start: {log.reason()}") from error
    network = _parse(trt, builder, graph, name, border, log)
    config = builder.create_builder_config()
    _set_precision(trt, network, config, precision)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the inspector tells types
    _set_compatibility(trt, config, options)
    log.start()
    if config.add_optimization_profile(_profile(builder, border, ranges)) < 0:
        raise EngineError(f"TensorRT {trt.__version__} takes no such ranges: {log.reason()} ({dict(ranges)})")
    cached = _set_timing_cache(config, timing_cache)
    with _held_back_interrupt() as interrupted:
        failures = _watch(trt, config, f"building {name} for TensorRT {trt.__version__}", tell, interrupted)
        adjust(config)
        log.start()
        plan = builder.build_serialized_network(network, config)
    if failures:
        raise failures[0]
    if plan is None:
        raise EngineError(f"TensorRT {trt.__version__} cannot build {name}: {log.reason()}")
    kept = bytes(memoryview(config.get_timing_cache().serialize())) if cached else b""
    return Built(bytes(memoryview(plan)), kept, time.perf_counter() - started)


def _parse(trt: Any, builder: Any, graph: Path, name: str, border: Border, log: Any) -> Any:
    kinds = trt.NetworkDefinitionCreationFlag
    typed = getattr(kinds, "STRONGLY_TYPED", None)
    network = builder.create_network(1 << int(kinds.EXPLICIT_BATCH if typed is None else typed))
    parser = trt.OnnxParser(network, log)
    log.start()
    if not parser.parse(graph.read_bytes()):
        errors = [_parser_error(parser.get_error(i), border) for i in range(parser.num_errors)]
        text = "; ".join(errors[:3]) or log.reason()
        raise EngineError(f"TensorRT {trt.__version__} does not take {name}: {text}")
    return network


def _parser_error(error: Any, border: Border) -> str:
    name, operator = border.nodes[error.node()] if 0 <= error.node() < len(border.nodes) else ("", "")
    where = f"node {name or error.node()} ({operator}): " if operator else ""
    return where + " ".join(error.desc().split())


def _set_precision(trt: Any, network: Any, config: Any, precision: str) -> None:
    flags = trt.BuilderFlag
    if hasattr(flags, "TF32"):  # on by default, and with 10 bits of mantissa no float32
        config.clear_flag(flags.TF32)
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return
    if precision == "int8":
        config.set_flag(flags.INT8)
    if precision == "fp16":
        config.set_flag(flags.FP16)
        config.set_flag(flags.OBEY_PRECISION_CONSTRAINTS)
        for index in range(network.num_layers):
            _bind(network.get_layer(index))


def _bind(layer: Any) -> None:
    """Hold a layer of a weakly typed network to the floating-point type that the graph gave its outputs."""
    outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
    floats = [tensor.dtype for tensor in outputs if tensor.is_execution_tensor and tensor.dtype.name in FLOATS]
    if layer.type.name in UNTYPED or not floats:
        return
    layer.precision = floats[0]
    for index, tensor in enumerate(outputs):
        if tensor.is_execution_tensor and tensor.dtype.name in FLOATS:
            layer.set_output_type(index, tensor.dtype)


def _set_compatibility(trt: Any, config: Any, options: BuildOptions) -> None:
    version = f"TensorRT {trt.__version__}"
    if options.hardware_compatible:
        level = getattr(getattr(trt, "HardwareCompatibilityLevel", None), "AMPERE_PLUS", None)
        if level is None:
            raise UsageError(f"--hardware-compatible: {version} has no such plans")
        config.hardware_compatibility_level = level
    if options.version_compatible:
        flag = getattr(trt.BuilderFlag, "VERSION_COMPATIBLE", None)
        if flag is None:
            raise UsageError(f"--version-compatible: {version} has no such plans")
        config.set_flag(flag)


def _profile(builder: Any, border: Border, ranges: Mapping[str, Range]) -> Any:
    if unknown := sorted(border.dims - ranges.keys()):
        raise EngineError(f"the graph has a dimension that this attri does not know ({', '.join(unknown)}): update it")
    profile = builder.create_optimization_profile()
    for tensor in border.inputs:
        if any(isinstance(dim, str) for dim in tensor.dims):
            each = [ranges[dim] if isinstance(dim, str) else (dim, dim, dim) for dim in tensor.dims]
            profile.set_shape(tensor.name, *(tuple(part) for part in zip(*each, strict=True)))
    return profile


def _set_timing_cache(config: Any, data: bytes | None) -> bool:
    """Whether a timing cache is in use. One of another GPU or version is not taken, and then one starts afresh."""
    for start in () if data is None else (data, b""):
        cache = config.create_timing_cache(start)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return True
    return False


@contextmanager
def _held_back_interrupt() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, and is raised at the end: inside TensorRT's callbacks it would be swallowed.

    Signals reach the main thread alone; in others, and where Ctrl-C is ignored, nothing changes.
    """
    interrupted, before = threading.Event(), signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield interrupted
        return
    signal.signal(signal.SIGINT, lambda number, frame: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted.is_set():
        raise KeyboardInterrupt


def _watch(trt: Any, config: Any, title: str, tell: Tell, interrupted: threading.Event) -> list[BaseException]:
    """Tell of a build's progress, and end it once `interrupted` is set; what it failed with comes to be in the list."""
    failures: list[BaseException] = []
    if not hasattr(config, "progress_monitor"):  # 8.6
        tell(f"{title}; it tells no progress, and Ctrl-C waits for its end")
        return failures

    class Progress(trt.IProgressMonitor):  # type: ignore[misc]  # the module is known at run time only
        """An exception must not cross TensorRT: it would be lost, or end the process."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.told = time.monotonic()

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            try:
                if time.monotonic() - self.told > TICK:
                    self.told = time.monotonic()
                    tell(f"{title}: {phase}, {step + 1} of {self.steps.get(phase, 0)}")
            except BaseException as error:
                failures.append(error)
            return not failures and not interrupted.is_set()

        def phase_finish(self, phase: str) -> None:
            pass

    tell(title)
    config.progress_monitor = Progress()
    return failures
