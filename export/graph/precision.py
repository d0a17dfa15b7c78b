"""Half precision: matrix products, convolution and embeddings are fp16, and a graph is checked to stay in its range.

Norms, softmax and retrieval compute in float32 (`attri.train.model.blocks` casts their inputs), so their weights stay
float32.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from attri.calibration.activation_ranges import Feed, Samples, label_tokens
from attri.calibration.qdq import FEATURES, PRODUCTS, needed
from attri.export.graph.probe import session
from attri.runtime.bundle import LABEL, TEXT, VISION, Bundle, Precision
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.errors import FailedError
from attri.runtime.preprocess import Preprocess
from attri.runtime.text.label_inputs import LABELS
from attri.runtime.text.padded_tokens import PaddedTokens

__all__ = ["DTYPES", "extreme_images", "half_peak", "half_report", "half_shares", "in_precision"]

Module = TypeVar("Module", bound=nn.Module)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.float32}  # int8 is made from the float32 graph
HALF = onnx.TensorProto.FLOAT16
PEAK_IMAGES = 4  # that the range is checked on, beside artificial extremes (our choice)
FLOATS = (onnx.TensorProto.FLOAT, HALF, onnx.TensorProto.DOUBLE)


def in_precision(module: Module, precision: Precision) -> Module:
    """Copy a tower, with the weights of its products in that precision: "fp32" or "fp16"."""
    module = copy.deepcopy(module)
    for child in module.modules():
        if isinstance(child, nn.LayerNorm):
            continue
        parameters = list(child.parameters(recurse=False))
        buffers = child.buffers(recurse=False) if parameters else ()  # a bias of zeros, say; positions stay float32
        for tensor in (*parameters, *(buffer for buffer in buffers if buffer.is_floating_point())):
            tensor.data = tensor.data.to(DTYPES[precision])
    return module


def _float_types(proto: onnx.ModelProto) -> dict[str, int]:
    """Find the type of every floating-point tensor and initializer, by shape inference."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output, *graph.input)}
    types |= {weight.name: weight.data_type for weight in graph.initializer}
    return {name: kind for name, kind in types.items() if kind in FLOATS}


def half_report(bundle: Bundle, preprocess: Preprocess, pixels: NDArray[np.float32]) -> dict[str, Any]:
    """Check that all graphs are fp16 and do not overflow.

    Args:
        bundle: may be unfinished.
        preprocess: of the model.
        pixels: real images [I, 3, S, S], of which a few are run, beside artificial extremes.

    Returns:
        The figures for the manifest.

    Raises:
        FailedError: a graph is not fp16, or overflows.
    """
    protos = {name: onnx.load(bundle.file(name)) for name in bundle.graph_files}
    graphs: dict[str, dict[str, float]] = {name: half_shares(protos[name], name, FEATURES[name]) for name in protos}
    extremes = [preprocess(image) for image in extreme_images(preprocess.size)]
    some = np.stack([*extremes, *pixels[:PEAK_IMAGES]])
    prompt = bundle.prompt
    retrieved = OrtEngine(bundle.file(VISION), "cpu").run({"pixels": some, **prompt.vision_inputs})[1]
    entries = np.unique(retrieved, axis=0)
    labels, inputs = label_tokens(bundle)
    samples = Samples([], preprocess, prompt, entries, labels, inputs)
    feeds: Iterator[Feed] = ({"pixels": one[None], **prompt.vision_inputs} for one in some)
    graphs[VISION]["peak"] = half_peak(protos[VISION], VISION, feeds)
    graphs[TEXT]["peak"] = half_peak(protos[TEXT], TEXT, samples.text())
    if isinstance(labels, PaddedTokens):
        parts = np.array_split(np.arange(len(labels)), range(LABELS, len(labels), LABELS))
        feeds = (labels.take(part).feed(bundle.token_embedding()) for part in parts)
        graphs[LABEL]["peak"] = half_peak(protos[LABEL], LABEL, feeds)
    return {"graphs": graphs}


def half_shares(proto: onnx.ModelProto, name: str, output: str) -> dict[str, float]:
    """Compute the share of a graph that is fp16: of the elements of its initializers, and of its tensors.

    Args:
        proto: the graph.
        name: of the graph, for messages.
        output: the features; products that they do not depend on are retrieval.

    Raises:
        FailedError: a product that the features depend on is not half, or one of retrieval is.
    """
    types, on_the_way = _float_types(proto), needed(proto.graph, output)
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


def half_peak(proto: onnx.ModelProto, name: str, feeds: Iterable[Feed]) -> float:
    """Find the greatest magnitude in any half tensor of a graph on these inputs; half ends at 65504.

    On a CPU, ONNX Runtime computes half in float32 and rounds only outputs: parity there proves nothing about overflow.
    Here every half tensor is an output, and is infinite where it would overflow on a GPU.

    Raises:
        FailedError: a tensor overflows.
    """
    types = _float_types(proto)
    tensors = [value for node in proto.graph.node for value in node.output if types.get(value) == HALF]
    running = session(proto, tensors, optimize=False)
    peak = 0.0
    for feed in feeds:
        for tensor, value in zip(tensors, running.run(tensors, feed), strict=True):
            greatest = float(np.abs(value).max(initial=0))
            if not greatest < np.inf:  # also NaN
                raise FailedError(f"{name} overflows half precision ({tensor}): use fp32; nothing was written")
            peak = max(peak, greatest)
    return peak


def extreme_images(size: int) -> list[NDArray[np.uint8]]:
    """Make black, white, checkerboard, saturated and noise images, uint8 [size, size, 3]."""
    row, column = np.indices((size, size))
    checkerboard = ((row // 8 + column // 8) % 2 * 255)[..., None].repeat(3, 2)
    saturated = np.stack([row * 2 // size, column * 2 // size, 1 - row * 2 // size], -1) * 255
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3))
    flat = [np.full((size, size, 3), value) for value in (0, 255)]
    return [image.astype(np.uint8) for image in (*flat, checkerboard, saturated, noise)]
