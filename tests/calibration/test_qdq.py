"""What becomes int8, what must not, and that it is the arithmetic that the docstring writes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from attri.calibration import qdq
from attri.calibration.qdq import S8S8, U8S8
from attri.export.graph.trace import trace_text, trace_vision
from attri.export.prompt import make_prompt
from attri.runtime.engines.onnxruntime import OrtEngine

INT8, UINT8, FLOAT = onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT


@pytest.fixture(scope="module")
def vision(pocket_model, traced):
    proto = traced(trace_vision)(pocket_model, "fp32", 18)
    qdq.fold_weights(proto)
    return proto


@pytest.fixture(scope="module")
def text(pocket_model, traced):
    proto = traced(trace_text)(pocket_model, "fp32", 18)
    qdq.fold_weights(proto)
    return proto


@pytest.fixture(scope="module")
def found(vision):
    return qdq.layers(vision.graph, "image_features")


@pytest.fixture(scope="module")
def measured(vision, found):
    """Ranges that suit normed activations; GELU and attention are within them too."""
    return dict.fromkeys(qdq.activations(vision.graph, found), (-3.0, 5.0))


@pytest.fixture(scope="module")
def quantized(vision, found, measured):
    return {
        flavour: qdq.quantize(vision, qdq.of_flavour(vision.graph, found, flavour), measured, flavour)
        for flavour in (U8S8, S8S8)
    }


def vision_feed(model, make_pixels):
    pixels = make_pixels(model.backbone.preprocess(), 2)
    return {"pixels": pixels, **make_prompt(model, ["bird"], "a {}").vision_inputs}


def initializers(proto):
    return {weight.name: numpy_helper.to_array(weight) for weight in proto.graph.initializer}


def run(proto, tmp_path, feed, integers=True):
    (tmp_path / "graph.onnx").write_bytes(proto.SerializeToString())
    return OrtEngine(tmp_path / "graph.onnx", "cpu", integers=integers).run(feed)


def test_layers_are_blocks_and_nothing_of_retrieval(vision, text, found):
    assert {layer: len(names) for layer, names in found.items()} == {
        "patches": 1,
        **{f"block {number}": 4 for number in range(6)},  # qkv, attention's output, two of the MLP
    }
    words = qdq.layers(text.graph, "text_features")
    # Queries, keys beside values, attention's output, two of the MLP.
    assert {layer: len(names) for layer, names in words.items()} == {f"block {number}": 5 for number in range(6)}
    assert set(qdq.of_flavour(vision.graph, found, U8S8)) == {f"block {number}" for number in range(6)}
    assert set(qdq.of_flavour(vision.graph, found, S8S8)) == set(found)


def test_folded_weights_give_the_same_graph(pocket_model, traced, vision, make_pixels, tmp_path):
    feed = vision_feed(pocket_model, make_pixels)
    before, after = run(traced(trace_vision)(pocket_model, "fp32", 18), tmp_path, feed), run(vision, tmp_path, feed)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert not [
        n for n in vision.graph.node if n.op_type in ("Slice", "Transpose") and n.input[0] in initializers(vision)
    ]


@pytest.mark.parametrize("flavour", [U8S8, S8S8], ids=lambda flavour: flavour.name)
def test_only_inputs_of_block_products_are_quantized(vision, found, quantized, flavour):
    proto = quantized[flavour]
    onnx.checker.check_model(proto, full_check=True)
    made = {node.output[0]: node for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    readers = {node.name for node in proto.graph.node if set(node.input) & set(made) and node.op_type not in qdq.QDQ}
    names = {name for names in qdq.of_flavour(vision.graph, found, flavour).values() for name in names}
    assert readers == names
    for node in proto.graph.node:
        if node.name in names:
            assert all(name in made for name in node.input[:2])  # activation and weight, both
            assert len(node.input) == 2  # no bias inside, and so none quantized
    # Retrieval reads what it read before, its projection too.
    retrieval = {n.name for n in vision.graph.node} - qdq.needed(vision.graph, "image_features")
    before = {node.name: list(node.input) for node in vision.graph.node}
    assert len(retrieval) > 100
    assert all(list(node.input) == before[node.name] for node in proto.graph.node if node.name in retrieval)
    projection = [
        array for name, array in initializers(proto).items() if name.endswith(("joint.weight", "visual.proj"))
    ]
    assert [array.dtype for array in projection] == [np.float32]  # one for both: the features' and retrieval's


@pytest.mark.parametrize(("flavour", "greatest"), [(U8S8, 64), (S8S8, 127)], ids=["U8S8", "S8S8"])
def test_weights_have_a_symmetric_scale_per_output_channel(vision, quantized, flavour, greatest):
    proto, floats = quantized[flavour], initializers(vision)
    values, seen = initializers(proto), 0
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in values:
            weight, scale, zero = (values[name] for name in node.input)
            axis = node.attribute[0].i
            original = floats[node.input[0].removesuffix("_quantized")]
            assert weight.dtype == np.int8
            assert not zero.any()
            assert scale.shape == (weight.shape[axis],)
            assert axis == (0 if weight.ndim == 4 else 1)  # convolution, product
            across = tuple(i for i in range(weight.ndim) if i != axis)
            # The greatest weight of a channel sits at the end of the integers, or one before it.
            assert (np.abs(weight.astype(int)).max(across) >= greatest - 1).all()
            assert np.abs(weight.astype(int)).max() <= greatest
            wide = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
            assert (np.abs(weight * wide - original) <= wide * 0.5001).all()
            seen += 1
    assert seen == 24 + (flavour is S8S8)


@pytest.mark.parametrize(
    ("flavour", "scale", "zero", "dtype"),
    [(U8S8, 8 / 255, 96, np.uint8), (S8S8, 5 / 127.5, 0, np.int8)],
    ids=["U8", "S8"],
)
def test_activations_have_the_scale_of_their_range(quantized, flavour, scale, zero, dtype):
    values = initializers(quantized[flavour])
    nodes = [node for node in quantized[flavour].graph.node if node.op_type == "QuantizeLinear"]
    assert len(nodes) == 24 + (flavour is S8S8)
    for node in nodes:
        assert values[node.input[1]] == pytest.approx(scale, rel=0.01)
        assert values[node.input[2]].dtype == dtype
        assert values[node.input[2]] == zero


@pytest.mark.parametrize("flavour", [U8S8, S8S8], ids=lambda flavour: flavour.name)
def test_int8_in_numpy_is_what_the_graph_computes(
    vision, quantized, found, make_pixels, pocket_model, tmp_path, flavour
):
    """One product, integer by integer, on any processor."""
    proto = onnx.ModelProto()
    proto.CopyFrom(quantized[flavour])
    name = found["block 0"][0]
    node = next(node for node in vision.graph.node if node.name == name)
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(value, FLOAT, None) for value in (node.input[0], node.output[0])
    )
    feed = vision_feed(pocket_model, make_pixels)
    x, y = run(proto, tmp_path, feed, flavour.integers)[-2:]
    values = initializers(proto)
    weight, channel = values[node.input[1] + "_quantized"].astype(np.int64), values[node.input[1] + "_scale"]
    step, zero = values[node.input[0] + "_scale"], values[node.input[0] + "_zero_point"]
    limits = np.iinfo(zero.dtype)
    integers = np.clip(np.rint(x / step) + zero, limits.min, limits.max).astype(np.int64) - zero
    # Rounding ties may fall otherwise on one in thousands of values; a step of one moves a sum by one weight.
    assert np.abs(integers @ weight * (step * channel) - y).max() <= 2 * step * (np.abs(weight) * channel).max()


@pytest.mark.parametrize("flavour", [U8S8, S8S8], ids=lambda flavour: flavour.name)
def test_the_greatest_products_do_not_overflow(tmp_path, flavour):
    """Every activation and weight at its end, where sums of two products have 16 bits without VNNI."""
    names = ["step", "zero", "weight", "channel", "none"]
    activation, zero = (np.int8, 0) if flavour.symmetric else (np.uint8, 96)
    greatest = 127 if flavour.symmetric else 64
    weight = np.full((64, 8), greatest, np.int8) * np.array([1, -1] * 4, np.int8)
    constants = [np.float32(0.5), np.array(zero, activation), weight, np.ones(8, np.float32), np.zeros(8, np.int8)]
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["integers"]),
        onnx.helper.make_node("DequantizeLinear", ["integers", "step", "zero"], ["activation"]),
        onnx.helper.make_node("DequantizeLinear", ["weight", "channel", "none"], ["floats"], axis=1),
        onnx.helper.make_node("MatMul", ["activation", "floats"], ["y"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "product",
        [onnx.helper.make_tensor_value_info("x", FLOAT, ["M", 64])],
        [onnx.helper.make_tensor_value_info("y", FLOAT, ["M", 8])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in zip(names, constants, strict=True)],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    limits = np.iinfo(activation)
    integers = np.array([[limits.min], [limits.max]]).repeat(64, 1) - zero
    (y,) = run(proto, tmp_path, {"x": (integers / 2).astype(np.float32)}, flavour.integers)
    np.testing.assert_array_equal(y, integers @ weight.astype(np.int64) / 2)  # all of them exact in float32


def test_layers_can_go_back_to_float(vision, quantized, found, make_pixels, pocket_model, tmp_path):
    feed = vision_feed(pocket_model, make_pixels)
    everything = [name for names in found.values() for name in names]
    whole = qdq.to_float32(quantized[S8S8], vision, everything)
    assert not [node for node in whole.graph.node if node.op_type in qdq.QDQ]
    assert qdq.int8_initializers(whole) == 0.0
    assert all(
        np.array_equal(a, b) for a, b in zip(run(vision, tmp_path, feed), run(whole, tmp_path, feed), strict=True)
    )
    part = qdq.to_float32(quantized[S8S8], vision, found["block 3"])
    onnx.checker.check_model(part, full_check=True)
    assert sum(node.op_type == "QuantizeLinear" for node in part.graph.node) == 25 - 4
    assert 0.7 < qdq.int8_initializers(part) < qdq.int8_initializers(quantized[S8S8])
    assert qdq.int8_weights(vision.graph, found, ["block 3"]) == pytest.approx(1 - 1 / 6, abs=0.01)


def test_the_layer_with_the_wrong_range_is_the_most_sensitive(
    vision, found, measured, make_pixels, pocket_model, tmp_path
):
    broken = dict(measured)
    for name in qdq.activations(vision.graph, {"block 4": found["block 4"]}):
        broken[name] = (-0.05, 0.05)
    feeds = [vision_feed(pocket_model, make_pixels)]
    drifts = qdq.sensitivity(vision, qdq.quantize(vision, found, broken, S8S8), found, feeds, tmp_path, S8S8)
    assert set(drifts) == set(found)
    assert max(drifts, key=lambda layer: drifts[layer].cosine) == "block 4"
    assert all(drift.cosine >= -1e-9 for drift in drifts.values())


def test_the_same_graph_gives_the_same_bytes_whatever_the_hash_seed(vision, quantized, tmp_path):
    (tmp_path / "vision.onnx").write_bytes(vision.SerializeToString(deterministic=True))
    code = (
        "import sys, hashlib, onnx; from attri.calibration import qdq;"
        "p = onnx.load(sys.argv[1]); f = qdq.layers(p.graph, 'image_features');"
        "q = qdq.quantize(p, f, dict.fromkeys(qdq.activations(p.graph, f), (-3.0, 5.0)), qdq.S8S8);"
        "print(hashlib.sha256(q.SerializeToString(deterministic=True)).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "1"}  # here it is another, or a random one
    command = [sys.executable, "-c", code, str(tmp_path / "vision.onnx")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    ours = hashlib.sha256(quantized[S8S8].SerializeToString(deterministic=True)).hexdigest()
    assert done.stdout.strip() == ours
    written = quantized[S8S8].SerializeToString()
    assert str(tmp_path).encode() not in written
    assert b"onnxruntime" not in written
