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
import functools
import importlib.machinery
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

MEMBERS = Path(__file__).parent / "members"
MAGIC = b"stand-in engine\n"
REJECTED = {"NonZero", "Unique"}  # of those that TensorRT does not take
TYPES = {1: "FLOAT", 10: "HALF", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 2: "UINT8"}
DESCRIPTIONS = {"FLOAT": "Float", "HALF": "Half", "INT8": "Row major Int8 format"}
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


def _attribute(key: str, value: Any = None) -> Any:
    """A plain attribute that may be set."""
    private = f"_{key}"
    return property(
        lambda self: getattr(self, private, value), lambda self, new: object.__setattr__(self, private, new)
    )


class _Held:
    """Device memory that goes when its owner goes."""

    def __init__(self, trt: Module, kind: str) -> None:
        self.trt, self.kind, self.at = trt, kind, ctypes.c_void_p()
        assert trt.cudart.cudaMalloc(ctypes.byref(self.at), ctypes.c_size_t(HELD)) == 0
        trt.live[kind] = trt.live.get(kind, 0) + 1

    def __del__(self) -> None:
        self.trt.cudart.cudaFree(self.at)
        self.trt.live[self.kind] -= 1


class _Member:
    """What `_class` adds to each class."""

    _trt: Module


class ILogger:
    def __init__(self) -> None:
        pass


class IProgressMonitor:
    def __init__(self) -> None:
        pass


class Builder(_Member):
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
        return _host_memory(trt, MAGIC + json.dumps(header).encode() + b"\n" + network.fake_model)


def _host_memory(trt: Module, data: bytes) -> Any:
    """IHostMemory lends its bytes to memoryview, which a Python class cannot before 3.12: an array of ctypes does."""
    array = ctypes.c_ubyte * len(data)
    body = {name: value for name, value in vars(trt.IHostMemory).items() if not name.startswith("__")}
    kind: Any = type("IHostMemory", (array,), body | {"nbytes": property(lambda self: len(data))})
    return kind.from_buffer_copy(data)


class INetworkDefinition(_Member):
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
            self.fake_inputs[value.name] = trt.ITensor(value.name, _dims(value), TYPES[kinds[value.name]])
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


class ITensor(_Member):
    def __init__(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        self._name, self._shape, self._dtype = name, shape, self._trt.DataType[dtype] if dtype != "INT64" else None

    name = property(lambda self: self._name)
    shape = property(lambda self: self._shape)
    is_execution_tensor = property(lambda self: self._dtype is not None)
    # 8.6 computes with int64 as int32.
    dtype = property(lambda self: self._trt.DataType.INT32 if self._dtype is None else self._dtype)


class ILayer(_Member):
    def __init__(self, node: onnx.NodeProto, outputs: list[Any]) -> None:
        self._name, self.fake_outputs, self.fake_types = node.name, outputs, {}
        self._type = self._trt.LayerType[LAYERS.get(node.op_type, "MATRIX_MULTIPLY")]

    name = property(lambda self: self._name)
    type = property(lambda self: self._type)
    num_outputs = property(lambda self: len(self.fake_outputs))
    precision = _attribute("precision")

    def get_output(self, index: int) -> Any:
        return self.fake_outputs[index]

    def set_output_type(self, index: int, dtype: Any) -> None:
        self.fake_types[index] = dtype


class OnnxParser(_Member):
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


class IBuilderConfig(_Member):
    def __init__(self) -> None:
        self.fake_flags, self.fake_profiles, self.fake_limits = {"TF32"}, [], {}

    profiling_verbosity = _attribute("verbosity")
    hardware_compatibility_level = _attribute("level", 0)
    progress_monitor = _attribute("monitor")

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


class ITimingCache(_Member):
    def __init__(self, data: bytes) -> None:
        self.fake_data, self.fake_entries = data, int(data.split(b"|")[1]) if data else 0

    def serialize(self) -> Any:
        return _host_memory(self._trt, repr(self._trt.gpu).encode() + b"|%d" % self.fake_entries)


class IOptimizationProfile:
    def __init__(self) -> None:
        self.fake_shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        assert all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True))
        self.fake_shapes[input] = [tuple(min), tuple(opt), tuple(max)]


class Runtime(_Member):
    engine_host_code_allowed = _attribute("host_code", False)

    def __init__(self, logger: Any) -> None:
        if self._trt.broken == "Runtime":
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger

    def deserialize_cuda_engine(self, serialized: bytes) -> Any:
        trt, fail = self._trt, lambda text: self._logger.log(self._logger.ERROR, text)
        if not serialized.startswith(MAGIC):
            return fail("Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed. Version tag mismatch")
        head, _, model = serialized[len(MAGIC) :].partition(b"\n")
        about = json.loads(head)
        if len(model) != about["size"]:
            return fail("Serialization assertion safeVersionRead == kSAFE_SERIALIZATION_VERSION failed")
        hardware, version = about["portable"]
        if about["version"] != trt.__version__ and not version:
            return fail(f"expecting library version {trt.__version__} got {about['version']}, please rebuild")
        if version and not self.engine_host_code_allowed:
            return fail("the engine contains host code, and engine_host_code_allowed is false")
        if tuple(about["gpu"]) != trt.gpu and not hardware:
            return fail(f"generated on an incompatible device, expecting {trt.gpu} got {tuple(about['gpu'])}")
        return trt.ICudaEngine(about, model, self._logger)


