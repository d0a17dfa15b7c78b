"""Build a TensorRT engine from an ONNX file, on the machine that will run it. Needs neither torch nor onnx.

Precision travels in the graph. TensorRT 10 and 11 build strongly typed networks, in which every tensor has the type
that the file gives it. 8.6 has no such networks and may pick any type that its flags allow: there each layer is bound
to the type of its outputs. Features are detected by name and never by version number.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attri.runtime._util.signals import defer_signals
from attri.runtime.bundle import Precision
from attri.runtime.engines.base import Progress
from attri.runtime.engines.signature import GraphSignature
from attri.runtime.engines.tensorrt.logger import make_log
from attri.runtime.errors import EngineError, UsageError

Range = tuple[int, int, int]  # least, most usual and greatest extent
CHECK_LABELS = 16  # number of labels that engines are verified with
TOKENS_PER_LABEL = 8  # suffix tokens that a label may have on average when the label set is full
TICK = 5.0  # seconds between lines of progress
_FLOATS = ("FLOAT", "HALF")
_UNTYPED = ("CONSTANT", "SHAPE", "CAST", "QUANTIZE", "DEQUANTIZE")  # layers whose types follow from their kind


@dataclass(frozen=True)
class BuildOptions:
    """What engines are built for.

    Attributes:
        max_batch: images at once.
        max_labels: labels at once; larger sets take several runs.
        max_entries: pool entries of a prompt, or of all prompts that run together.
        workspace: bytes that TensorRT may use beside weights; None is half of what is free.
        hardware_compatible: the engine runs on Ampere and newer GPUs, at some cost in speed.
        version_compatible: the engine runs with later TensorRT versions, at some cost in speed.

    Raises:
        UsageError: a maximum is too small.
    """

    max_batch: int = 4
    max_labels: int = 128
    max_entries: int = 256
    workspace: int | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise UsageError("`max_batch` must be at least 1")
        if self.max_labels < CHECK_LABELS:
            raise UsageError(f"`max_labels` must be at least {CHECK_LABELS}, on which engines are checked")

    def ranges(self, context_length: int) -> dict[str, Range]:
        """Ranges of the dynamic dimensions, by their names in the graphs.

        B are images, N pool entries, P prefix tokens, C labels, T suffix tokens of one label and R suffix tokens of all
        labels.

        Args:
            context_length: greatest number of tokens of a prompt.
        """
        tokens = max(context_length, TOKENS_PER_LABEL * self.max_labels)
        labels = min(self.max_labels, 100)
        return {
            "B": (1, 1, self.max_batch),
            "N": (1, min(16, self.max_entries), self.max_entries),
            "P": (1, min(5, context_length), context_length),
            "C": (1, labels, self.max_labels),
            "T": (1, min(4, context_length), context_length),
            "R": (1, min(4 * labels, tokens), tokens),
        }


@dataclass(frozen=True)
class BuiltEngine:
    """What a build returns.

    Attributes:
        serialized: the engine.
        timing_cache: kernel timings for later builds; b"" if none are kept.
        seconds: that the build took.
    """

    serialized: bytes
    timing_cache: bytes
    seconds: float


def build(
    trt: Any,
    graph: Path,
    signature: GraphSignature,
    precision: Precision,
    options: BuildOptions,
    ranges: Mapping[str, Range],
    *,
    workspace: int,
    timing_cache: bytes | None = b"",
    progress: Progress = lambda line: None,
    adjust: Callable[[Any], None] = lambda config: None,
    name: str | None = None,
) -> BuiltEngine:
    """Build an engine from one graph.

    Args:
        trt: the module `tensorrt`, or `tensorrt_rtx`.
        graph: the ONNX file.
        signature: its inputs and outputs.
        precision: "fp32", "fp16" or "int8", as the graph was exported; it is not changed here.
        options: portability of the engine.
        ranges: least, most usual and greatest extent of every dynamic dimension.
        workspace: bytes that TensorRT may use beside weights.
        timing_cache: of an earlier build, which saves time; b"" starts one, None uses none (tensorrt_rtx has none).
        progress: is given a line every few seconds.
        adjust: is given the builder's config last (tensorrt_rtx must be told its GPUs).
        name: of the graph in messages; None takes that of its path.

    Raises:
        EngineError: TensorRT does not take a node (named, with operator and reason), or the build failed.
        UsageError: this TensorRT does not have an option.
        KeyboardInterrupt: Ctrl-C was pressed. It ends the build at its next step; 8.6 has none, and ends it late.
    """
    started, name = time.perf_counter(), name or graph.name
    log = make_log(trt)
    try:
        builder = trt.Builder(log)
    except (RuntimeError, TypeError) as error:  # what the bindings make of a null pointer
        raise EngineError(f"TensorRT {trt.__version__} does not start: {log.reason()}") from error
    network = _parse(trt, builder, graph, name, log)
    config = builder.create_builder_config()
    _set_precision(trt, network, config, precision)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the inspector tells types
    _set_compatibility(trt, config, options)
    log.start()
    if config.add_optimization_profile(_profile(builder, signature, ranges)) < 0:
        raise EngineError(f"TensorRT {trt.__version__} takes no such ranges: {log.reason()} ({dict(ranges)})")
    cached = _set_timing_cache(config, timing_cache)
    with _held_back_interrupt() as interrupted:
        failures = _monitor(trt, config, f"building {name} for TensorRT {trt.__version__}", progress, interrupted)
        adjust(config)
        log.start()
        serialized = builder.build_serialized_network(network, config)
    if failures:
        raise failures[0]
    if serialized is None:
        raise EngineError(f"TensorRT {trt.__version__} cannot build {name}: {log.reason()}")
    kept = bytes(memoryview(config.get_timing_cache().serialize())) if cached else b""
    return BuiltEngine(bytes(memoryview(serialized)), kept, time.perf_counter() - started)


def _parse(trt: Any, builder: Any, graph: Path, name: str, log: Any) -> Any:
    kinds = trt.NetworkDefinitionCreationFlag
    typed = getattr(kinds, "STRONGLY_TYPED", None)
    network = builder.create_network(1 << int(kinds.EXPLICIT_BATCH if typed is None else typed))
    parser = trt.OnnxParser(network, log)
    log.start()
    if not parser.parse(graph.read_bytes()):
        errors = [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)]
        text = "; ".join(errors[:3]) or log.reason()
        raise EngineError(f"TensorRT {trt.__version__} does not take {name}: {text}")
    return network


def _parser_error(error: Any) -> str:
    where = ""
    if error.node() >= 0:
        named = hasattr(error, "node_name")  # from TensorRT 10 on
        where = f"node {error.node()}{f' {error.node_name()} ({error.node_operator()})' if named else ''}: "
    return where + " ".join(error.desc().split())


def _set_precision(trt: Any, network: Any, config: Any, precision: Precision) -> None:
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
    """Bind a layer of a weakly typed network to the floating-point type that the graph gave its outputs."""
    outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
    floats = [tensor.dtype for tensor in outputs if tensor.is_execution_tensor and tensor.dtype.name in _FLOATS]
    if layer.type.name in _UNTYPED or not floats:
        return
    layer.precision = floats[0]
    for index, tensor in enumerate(outputs):
        if tensor.is_execution_tensor and tensor.dtype.name in _FLOATS:
            layer.set_output_type(index, tensor.dtype)


def _set_compatibility(trt: Any, config: Any, options: BuildOptions) -> None:
    version = f"TensorRT {trt.__version__}"
    if options.hardware_compatible:
        level = getattr(getattr(trt, "HardwareCompatibilityLevel", None), "AMPERE_PLUS", None)
        if level is None:
            raise UsageError(f"`hardware_compatible`: {version} has no such engines")
        config.hardware_compatibility_level = level
    if options.version_compatible:
        flag = getattr(trt.BuilderFlag, "VERSION_COMPATIBLE", None)
        if flag is None:
            raise UsageError(f"`version_compatible`: {version} has no such engines")
        config.set_flag(flag)


def _profile(builder: Any, signature: GraphSignature, ranges: Mapping[str, Range]) -> Any:
    if unknown := sorted(signature.dims - ranges.keys()):
        raise EngineError(f"the graph has a dimension that this attri does not know ({', '.join(unknown)}): update it")
    profile = builder.create_optimization_profile()
    for tensor in signature.inputs:
        if any(isinstance(dim, str) for dim in tensor.dims):
            each = [ranges[dim] if isinstance(dim, str) else (dim, dim, dim) for dim in tensor.dims]
            profile.set_shape(tensor.name, *(tuple(part) for part in zip(*each, strict=True)))
    return profile


def _set_timing_cache(config: Any, data: bytes | None) -> bool:
    """Give the build a timing cache, an empty one if TensorRT refuses this one (of another GPU or version).

    Returns:
        Whether a timing cache is in use.
    """
    for start in () if data is None else (data, b""):
        cache = config.create_timing_cache(start)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return True
    return False


@contextmanager
def _held_back_interrupt() -> Iterator[Callable[[], int | None]]:
    """Defer Ctrl-C to the end of the block: inside TensorRT's callbacks, a KeyboardInterrupt would be swallowed.

    Where Ctrl-C is ignored, it stays ignored.

    Yields:
        A function that returns the signal's number, or None while there was none.

    Raises:
        KeyboardInterrupt: at the end of the block, if Ctrl-C was pressed in it.
    """
    numbers = [signal.SIGINT] if callable(signal.getsignal(signal.SIGINT)) else []
    with defer_signals(numbers, restore_on_first=False) as interrupted:
        yield interrupted
    if interrupted() is not None:
        raise KeyboardInterrupt


def _monitor(
    trt: Any, config: Any, title: str, progress: Progress, interrupted: Callable[[], int | None]
) -> list[BaseException]:
    """Report the progress of a build, and end it once `interrupted` returns a signal.

    Returns:
        A list that is filled during the build with what `progress` raised, which ends the build too.
    """
    failures: list[BaseException] = []
    if not hasattr(config, "progress_monitor"):  # 8.6
        progress(f"{title}; it tells no progress, and Ctrl-C waits for its end")
        return failures

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the module is known at run time only
        """An exception must not cross TensorRT: it would be lost, or end the process."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.reported = time.monotonic()

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps

        def step_complete(self, phase: str, step: int) -> bool:
            try:
                if time.monotonic() - self.reported > TICK:
                    self.reported = time.monotonic()
                    progress(f"{title}: {phase}, {step + 1} of {self.steps.get(phase, 0)}")
            except BaseException as error:
                failures.append(error)
            return not failures and interrupted() is None

        def phase_finish(self, phase: str) -> None:
            pass

    progress(title)
    config.progress_monitor = Monitor()
    return failures
