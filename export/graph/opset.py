"""ONNX opsets of the graphs: which are supported, and the way from 18 back to 17."""

from __future__ import annotations

import onnx

from attri.runtime.errors import FailedError, UsageError

__all__ = ["OPSETS", "TRACER_OPSET", "check_opset", "to_opset_17"]

OPSETS = (17, 18)  # lowest first: LayerNormalization is from 17 on; TensorRT 8.6 reads both
TRACER_OPSET = 18  # the lowest that PyTorch's tracer writes


def check_opset(opset: int) -> None:
    """Refuse an opset that the graphs cannot be written at.

    Raises:
        UsageError: it is none of `OPSETS`.
    """
    if opset not in OPSETS:
        raise UsageError(
            f"opset is {opset}: these graphs are written at {' or '.join(map(str, OPSETS))}, the lowest that works is"
            f" {OPSETS[0]}"
        )


def to_opset_17(proto: onnx.ModelProto) -> None:
    """Convert a graph from opset 18 to 17, in place; onnx's own converter cannot convert Split back.

    Raises:
        FailedError: the graph has another operator that opset 18 changed.
    """
    graph = proto.graph
    constants = {weight.name: weight for weight in graph.initializer}
    for node in graph.node:
        if onnx.defs.get_schema(node.op_type, 18).since_version <= 17:
            continue
        if node.op_type == "Split":
            drop_attribute(node, "num_outputs")
        elif node.op_type.startswith("Reduce") and len(node.input) == 2 and node.input[1] in constants:
            axes = onnx.numpy_helper.to_array(constants[node.input[1]]).tolist()  # an attribute before 18
            del node.input[1]
            drop_attribute(node, "noop_with_empty_axes")
            node.attribute.append(onnx.helper.make_attribute("axes", axes))
        elif node.op_type == "Pad" and len(node.input) <= 3:  # the fourth, axes, is what 18 added
            continue
        else:
            raise FailedError(f"{node.op_type} cannot be written at opset 17: use `opset` 18")
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    proto.opset_import[0].version = 17


def drop_attribute(node: onnx.NodeProto, name: str) -> None:
    """Remove an attribute of a node, in place, where it has it."""
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
