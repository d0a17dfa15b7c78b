"""Small graphs with every kind of input and output that ours have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from attri.export.graph.signature import signature_of
from attri.runtime.engines.signature import GraphSignature

RANGES = {"B": (1, 1, 4), "C": (1, 3, 6)}
WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4) / 8


def write(path: Path, half: bool = False, operator: str = "Softmax") -> Path:
    """pixels float32 [B, 3], places int32 [C] -> scores float32 [B, C], best int32 [B]"""
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    axis: dict[str, Any] = {"axis": -1} if operator == "Softmax" else {}
    nodes = [
        helper.make_node("Cast", ["pixels"], ["x"], "narrow", to=kind),
        helper.make_node("MatMul", ["x", "weights"], ["product"], "product"),
        helper.make_node("Gather", ["product", "places"], ["gathered"], "gather", axis=1),
        helper.make_node("Add", ["gathered", "gathered"], ["twice"], "twice"),
        helper.make_node("Cast", ["twice"], ["wide"], "widen", to=TensorProto.FLOAT),
        helper.make_node(operator, ["wide"], ["scores"], "last", **axis),
        helper.make_node("ArgMax", ["wide"], ["index"], "argmax", axis=1, keepdims=0),
        helper.make_node("Cast", ["index"], ["best"], "to_int32", to=TensorProto.INT32),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [
            helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["B", 3]),
            helper.make_tensor_value_info("places", TensorProto.INT32, ["C"]),
        ],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", "C"]),
            helper.make_tensor_value_info("best", TensorProto.INT32, ["B"]),
        ],
        [onnx.numpy_helper.from_array(WEIGHTS.astype(np.float16 if half else np.float32), "weights")],
    )
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    return path


def signature(path: Path) -> GraphSignature:
    """Of a graph in a file."""
    return signature_of(onnx.load(path))


def expected(pixels: np.ndarray, places: np.ndarray) -> list[np.ndarray]:
    """The same with NumPy."""
    twice = (pixels @ WEIGHTS)[:, places] * 2
    exponents = np.exp(twice - twice.max(1, keepdims=True))
    return [exponents / exponents.sum(1, keepdims=True), twice.argmax(1).astype(np.int32)]


def inputs(seed: int, batch: int = 2, classes: int = 3) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    pixels = random.normal(size=(batch, 3)).astype(np.float32)
    return {"pixels": pixels, "places": random.integers(0, 4, classes).astype(np.int32)}
