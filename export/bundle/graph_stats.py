"""Size of a graph: nodes by operator, constants, and multiply-adds of its matrix products and convolutions."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import onnx

from attri.calibration.qdq import PRODUCTS
from attri.export.graph.probe import Feed, shapes


def count(proto: onnx.ModelProto, feed: Feed) -> dict[str, Any]:
    """Measure a graph for parity.json.

    Args:
        proto: the graph.
        feed: inputs; the multiply-adds are those of a run on them.

    Returns:
        `nodes`: how many of each operator, most frequent first; `constants`: elements of all initializers; `inputs`:
        the shape of each input; `products`: multiply-adds of all MatMul, Gemm and Conv.
    """
    graph = proto.graph
    constants = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    products = [node for node in graph.node if node.op_type in PRODUCTS]
    tensors = {name for node in products for name in (node.input[0], node.input[1], node.output[0])} - constants.keys()
    known = {**constants, **shapes(proto, sorted(tensors), feed)}
    nodes = Counter(node.op_type for node in graph.node)
    return {
        "nodes": dict(sorted(nodes.items(), key=lambda item: (-item[1], item[0]))),
        "constants": sum(math.prod(dims) for dims in constants.values()),
        "inputs": {name: list(value.shape) for name, value in feed.items()},
        "products": sum(math.prod(known[node.output[0]]) * _depth(node, known) for node in products),
    }


def _depth(node: onnx.NodeProto, known: dict[str, tuple[int, ...]]) -> int:
    """Multiply-adds for one element of a product's output."""
    if node.op_type == "Conv":
        return math.prod(known[node.input[1]][1:])  # channels of the group times the kernel
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return known[node.input[0]][-2 if transposed else -1]
