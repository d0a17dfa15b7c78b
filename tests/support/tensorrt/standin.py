"""TensorRT without a GPU, for the tests: the members of the real bindings of a version, computing with ONNX Runtime.

`bindings(version)` makes a module. What the real bindings of that version lack raises AttributeError, also when it is
set; what they have and nobody needed here raises NotImplementedError. What one stand-in knows of another, and a test
may ask, has a name of its own, fake_..., which no bindings have. Memory is that of cudart.c beside this file:
engines and contexts hold some, as the real ones do, and a run reads and writes at the addresses that it was given,
when the stream is synchronized. Versions, GPUs, profiles and types are checked as TensorRT's documentation says.
"""

from __future__ import annotations

import ctypes
import enum
import importlib.machinery
import json
from pathlib import Path
from typing import Any

import onnx
from support.tensorrt.execution import EngineInspector, ICudaEngine, IExecutionContext, Runtime
from support.tensorrt.parts import MAGIC, TYPES, Member, Module, attribute, dims, host_memory

MEMBERS = Path(__file__).parent / "members"
REJECTED = {"NonZero", "Unique"}  # of those that TensorRT does not take
LAYERS = {
    "Constant": "CONSTANT",
    "Shape": "SHAPE",
    "Cast": "CAST",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
    "Softmax": "SOFTMAX",
}
FIXED = ("CONSTANT", "CAST", "QUANTIZE", "DEQUANTIZE")  # layers that bring their type with them
FREE = ("_", "fake_")  # names that are ours, whatever the bindings of a version list


def bindings(version: str, cudart: ctypes.CDLL) -> Module:
    names = json.loads((MEMBERS / f"{version}.json").read_text())
    module = Module("tensorrt")
    module.__version__, module.__spec__ = version, importlib.machinery.ModuleSpec("tensorrt", None)
    module.cudart, module.live = cudart, {}
    for name, members in names["enums"].items():
        setattr(module, name, enum.IntEnum(name, members))
    for name, members in names["classes"].items():
        setattr(module, name, _class(module, name, set(members)))
    for name in ("ERROR", "INTERNAL_ERROR", "WARNING", "INFO", "VERBOSE"):
        setattr(module.ILogger, name, name)
    return module


def _class(module: Module, name: str, listed: set[str]) -> type:
    """A class with the listed members and no others but ours."""
    source = IMPLEMENTED.get(name, type(name, (), {}))
    body = {key: value for key, value in vars(source).items() if key in listed or key.startswith(FREE)}
    body |= {key: _missing(f"{name}.{key}") for key in listed - body.keys()}
    for key in ("__dict__", "__weakref__"):
        body.pop(key, None)

    def set_listed(self: object, key: str, value: object) -> None:
        # Subclasses of ours (loggers, monitors) are Python classes, and may hold what they like.
        if type(self).__name__ == name and key not in listed and not key.startswith(FREE):
            raise AttributeError(f"{name} has no attribute {key!r}")
        object.__setattr__(self, key, value)

    return type(name, (), body | {"__setattr__": set_listed, "_trt": module})


def _missing(name: str) -> property:
    def fail(self: object) -> None:
        raise NotImplementedError(f"the stand-in has no {name}")

    return property(fail)


class ILogger:
    def __init__(self) -> None:
        pass


class IProgressMonitor:
    def __init__(self) -> None:
        pass


class Builder(Member):
    def __init__(self, logger: Any) -> None:
        if self._trt.broken == "Builder":
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    def create_network(self, flags: int = 0) -> Any:
        kinds = self._trt.NetworkDefinitionCreationFlag
        explicit = getattr(kinds, "EXPLICIT_BATCH", None)
        if explicit is not None and not hasattr(kinds, "STRONGLY_TYPED"):
            assert flags == 1 << explicit, "before 10 a network without EXPLICIT_BATCH has an implicit one"
        return self._trt.INetworkDefinition(self._trt, typed=bool(flags & 1 << getattr(kinds, "STRONGLY_TYPED", 31)))

    def create_builder_config(self) -> Any:
        return self._trt.IBuilderConfig()

    def create_optimization_profile(self) -> Any:
        return self._trt.IOptimizationProfile()

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        trt = self._trt
        trt.builds += 1
        monitor = getattr(config, "progress_monitor", None)
        if monitor is not None:
            monitor.phase_start("Building engine", None, 2)
            go = all(monitor.step_complete("Building engine", step) for step in range(2))
            monitor.phase_finish("Building engine")
            if not go:
                return None
        if trt.broken == "build":
            self._logger.log(self._logger.ERROR, "Error Code 10: Internal Error (Could not find any implementation)")
            if trt.__version__ == "8.6.1":
                self._logger.log(self._logger.ERROR, "Error Code 2: Internal Error (engine != nullptr failed)")
            return None
        (profile,) = config.fake_profiles
        for tensor in network.fake_inputs.values():
            if -1 in tensor.shape:
                assert tensor.name in profile.fake_shapes, f"{tensor.name} is dynamic and has no profile"
        config.fake_cache.fake_entries += 1
        header = {
            "size": len(network.fake_model),
            "version": trt.__version__,
            "gpu": trt.gpu,
            "profile": profile.fake_shapes,
            "types": network.fake_realized(config),
            "detailed": config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED,
            "portable": [bool(config.hardware_compatibility_level), "VERSION_COMPATIBLE" in config.fake_flags],
        }
        return host_memory(trt, MAGIC + json.dumps(header).encode() + b"\n" + network.fake_model)


