"""Looking into a graph while it runs: what a classifier feeds it, its inner tensors, and the shapes of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from attri.runtime._util.cpus import usable_cpus
from attri.runtime.engines.base import Engine

Feed = dict[str, NDArray[Any]]


class Recorder:
    """An engine that remembers what it was given."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.description, self.limits = engine, engine.description, engine.limits
        self.feeds: list[Feed] = []

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        self.feeds.append(dict(inputs))
        return self.engine.run(inputs)

    def close(self) -> None:
        self.engine.close()


def session(proto: onnx.ModelProto, tensors: Sequence[str], optimize: bool = True) -> ort.InferenceSession:
    """The graph with these inner tensors as its last outputs; computed as written, or as ONNX Runtime improves it."""
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
    """What these inner tensors are on that input, and after them these outputs."""
    values: list[NDArray[Any]] = session(proto, tensors).run([*tensors, *outputs], feed)
    return values


def shapes(proto: onnx.ModelProto, tensors: Sequence[str], feed: Feed) -> dict[str, tuple[int, ...]]:
    """The shapes of these tensors on that input. Only shapes leave the graph: memory is that of an ordinary run."""
    asking = onnx.ModelProto()
    asking.CopyFrom(proto)
    names = [f"shape {number}" for number in range(len(tensors))]
    asking.graph.node.extend(
        onnx.helper.make_node("Shape", [tensor], [name]) for tensor, name in zip(tensors, names, strict=True)
    )
    found = inner(asking, names, feed)
    return {tensor: tuple(int(side) for side in np.atleast_1d(f)) for tensor, f in zip(tensors, found, strict=True)}
