"""What computes in half precision: matrix products, convolution and embeddings, weights and all.

Norms, softmax and retrieval compute in float32 (`attri.train.transformer` widens what it gets), so their weights stay.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import onnx
import torch
from torch import nn

from attri.calibration.int8 import PRODUCTS, needed
from attri.runtime.errors import FailedError

Module = TypeVar("Module", bound=nn.Module)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.float32}  # int8 is made from the float32 graph
KEPT = ("proj",)  # visual.proj also projects cluster centres, which are part of retrieval; it is cast where it is used
HALF = onnx.TensorProto.FLOAT16
FLOATS = (onnx.TensorProto.FLOAT, HALF, onnx.TensorProto.DOUBLE)


def in_precision(module: Module, precision: str) -> Module:
    """A copy of a tower whose products run in that precision: "fp32" or "fp16"."""
    module = copy.deepcopy(module)
    for child in module.modules():
        if isinstance(child, nn.LayerNorm):
            continue
        for name, parameter in child.named_parameters(recurse=False):
            if name not in KEPT:
                parameter.data = parameter.data.to(DTYPES[precision])
    return module


def float_types(proto: onnx.ModelProto) -> dict[str, int]:
    """The type of every floating-point tensor and initializer, by shape inference."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output, *graph.input)}
    types |= {weight.name: weight.data_type for weight in graph.initializer}
    return {name: kind for name, kind in types.items() if kind in FLOATS}


def half_shares(proto: onnx.ModelProto, name: str, output: str) -> dict[str, float]:
    """How much of a graph that is called fp16 is: of the elements of its initializers, and of its tensors.

    Args:
        name: of the graph, for messages.
        output: the features; products that they do not need are retrieval.

    Raises:
        FailedError: a product on the way to the features is not half, or one of retrieval is.
    """
    types, on_the_way = float_types(proto), needed(proto.graph, output)
    for node in proto.graph.node:
        if node.op_type in PRODUCTS and node.input[0] in types:
            is_half = {types.get(value) == HALF for value in (*node.input, *node.output)}
            if is_half != {node.name in on_the_way}:
                what = "a product is not half" if node.name in on_the_way else "retrieval is not float32"
                raise FailedError(f"{name} is not fp16 as it should be, {what} ({node.name}): nothing was written")
    weights = {weight.name: int(torch.Size(weight.dims).numel()) for weight in proto.graph.initializer}
    halves = sum(size for weight, size in weights.items() if types.get(weight) == HALF)
    tensors = [kind for tensor, kind in types.items() if tensor not in weights]
    return {
        "initializers": halves / sum(size for weight, size in weights.items() if weight in types),
        "tensors": tensors.count(HALF) / len(tensors),
    }
