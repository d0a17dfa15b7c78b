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
    for node in proto.graph.node:
        if node.op_type == "Split":
            kept = [attribute for attribute in node.attribute if attribute.name != "num_outputs"]
            del node.attribute[:]
            node.attribute.extend(kept)
        elif onnx.defs.get_schema(node.op_type, 18).since_version > 17:
            raise FailedError(f"{node.op_type} cannot be written at opset 17: use `opset` 18")
    proto.opset_import[0].version = 17