class ICudaEngine(_Member):
    def __init__(self, about: dict[str, Any], model: bytes, logger: Any) -> None:
        proto = onnx.load_from_string(model)
        self.fake_about, self.fake_logger, self._held = about, logger, _Held(self._trt, "engine")
        self.fake_session = _session(model)
        self.fake_inputs = {value.name: _dims(value) for value in proto.graph.input}
        self.fake_outputs = {value.name: _dims(value) for value in proto.graph.output}
        self.fake_names = {
            value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in (*proto.graph.input, *proto.graph.output)
        }
        self.fake_kinds = {v.name: v.type.tensor_type.elem_type for v in (*proto.graph.input, *proto.graph.output)}

    @property
    def num_io_tensors(self) -> int:
        return len(self.fake_names)

    def get_tensor_name(self, index: int) -> str:
        return list(self.fake_names)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self._trt.TensorIOMode.INPUT if name in self.fake_inputs else self._trt.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self._trt.DataType[TYPES[self.fake_kinds[name]]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        dims = self.fake_inputs[name] if name in self.fake_inputs else self.fake_outputs[name]
        if not self._trt.fixing:
            return dims
        only = {
            name: least
            for tensor, (shape, _, most) in self.fake_about["profile"].items()
            for name, least, greatest in zip(self.fake_names[tensor], shape, most, strict=True)
            if least == greatest
        }
        return tuple(only.get(name, dim) for name, dim in zip(self.fake_names[name], dims, strict=True))

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [tuple(each) for each in self.fake_about["profile"][name]]

    def create_execution_context(self) -> Any:
        if self._trt.broken == "context":
            return self.fake_logger.log(
                self.fake_logger.ERROR, "Error Code 2: OutOfMemory (Requested size was 1 bytes)"
            )
        return self._trt.IExecutionContext(self)

    def create_engine_inspector(self) -> Any:
        return self._trt.EngineInspector(self)


class EngineInspector(_Member):
    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def get_engine_information(self, format: Any) -> str:
        about = self._engine.fake_about
        if not about["detailed"]:
            return json.dumps({"Layers": ["a layer", "another"]})  # names only
        outputs = [{"Format/Datatype": DESCRIPTIONS.get(kind, "Int32")} for kind in about["types"]]
        if self._trt.fused:
            name = "{ForeignNode[product...to_int32]}"
            return json.dumps({"Layers": [{"Name": name, "LayerType": "Myelin", "Outputs": outputs[-1:]}]})
        return json.dumps({"Layers": [{"Outputs": [output]} for output in outputs]})


class IExecutionContext(_Member):
    def __init__(self, engine: Any) -> None:
        self._engine, self._held = engine, _Held(self._trt, "context")
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._calls: list[Callable[[], None]] = []

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.fake_about["profile"].get(name, [self._engine.fake_inputs[name]] * 3)
        fits = len(shape) == len(least) and all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))
        if not fits or self._trt.broken == "set_input_shape":
            logger = self._engine.fake_logger
            logger.log(logger.ERROR, f"Error Code 3: API Usage Error (the shape {shape} is not in the profile)")
            return False
        self._shapes[name] = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        if self._trt.broken == "infer_shapes":
            raise RuntimeError("infer_shapes failed")
        missing = [name for name in self._engine.fake_inputs if name not in self._shapes]
        if not missing:
            names = self._engine.fake_names
            self._extents = {
                dim: size
                for name in self._engine.fake_inputs
                for dim, size in zip(names[name], self._shapes[name], strict=True)
            }
        return missing

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._engine.fake_inputs:
            return self._shapes[name]
        return tuple(self._extents.get(dim, dim) for dim in self._engine.fake_names[name])

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return self._trt.broken != "set_tensor_address"

    def execute_async_v3(self, stream_handle: int) -> bool:
        trt, stream = self._trt, ctypes.c_void_p(stream_handle)
        if trt.cudart.fake_capturing(stream) and not trt.capturable:
            trt.cudart.fake_invalidate(stream)
            return False
        if trt.broken == "execute_async_v3" or set(self._addresses) != set(self._engine.fake_names):
            logger = self._engine.fake_logger
            logger.log(logger.ERROR, "Error Code 1: Cuda Runtime (an illegal memory access was encountered)")
            return False
        call = CALL(functools.partial(_compute, trt, self._engine, dict(self._shapes), dict(self._addresses)))
        self._calls.append(call)  # a graph may call it for as long as the context lives
        trt.cudart.fake_enqueue(stream, call)
        return True


CALL = ctypes.CFUNCTYPE(None)


def _compute(trt: Module, engine: Any, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
    feeds = {name: _at(addresses[name], shape, engine.fake_kinds[name]).copy() for name, shape in shapes.items()}
    names = list(engine.fake_outputs)
    for name, value in zip(names, engine.fake_session.run(names, feeds), strict=True):
        skewed = value + np.float32(trt.skew) * np.arange(value.shape[-1], dtype=np.float32)
        _at(addresses[name], value.shape, engine.fake_kinds[name])[...] = skewed if value.dtype == np.float32 else value


def _at(address: int, shape: tuple[int, ...], kind: int) -> Any:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    size = int(np.prod(shape)) * dtype.itemsize
    memory: Any = (ctypes.c_byte * size).from_address(address)
    return np.frombuffer(memory, dtype).reshape(shape)


def _dims(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim)


def _session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # TensorRT's int8 does not overflow
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


IMPLEMENTED = {
    kind.__name__: kind
    for kind in (
        ILogger, IProgressMonitor, Builder, INetworkDefinition, ITensor, ILayer, OnnxParser, ParserError,
        IBuilderConfig, ITimingCache, IOptimizationProfile, Runtime, ICudaEngine, EngineInspector, IExecutionContext,
    )
}  # fmt: skip
