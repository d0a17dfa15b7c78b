"""Trace the graphs to ONNX, with dynamic batch and label dimensions."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from attri.export.graph.exporter import export
from attri.export.graph.modules import ExplainGraph, LabelGraph, VisionGraph, text_graph
from attri.export.graph.opset import TRACER_OPSET, to_opset_17
from attri.runtime.bundle import Precision
from attri.runtime.errors import FailedError
from attri.runtime.text.label_tokens import LabelTokens
from attri.train.model import AttriPrompt

__all__ = [
    "assert_signature",
    "strip_metadata",
    "trace",
    "trace_explain",
    "trace_label",
    "trace_text",
    "trace_vision",
]

Inputs = dict[str, tuple[torch.Tensor, dict[int, Any]]]  # by name, an example and its dynamic dimensions

EXAMPLE_ENTRIES = 7  # of a pool while tracing: no other dimension has this extent
MAX_BYTES = 2**31 - 1  # that protobuf writes


def trace_vision(model: AttriPrompt, precision: Precision, opset: int) -> onnx.ModelProto:
    """Trace the vision graph; see `VisionGraph` for its inputs and outputs."""
    side, joint = model.backbone.preprocess().size, model.backbone.joint_width
    batch, entries = torch.export.Dim("B", min=1), torch.export.Dim("N", min=model.config.topk)
    # A batch of 1 in the example would be frozen into the graph.
    inputs = {
        "pixels": (torch.zeros(2, 3, side, side), {0: batch}),
        "keys": (torch.zeros(model.depth, joint, EXAMPLE_ENTRIES), {2: entries}),
    }
    shapes: dict[str, list[Any]] = {
        "pixels": ["B", 3, side, side],
        "keys": [model.depth, joint, "N"],
        "image_features": ["B", joint],
        "retrieved": ["B", model.depth, model.config.retrieved],
        "scores": ["B", model.depth, model.config.clusters, "N"],
    }
    return trace(VisionGraph(model, precision), inputs, ["image_features", "retrieved", "scores"], shapes, opset)


def trace_explain(model: AttriPrompt, opset: int) -> onnx.ModelProto:
    """Trace the graph of explanations; see `ExplainGraph` for its input and outputs. Raises UsageError likewise."""
    side, joint = model.backbone.preprocess().size, model.backbone.joint_width
    inputs: Inputs = {"pixels": (torch.zeros(2, 3, side, side), {0: torch.export.Dim("B", min=1)})}
    shapes: dict[str, list[Any]] = {
        "pixels": ["B", 3, side, side],
        "patches": ["B", *model.vision.tower.grid, joint],
        "rest": ["B", joint],
    }
    return trace(ExplainGraph(model), inputs, ["patches", "rest"], shapes, opset)


def trace_text(model: AttriPrompt, precision: Precision, opset: int) -> onnx.ModelProto:
    """Trace the text graph; see `TextGraph` and `StatesGraph` for its inputs and outputs."""
    B, N = (torch.export.Dim(name, min=1) for name in "BN")
    width, config, depth = model.text.positional_embedding.shape[1], model.config, model.depth
    inputs: Inputs = {
        "retrieved": (torch.zeros(2, depth, config.retrieved, dtype=torch.int32), {0: B}),
        "prompt_table": (torch.zeros(depth, EXAMPLE_ENTRIES, config.prompt_length, 2 * width), {1: N}),
    }
    shapes: dict[str, list[Any]] = {
        "retrieved": ["B", depth, config.retrieved],
        "prompt_table": [depth, "N", config.prompt_length, 2 * width],
        "static_table": [depth, config.static_tokens, 2 * width],
        "text_features": ["B", "C", model.backbone.joint_width],
    }
    of_labels, their_shapes = _packed_labels(width) if model.text.causal else _states_of_labels(model, width)
    inputs |= of_labels
    if config.static_tokens:  # a graph takes no empty input
        inputs["static_table"] = (torch.zeros(depth, config.static_tokens, 2 * width), {})
    return trace(text_graph(model, precision), inputs, ["text_features"], shapes | their_shapes, opset)


def trace_label(model: AttriPrompt, precision: Precision, opset: int) -> onnx.ModelProto:
    """Trace the label graph of a text tower that is not causal; see `LabelGraph` for its input and output."""
    length, width = model.text.positional_embedding.shape
    inputs: Inputs = {"tokens": (torch.zeros(3, length, width), {0: torch.export.Dim("C", min=1)})}
    shapes: dict[str, list[Any]] = {name: ["C", length, width] for name in ("tokens", "states")}
    return trace(LabelGraph(model, precision), inputs, ["states"], shapes, opset)


def _packed_labels(width: int) -> tuple[Inputs, dict[str, list[Any]]]:
    """Example and shapes of a causal text graph's inputs of labels."""
    P, R, C, T = (torch.export.Dim(name, min=1) for name in "PRCT")
    tokens, lengths = np.arange(18, dtype=np.int32).reshape(3, 6), np.array([2, 6, 3], np.int32)
    labels = LabelTokens.pack(np.zeros(5, np.int32), tokens, lengths)
    inputs: Inputs = {
        "prefix": (torch.zeros(5, width), {0: P}),
        "suffix_tokens": (torch.zeros(len(labels.suffix_tokens), width), {0: R}),
        "suffix_positions": (torch.from_numpy(labels.suffix_positions), {0: R}),
        "token_rows": (torch.from_numpy(labels.token_rows), {0: C, 1: T}),
        "scatter_index": (torch.from_numpy(labels.scatter_index), {0: R}),
        "eot_rows": (torch.from_numpy(labels.eot_rows), {0: C}),
    }
    shapes: dict[str, list[Any]] = {
        "prefix": ["P", width],
        "suffix_tokens": ["R", width],
        "suffix_positions": ["R"],
        "token_rows": ["C", "T"],
        "scatter_index": ["R"],
        "eot_rows": ["C"],
    }
    return inputs, shapes


