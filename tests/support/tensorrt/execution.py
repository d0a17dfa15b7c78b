"""The stand-in's runtime: engines that compute with ONNX Runtime, at the addresses that they were given."""

from __future__ import annotations

import ctypes
import functools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from support.tensorrt.parts import MAGIC, TYPES, Held, Member, Module, attribute, dims

DESCRIPTIONS = {"FLOAT": "Float", "HALF": "Half", "INT8": "Row major Int8 format"}


class Runtime(Member):
    engine_host_code_allowed = attribute("host_code", False)

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


class ICudaEngine(Member):
    def __init__(self, about: dict[str, Any], model: bytes, logger: Any) -> None:
        proto = onnx.load_from_string(model)
        self.fake_about, self.fake_logger, self._held = about, logger, Held(self._trt, "engine")
        self.fake_session = _session(model)
        self.fake_inputs = {value.name: dims(value) for value in proto.graph.input}
        self.fake_outputs = {value.name: dims(value) for value in proto.graph.output}
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


class EngineInspector(Member):
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


class IExecutionContext(Member):
    def __init__(self, engine: Any) -> None:
        self._engine, self._held = engine, Held(self._trt, "context")
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


def _session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # TensorRT's int8 does not overflow
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
