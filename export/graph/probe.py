"""Inspect a running graph: the inputs that a classifier gives it, its inner tensors, and their shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from attri.runtime._util.cpus import usable_cpus
from attri.runtime.engines.base import Engine

__all__ = ["Feed", "Recorder", "inner", "session", "shapes"]

Feed = dict[str, NDArray[Any]]


class Recorder:
    """An engine that records its inputs."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.description = engine.description
        self.limits = engine.limits
        self.feeds: list[Feed] = []

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Record the inputs and run the engine."""
        self.feeds.append(dict(inputs))
        return self.engine.run(inputs)

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


def session(proto: onnx.ModelProto, tensors: Sequence[str], optimize: bool = True) -> ort.InferenceSession:
    """Open a graph with these inner tensors as additional, last, outputs.

    Args:
        proto: the graph.
        tensors: names.
        optimize: whether ONNX Runtime may optimize the graph.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    watched.graph.output.extend(onnx.ValueInfoProto(name=tensor) for tensor in tensors)
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, usable_cpus().count
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])


def inner(
    proto: onnx.ModelProto, tensors: Sequence[str], feed: Feed, outputs: Sequence[str] = ()
) -> list[NDArray[Any]]:
    """Compute these inner tensors, and after them these outputs, on one input."""
    values: list[NDArray[Any]] = session(proto, tensors).run([*tensors, *outputs], feed)
    return values


def shapes(proto: onnx.ModelProto, tensors: Sequence[str], feed: Feed) -> dict[str, tuple[int, ...]]:
    """Find the shapes of these tensors on one input. Only shapes are outputs: memory is that of an ordinary run."""
    shaped = onnx.ModelProto()
    shaped.CopyFrom(proto)
    names = [f"shape {number}" for number in range(len(tensors))]
    shaped.graph.node.extend(
        onnx.helper.make_node("Shape", [tensor], [name]) for tensor, name in zip(tensors, names, strict=True)
    )
    found = inner(shaped, names, feed)
    return {tensor: tuple(int(side) for side in np.atleast_1d(f)) for tensor, f in zip(tensors, found, strict=True)}
