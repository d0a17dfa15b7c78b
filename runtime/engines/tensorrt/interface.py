"""Checks of a TensorRT engine's inputs and outputs against the graph's signature, and of arrays against both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from attri.runtime.engines.signature import GraphSignature, TensorSpec
from attri.runtime.errors import EngineError

# NumPy's dtype by the name of the member of trt.DataType: trt.nptype raises for types that NumPy lacks.
DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT32": "int32",
    "INT64": "int64",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}
Ranges = Mapping[str, tuple[int, int]]


def check_engine(trt: Any, engine: Any, signature: GraphSignature) -> None:
    """Check that an engine has the graph's inputs and outputs, with their dtypes and fixed dimensions.

    A dimension that is dynamic in the graph may be fixed in the engine, if its profile leaves one extent only.

    Args:
        trt: the module `tensorrt`.
        engine: an ICudaEngine.
        signature: of the graph.

    Raises:
        EngineError: it is the engine of another graph.
    """
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    inputs = {name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
    for tensors, is_input in ((signature.inputs, True), (signature.outputs, False)):
        for tensor in tensors:
            known = tensor.name in names and (tensor.name in inputs) == is_input
            if not known or not _is_alike(engine, tensor):
                raise EngineError(f"the engine is of another graph, {tensor.name} differs: build it again")
    if unknown := set(names) - {tensor.name for tensor in (*signature.inputs, *signature.outputs)}:
        raise EngineError(f"the engine is of another graph, it has {', '.join(sorted(unknown))}: build it again")


def _is_alike(engine: Any, tensor: TensorSpec) -> bool:
    """Whether the engine's tensor has the dtype and the fixed dimensions of the graph's."""
    dims = tuple(engine.get_tensor_shape(tensor.name))
    return (
        DTYPES.get(engine.get_tensor_dtype(tensor.name).name) == tensor.dtype
        and len(dims) == len(tensor.dims)
        and all(isinstance(ours, str) or ours == dim for ours, dim in zip(tensor.dims, dims, strict=True))
    )


def profile_ranges(engine: Any, signature: GraphSignature) -> dict[str, tuple[int, int]]:
    """Least and greatest extent of each dynamic dimension, by its name, in the engine's first profile."""
    ranges: dict[str, tuple[int, int]] = {}
    for tensor in signature.inputs:
        if not any(isinstance(dim, str) for dim in tensor.dims):
            continue
        shape = tuple(engine.get_tensor_shape(tensor.name))
        least, most = shape, shape
        if -1 in shape:
            least, _, most = (tuple(each) for each in engine.get_tensor_profile_shape(tensor.name, 0))
        for dim, low, high in zip(tensor.dims, least, most, strict=True):
            if isinstance(dim, str):
                lowest, highest = ranges.get(dim, (low, high))
                ranges[dim] = max(low, lowest), min(high, highest)
    return ranges


def check_inputs(inputs: Mapping[str, NDArray[Any]], signature: GraphSignature, ranges: Ranges) -> None:
    """Check the arrays of a run.

    Args:
        inputs: arrays by name.
        signature: of the graph.
        ranges: least and greatest extent of each dynamic dimension.

    Raises:
        EngineError: an array is missing, unknown, of another dtype or number of dimensions, or outside the ranges.
    """
    names = [tensor.name for tensor in signature.inputs]
    if odd := set(names) ^ inputs.keys():
        raise EngineError(f"the engine reads {', '.join(names)}; missing or unknown: {', '.join(sorted(odd))}")
    extents: dict[str, int] = {}
    for tensor in signature.inputs:
        array = inputs[tensor.name]
        if array.dtype != tensor.dtype:
            raise EngineError(f"{tensor.name} is {array.dtype}, the engine reads {tensor.dtype}")
        _check_shape(tensor, array.shape, ranges, extents)


def _check_shape(tensor: TensorSpec, shape: tuple[int, ...], ranges: Ranges, extents: dict[str, int]) -> None:
    """Check one input; `extents` of dynamic dimensions in the inputs before it are kept and compared."""
    given = f"{tensor.name} is {list(shape)}"
    if len(shape) != len(tensor.dims):
        raise EngineError(f"{given}, the engine reads {list(tensor.dims)}")
    for dim, size in zip(tensor.dims, shape, strict=True):
        low, high = ranges[dim] if isinstance(dim, str) else (dim, dim)
        if not low <= size <= high:
            raise EngineError(
                f"{given}, its {dim} must be {low} to {high} in this engine: give less at once,"
                " or build it with a greater `max_batch` or `max_labels`"
            )
        if isinstance(dim, str) and extents.setdefault(dim, size) != size:
            raise EngineError(f"{given}, its {dim} is {extents[dim]} in another input")
