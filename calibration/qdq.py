"""Explicit int8 quantization: QuantizeLinear and DequantizeLinear around the products of transformer blocks.

    x ~ s (q - z),  q = clip(round(x / s) + z, least, greatest)

Weights are symmetric (z = 0) with a scale per output channel, activations have one scale per tensor, from
`attri.calibration.activation_ranges`.
Only products with a weight are quantized. Those of two activations (q k^T, attention v) stay float32: in S8S8 they cost
the pocket model more agreement than all weights together, and in ViT-B-32 they are a thirtieth of the time (our choice,
measured). Also float32 are the last projections, which are one row per image or label, norms, softmax, and all of
retrieval, which is every node that image_features does not depend on. Products return float32, to which biases are
added.

There are two flavours, because the two runtimes support different formats:
    U8S8  ONNX Runtime on CPUs: uint8 activations with a zero point. Weights use 7 bits, since processors without VNNI
          add pairs of products in 16 bits, where 255 * 127 * 2 overflows without a trace, and 255 * 64 * 2 does not.
          Convolution stays float32: ONNX Runtime's integer convolution returns integers.
    S8S8  TensorRT: int8 activations, symmetric, and weights of 8 bits. Without VNNI these overflow in ONNX Runtime's
          integer kernels: in the parity check ONNX Runtime computes this flavour in float32, alike on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from attri.calibration.activation_ranges import Feed
from attri.runtime.bundle import LABEL, TEXT, VISION
from attri.runtime.engines.onnxruntime import OrtEngine

PRODUCTS = ("MatMul", "Gemm", "Conv")
FEATURES = {VISION: "image_features", TEXT: "text_features", LABEL: "states"}  # the output that counts, of each graph
QUANTIZED = (VISION, TEXT)
QDQ = ("QuantizeLinear", "DequantizeLinear")
Layers = dict[str, list[str]]  # node names by layer


@dataclass(frozen=True)
class Flavour:
    """The int8 format of one runtime."""

    name: str
    symmetric: bool  # int8 activations around zero; else uint8 with a zero point
    operators: tuple[str, ...]
    integers: bool  # whether ONNX Runtime's integer kernels compute it correctly on every processor


U8S8 = Flavour("U8S8", False, ("MatMul", "Gemm"), True)
S8S8 = Flavour("S8S8", True, PRODUCTS, False)


def fold_weights(proto: onnx.ModelProto) -> None:
    """Fold Slice and Transpose of weights into the weights, in place, so that products read weights directly."""
    graph = proto.graph
    weights = {weight.name: weight for weight in graph.initializer}
    for node in list(graph.node):
        if node.op_type in ("Slice", "Transpose") and all(name in weights for name in node.input):
            inputs = {name: numpy_helper.to_array(weights[name]) for name in node.input}
            (folded,) = ReferenceEvaluator(node).run(None, inputs)
            weights[node.output[0]] = numpy_helper.from_array(np.ascontiguousarray(folded), node.output[0])
            graph.initializer.append(weights[node.output[0]])
            graph.node.remove(node)
    prune(graph)


def prune(graph: onnx.GraphProto) -> None:
    """Remove quantization nodes that nothing reads, then initializers that nothing reads."""
    while True:
        used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        idle = [node for node in graph.node if node.op_type in QDQ and node.output[0] not in used]
        if not idle:
            break
        kept = [node for node in graph.node if node.op_type not in QDQ or node.output[0] in used]
        del graph.node[:]
        graph.node.extend(kept)
    initializers = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend(initializers)


def needed(graph: onnx.GraphProto, output: str) -> set[str]:
    """Collect the names of the nodes that an output depends on."""
    producers = {name: node for node in graph.node for name in node.output}
    found: set[str] = set()
    todo = [output]
    while todo:
        node = producers.get(todo.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            todo += node.input
    return found


def depth(graph: onnx.GraphProto, operator: str) -> dict[str, int]:
    """Count, for each tensor, the nodes of this operator on the longest path to it."""
    result: dict[str, int] = {}
    for node in graph.node:  # ONNX keeps them in topological order
        above = max((result.get(name, 0) for name in node.input), default=0)
        result |= dict.fromkeys(node.output, above + (node.op_type == operator))
    return result


def layers(graph: onnx.GraphProto, output: str) -> Layers:
    """Group the products that may be quantized by layer: "patches", "block 0", "block 1", ...

    These are the products with a weight that `output` depends on. The tracer's names say little, and it merges equal
    weights: blocks are told apart by counting norms and softmaxes. CLIP's have two norms each, EVA02's four.
    """
    wanted, weights = needed(graph, output), {weight.name for weight in graph.initializer}
    norms, softmaxes = depth(graph, "LayerNormalization"), depth(graph, "Softmax")
    nodes = [
        node for node in graph.node if node.name in wanted and node.op_type in PRODUCTS and node.input[1] in weights
    ]
    first = min(norms[node.output[0]] for node in nodes if node.op_type != "Conv")
    norms_per_block = max(1, round((norms[output] - first) / max(1, softmaxes[output])))
    result: Layers = {}
    for node in nodes:
        block = (norms[node.output[0]] - first) // norms_per_block
        if node.op_type == "Conv":
            result.setdefault("patches", []).append(node.name)
        elif block < softmaxes[output]:  # the projection comes after the last block
            result.setdefault(f"block {block}", []).append(node.name)
    return result


def of_flavour(graph: onnx.GraphProto, found: Layers, flavour: Flavour) -> Layers:
    """Leave out operators that the flavour does not quantize, and layers that have no others."""
    kinds = {node.name: node.op_type for node in graph.node}
    chosen = {layer: [name for name in names if kinds[name] in flavour.operators] for layer, names in found.items()}
    return {layer: names for layer, names in chosen.items() if names}


def activations(graph: onnx.GraphProto, found: Layers) -> set[str]:
    """Name the activations that these layers read: the tensors whose ranges have to be measured."""
    chosen = {name for names in found.values() for name in names}
    return {node.input[0] for node in graph.node if node.name in chosen}


def quantize(
    proto: onnx.ModelProto, found: Layers, measured: Mapping[str, tuple[float, float]], flavour: Flavour
) -> onnx.ModelProto:
    """Quantize all these layers, by ONNX Runtime's quantizer.

    Args:
        proto: a float32 graph after `fold_weights`; it is not changed.
        found: the layers, of `of_flavour`.
        measured: least and greatest value of every tensor in `activations`.
        flavour: the format.
    """
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

    data = {name: (np.float32(low), np.float32(high)) for name, (low, high) in measured.items()}
    options = {
        "ActivationSymmetric": flavour.symmetric,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": list(PRODUCTS),
    }
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    quantizer: Any = QDQQuantizer(
        copy,
        True,  # a scale per output channel
        not flavour.symmetric,  # 7 bits
        QuantType.QInt8,
        QuantType.QInt8 if flavour.symmetric else QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, data),
        [name for names in found.values() for name in names],
        [],
        list(flavour.operators),
        options,
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    result: onnx.ModelProto = quantizer.model.model
    del result.metadata_props[:]
    del result.graph.value_info[:]
    result.producer_name, result.producer_version = proto.producer_name, proto.producer_version
    # The quantizer redirects every reader of a tensor; nodes that stay float32 get their original input back.
    chosen = {name for names in found.values() for name in names}
    return to_float32(result, proto, {node.name for node in proto.graph.node} - chosen)


def to_float32(quantized: onnx.ModelProto, proto: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Copy the int8 graph with these nodes put back to float32, as they are in `proto`."""
    back = set(names)
    inputs = {node.name: list(node.input) for node in proto.graph.node}
    result = onnx.ModelProto()
    result.CopyFrom(quantized)
    for node in result.graph.node:
        if node.name in back:
            node.input[:] = inputs[node.name]
    known = {weight.name for weight in result.graph.initializer}
    used = {name for node in result.graph.node for name in node.input}
    result.graph.initializer.extend(w for w in proto.graph.initializer if w.name in used - known)
    prune(result.graph)
    return result