def _states_of_labels(model: AttriPrompt, width: int) -> tuple[Inputs, dict[str, list[Any]]]:
    """Example and shapes of the inputs of labels where the tower is not causal."""
    C, length = torch.export.Dim("C", min=1), model.backbone.context_length
    inputs: Inputs = {
        "states": (torch.zeros(3, length, width), {0: C}),
        "pooled_rows": (torch.zeros(3, dtype=torch.int32), {0: C}),
    }
    return inputs, {"states": ["C", length, width], "pooled_rows": ["C"]}


def trace(
    module: nn.Module,
    inputs: Inputs,
    outputs: list[str],
    shapes: dict[str, list[Any]],
    opset: int,
) -> onnx.ModelProto:
    """Trace a module to a checked ONNX model with exactly these shapes and this opset.

    Args:
        module: returns a tensor for each of `outputs`.
        inputs: examples.
        outputs: names.
        shapes: of every input and output; a name is a dynamic dimension.
        opset: 17 or 18.

    Raises:
        FailedError: the tracer froze a dimension or ignored the opset, or the graph is over protobuf's 2 GB.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer warns about its own internals; shapes and opset are asserted below
        proto = export(
            module.eval(),
            tuple(example for example, _ in inputs.values()),
            dynamic_shapes=tuple(dims for _, dims in inputs.values()),
            input_names=list(inputs),
            output_names=outputs,
            opset_version=max(opset, TRACER_OPSET),
        )
    if opset == 17:
        to_opset_17(proto)
    strip_metadata(proto)
    if proto.ByteSize() > MAX_BYTES:  # the checker would only report that it cannot be parsed
        graph = f"the graph of {outputs[0]} would be {proto.ByteSize() / 2**30:.1f} GB"
        raise FailedError(f"{graph}, ONNX holds {MAX_BYTES / 2**30:.1f}: use fp16, or a smaller model")
    assert_signature(proto, shapes, opset)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def strip_metadata(proto: onnx.ModelProto) -> None:
    """Remove the tracer's notes, in place: they hold paths of this machine and make equal graphs unequal."""
    graph = proto.graph
    proto.doc_string = graph.doc_string = ""
    del proto.metadata_props[:]
    del graph.metadata_props[:]
    del graph.value_info[:]
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]


def assert_signature(proto: onnx.ModelProto, shapes: dict[str, list[Any]], opset: int) -> None:
    """Check the opset and every dimension of the inputs and outputs.

    Raises:
        FailedError: names what the tracer wrote instead.
    """
    found = {entry.domain: entry.version for entry in proto.opset_import}
    if found != {"": opset}:
        raise FailedError(f"the tracer wrote opsets {found}, asked for {opset}: try `opset` 18")
    for value in (*proto.graph.input, *proto.graph.output):
        dims = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if dims != shapes[value.name]:
            raise FailedError(f"the tracer gave {value.name} the shape {dims}, expected {shapes[value.name]}")