class INetworkDefinition(Member):
    def __init__(self, trt: Module, typed: bool) -> None:
        self.fake_typed, self.fake_model, self.fake_layers, self.fake_inputs = typed, b"", [], {}

    @property
    def num_layers(self) -> int:
        return len(self.fake_layers)

    def get_layer(self, index: int) -> Any:
        return self.fake_layers[index]

    def fake_load(self, model: onnx.ModelProto) -> None:
        self.fake_model = model.SerializeToString()
        graph = onnx.shape_inference.infer_shapes(model).graph
        kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
        trt = self._trt
        for value in graph.input:
            self.fake_inputs[value.name] = trt.ITensor(value.name, dims(value), TYPES[kinds[value.name]])
        for node in graph.node:
            outputs = [trt.ITensor(name, (), TYPES[kinds[name]]) for name in node.output if name in kinds]
            self.fake_layers.append(trt.ILayer(node, outputs))

    def fake_realized(self, config: Any) -> list[str]:
        """The types of all layers' outputs in the engine."""
        flags = config.fake_flags
        if self.fake_typed:
            return [tensor.dtype.name for layer in self.fake_layers for tensor in layer.fake_outputs]
        types = []
        for layer in self.fake_layers:
            for index, tensor in enumerate(layer.fake_outputs):
                name = tensor.dtype.name
                if name in ("FLOAT", "HALF") and layer.type.name not in FIXED:
                    free = "HALF" if "FP16" in flags else "FLOAT"
                    bound = "OBEY_PRECISION_CONSTRAINTS" in flags and index in layer.fake_types
                    name = layer.fake_types[index].name if bound else free
                if name == "INT8" and "INT8" not in flags:
                    name = "FLOAT"
                types.append(name)
        return types


class ITensor(Member):
    def __init__(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        self._name, self._shape, self._dtype = name, shape, self._trt.DataType[dtype] if dtype != "INT64" else None

    name = property(lambda self: self._name)
    shape = property(lambda self: self._shape)
    is_execution_tensor = property(lambda self: self._dtype is not None)
    # 8.6 computes with int64 as int32.
    dtype = property(lambda self: self._trt.DataType.INT32 if self._dtype is None else self._dtype)


class ILayer(Member):
    def __init__(self, node: onnx.NodeProto, outputs: list[Any]) -> None:
        self._name, self.fake_outputs, self.fake_types = node.name, outputs, {}
        self._type = self._trt.LayerType[LAYERS.get(node.op_type, "MATRIX_MULTIPLY")]

    name = property(lambda self: self._name)
    type = property(lambda self: self._type)
    num_outputs = property(lambda self: len(self.fake_outputs))
    precision = attribute("precision")

    def get_output(self, index: int) -> Any:
        return self.fake_outputs[index]

    def set_output_type(self, index: int, dtype: Any) -> None:
        self.fake_types[index] = dtype


class OnnxParser(Member):
    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._logger, self._errors = network, logger, []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def parse(self, model: bytes, path: str | None = None) -> bool:
        proto = onnx.load_from_string(model)
        for index, node in enumerate(proto.graph.node):
            if node.domain or node.op_type in REJECTED:
                self._errors.append(self._trt.ParserError(index, node))
        if not self._errors:
            self._network.fake_load(proto)
        return not self._errors


class ParserError:
    def __init__(self, index: int, node: onnx.NodeProto) -> None:
        self._index, self._node = index, node

    def node(self) -> int:
        return self._index

    def node_name(self) -> str:
        return self._node.name

    def node_operator(self) -> str:
        return self._node.op_type

    def desc(self) -> str:
        return f"No importer registered for op: {self._node.op_type}"


class IBuilderConfig(Member):
    def __init__(self) -> None:
        self.fake_flags, self.fake_profiles, self.fake_limits = {"TF32"}, [], {}

    profiling_verbosity = attribute("verbosity")
    hardware_compatibility_level = attribute("level", 0)
    progress_monitor = attribute("monitor")

    def set_flag(self, flag: Any) -> None:
        self.fake_flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self.fake_flags.discard(flag.name)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.fake_limits[pool.name] = size

    def add_optimization_profile(self, profile: Any) -> int:
        self.fake_profiles.append(profile)
        return len(self.fake_profiles) - 1

    def create_timing_cache(self, data: bytes) -> Any:
        return self._trt.ITimingCache(data)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        if cache.fake_data and cache.fake_data.split(b"|")[0] != repr(self._trt.gpu).encode() and not ignore_mismatch:
            return False
        self.fake_cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.fake_cache


class ITimingCache(Member):
    def __init__(self, data: bytes) -> None:
        self.fake_data, self.fake_entries = data, int(data.split(b"|")[1]) if data else 0

    def serialize(self) -> Any:
        return host_memory(self._trt, repr(self._trt.gpu).encode() + b"|%d" % self.fake_entries)


class IOptimizationProfile:
    def __init__(self) -> None:
        self.fake_shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        assert all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True))
        self.fake_shapes[input] = [tuple(min), tuple(opt), tuple(max)]


IMPLEMENTED = {
    kind.__name__: kind
    for kind in (
        ILogger, IProgressMonitor, Builder, INetworkDefinition, ITensor, ILayer, OnnxParser, ParserError,
        IBuilderConfig, ITimingCache, IOptimizationProfile, Runtime, ICudaEngine, EngineInspector, IExecutionContext,
    )
}  # fmt: skip
