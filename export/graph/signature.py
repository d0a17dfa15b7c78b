"""Signature of an ONNX graph, for the manifest."""

from __future__ import annotations

import numpy as np
import onnx

from attri.runtime.engines.signature import GraphSignature, TensorSpec


def signature_of(proto: onnx.ModelProto) -> GraphSignature:
    """Names, dtypes and dimensions of a graph's inputs and outputs."""
    return GraphSignature(tuple(map(_spec, proto.graph.input)), tuple(map(_spec, proto.graph.output)))


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
    return TensorSpec(value.name, dtype, tuple(dim.dim_param or dim.dim_value for dim in kind.shape.dim))
