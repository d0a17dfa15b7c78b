"""Number types of a built engine, as the inspectors of several TensorRT versions show them."""

from __future__ import annotations

import json

import pytest

from attri.runtime.engines.tensorrt.inspection import check_shares, type_shares
from attri.runtime.errors import EngineError


def test_check_shares_refuses_an_engine_in_another_precision():
    shares = {"half": 0.3, "int8": 0, "float32": 0.7}
    with pytest.raises(
        EngineError, match=r"30% of the tensors of text.onnx are half in the engine and 61% in the graph"
    ):
        check_shares(shares, "fp16", "text.onnx", 0.61)
    check_shares(shares, "fp16", "text.onnx", 0.6)
    with pytest.raises(EngineError, match=r"nothing of text.onnx is int8"):
        check_shares(shares, "int8", "text.onnx", 1.0)
    check_shares(shares | {"int8": 0.1}, "int8", "text.onnx", 1.0)
    check_shares(shares, "fp32", "text.onnx", 1.0)
    check_shares(None, "fp16", "text.onnx", 1.0)


def test_type_shares_reads_types_as_inspectors_write_them():
    """Both ways of writing, as public listings of engines of TensorRT 8 and 10 show them."""
    texts = [
        "Half",
        "Row major linear FP16 format",
        "Float",
        "Row major linear FP32",
        "Thirty-two wide Int8 format.",
        "Int32",
    ]
    layers = [{"Outputs": [{"Format/Datatype": text}]} for text in texts] + [{"Name": "no outputs"}]
    assert type_shares(json.dumps({"Layers": layers})) == {"half": 0.4, "int8": 0.2, "float32": 0.4}
    fused = {"Name": "{ForeignNode[a...b]}", "Outputs": [{"Format/Datatype": "Float"}]}
    myelin = {"Name": "tower", "LayerType": "Myelin", "Outputs": [{"Format/Datatype": "Float"}]}
    for layer in (fused, myelin):
        assert type_shares(json.dumps({"Layers": [*layers, layer]})) is None
    for nothing in ("", "null", "[]", '{"Layers": ["names", "only"]}', '{"Layers": []}'):
        assert type_shares(nothing) is None