@dataclass(frozen=True)
class Drift:
    """Change of a graph's outputs."""

    cosine: float  # mean of 1 - cosine of the features
    flips: float  # share of pool entries that differ


def sensitivity(
    proto: onnx.ModelProto,
    quantized: onnx.ModelProto,
    found: Layers,
    feeds: list[Feed],
    scratch: Path,
    flavour: Flavour,
) -> dict[str, Drift]:
    """Measure the drift that each layer causes when it alone is int8.

    Args:
        proto: the float32 graph.
        quantized: the same with all layers in int8.
        found: the layers.
        feeds: inputs to measure on.
        scratch: a folder for temporary files.
        flavour: of `quantized`.
    """
    everything = [name for names in found.values() for name in names]

    def outputs(candidate: onnx.ModelProto) -> list[list[NDArray[Any]]]:
        path = scratch / "candidate.onnx"
        path.write_bytes(candidate.SerializeToString())
        engine = OrtEngine(path, "cpu", integers=flavour.integers)
        return [engine.run(feed) for feed in feeds]

    reference = outputs(proto)
    return {
        layer: drift(reference, outputs(to_float32(quantized, proto, set(everything) - set(names))))
        for layer, names in found.items()
    }


def drift(reference: list[list[NDArray[Any]]], ours: list[list[NDArray[Any]]]) -> Drift:
    """Compare outputs run by run: unit features first, then retrieved pool entries where the graph has them."""
    pairs = list(zip(reference, ours, strict=True))
    cosine = np.concatenate([1 - (a[0].astype(np.float64) * b[0]).sum(-1).ravel() for a, b in pairs]).mean()
    flips = [np.mean(a[1] != b[1]) for a, b in pairs if len(a) > 1]
    return Drift(float(cosine), float(np.mean(flips)) if flips else 0.0)


def int8_initializers(proto: onnx.ModelProto) -> float:
    """Compute the share of the elements of all initializers that are int8."""
    sizes = [(int(np.prod(weight.dims)), weight.data_type) for weight in proto.graph.initializer]
    return sum(size for size, kind in sizes if kind == onnx.TensorProto.INT8) / sum(size for size, _ in sizes)


def int8_weights(graph: onnx.GraphProto, found: Layers, kept: Iterable[str] = ()) -> float:
    """Compute the share of the weights of the layers `found` that are int8 when the layers in `kept` are not."""
    size = {weight.name: int(np.prod(weight.dims)) for weight in graph.initializer}
    weight = {node.name: size.get(node.input[1], 0) for node in graph.node if node.op_type in PRODUCTS}
    sizes = {layer: sum(weight[name] for name in names) for layer, names in found.items()}
    return sum(size for layer, size in sizes.items() if layer not in set(kept)) / sum(sizes.values())
