"""The reader of an ONNX file's border against onnx itself."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tensorrt import graphs

from attri.runtime.bundle import TEXT, VISION
from attri.runtime.engines.signature import parse_border, read_border
from attri.runtime.errors import EngineError


def by_onnx(path):
    graph = onnx.load(path).graph

    def tensors(values):
        return tuple(
            (
                value.name,
                np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)).name,
                tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim),
            )
            for value in values
        )

    return tensors(graph.input), tensors(graph.output), tuple((node.name, node.op_type) for node in graph.node)


def ours(path):
    border = read_border(path)
    inputs, outputs = (tuple((t.name, t.dtype, t.dims) for t in each) for each in (border.inputs, border.outputs))
    return inputs, outputs, border.nodes


@pytest.mark.parametrize("name", [VISION, TEXT])
def test_our_graphs(bundle, name):
    assert ours(bundle / name) == by_onnx(bundle / name)


@pytest.mark.parametrize("half", [False, True])
def test_a_small_graph(tmp_path, half):
    path = graphs.write(tmp_path / "small.onnx", half)
    assert ours(path) == by_onnx(path)
    assert read_border(path).dims == {"B", "C"}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return graphs.write(tmp_path_factory.mktemp("onnx") / "small.onnx").read_bytes()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_bytes_are_read_or_one_error(small, data):
    damaged = bytearray(small)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(small) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(EngineError):
        parse_border(bytes(damaged[: data.draw(st.integers(0, len(small)))]), "small.onnx")


def test_a_missing_file_is_one_error(tmp_path):
    with pytest.raises(EngineError, match=r"gone.onnx cannot be read \(No such file"):
        read_border(tmp_path / "gone.onnx")
