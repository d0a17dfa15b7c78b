"""fp16 that is fp16: what is half, what is not, and that nothing leaves its range."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from attri.calibration.activation_ranges import label_tokens
from attri.export import onnx as exporter
from attri.export.graph.precision import extreme_images, half_peak, half_shares
from attri.export.graph.trace import trace_text, trace_vision
from attri.export.onnx import ExportOptions, export_bundle
from attri.export.prompt import make_prompt
from attri.runtime.bundle import TEXT, VISION, Bundle
from attri.runtime.engines.agreement import cosine
from attri.runtime.engines.onnxruntime import OrtEngine
from attri.runtime.errors import FailedError

LABELS = ["red apple", "bird", "a small house"]
PHOTO = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


@pytest.fixture(scope="module")
def graphs(pocket_model, traced):
    return {
        name: {precision: traced(trace)(pocket_model, precision, 18) for precision in ("fp32", "fp16")}
        for name, trace in ((VISION, trace_vision), (TEXT, trace_text))
    }


@pytest.fixture(scope="module")
def pixels(pocket_model, image_files):
    preprocess = pocket_model.backbone.preprocess()
    return np.stack([preprocess(image) for image in (*extreme_images(64), PHOTO, image_files[0])])


@pytest.fixture(scope="module")
def keys(pocket_model):
    return make_prompt(pocket_model, LABELS, "a {}").vision_inputs


def scaled(proto, kind, factor):
    """The graph with the first half weight of a node of that kind scaled."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    weights = {weight.name: weight for weight in changed.graph.initializer}
    node = next(n for n in changed.graph.node if n.op_type == kind and n.input[1] in weights)
    values = numpy_helper.to_array(weights[node.input[1]])
    weights[node.input[1]].CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), node.input[1]))
    return changed


def test_true_half_arithmetic_agrees_on_extreme_and_real_images(graphs, bundle, pixels, keys, tmp_path):
    """NumPy rounds every product to half, as a GPU does, and its overflow is a warning, which is an error here."""
    (tmp_path / VISION).write_bytes(graphs[VISION]["fp32"].SerializeToString())
    (tmp_path / TEXT).write_bytes(graphs[TEXT]["fp32"].SerializeToString())
    single = {name: OrtEngine(tmp_path / name, "cpu") for name in (VISION, TEXT)}
    expected, entries, _ = single[VISION].run({"pixels": pixels, **keys})
    outputs: Any = ReferenceEvaluator(graphs[VISION]["fp16"]).run(None, {"pixels": pixels, **keys})
    features, retrieved, _ = outputs
    # The gates of fp16; flat images have equal tokens, so their ties may fall otherwise.
    assert cosine(expected, features).min() > 0.999
    assert (entries == retrieved)[3:].mean() >= 0.95
    opened = Bundle.open(bundle)
    tokens, inputs = label_tokens(opened)
    labels = inputs(tokens)
    feed = {"retrieved": entries[:3], **opened.prompt.text_inputs, **labels}
    outputs = ReferenceEvaluator(graphs[TEXT]["fp16"]).run(None, feed)
    assert cosine(single[TEXT].run(feed)[0], outputs[0]).min() > 0.999


def test_shares_and_peak_are_kept_in_the_manifest(graphs, fp16_bundle):
    kept = Bundle.open(fp16_bundle).manifest.arithmetic["graphs"]
    for name, output in ((VISION, "image_features"), (TEXT, "text_features")):
        assert {"initializers", "tensors", "peak"} == set(kept[name])
        assert kept[name]["initializers"] > 0.95
        assert kept[name] | half_shares(graphs[name]["fp16"], name, output) == kept[name]
        assert 1 < kept[name]["peak"] < 65504


def test_shares_are_counted_by_hand(graphs):
    proto = graphs[VISION]["fp16"]
    sizes = [(weight.data_type, int(np.prod(weight.dims))) for weight in proto.graph.initializer]
    half = sum(size for kind, size in sizes if kind == onnx.TensorProto.FLOAT16)
    single = sum(size for kind, size in sizes if kind == onnx.TensorProto.FLOAT)
    assert half_shares(proto, VISION, "image_features")["initializers"] == half / (half + single)


def test_a_graph_that_is_called_fp16_and_is_not_writes_nothing(
    pocket_model, traced, image_files, tmp_path, monkeypatch
):
    monkeypatch.setattr(exporter, "trace_text", lambda model, _, opset: traced(trace_text)(model, "fp32", opset))
    with pytest.raises(
        FailedError, match=r"text.onnx is not fp16 as it should be, a product is not half \(node_"
    ) as error:
        export_bundle(pocket_model, tmp_path / "b", LABELS, image_files[:2], ExportOptions(precision="fp16"))
    assert error.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_retrieval_in_half_is_refused(graphs):
    # By the other graph's output every product is off the way: retrieval, as far as the check can tell.
    with pytest.raises(FailedError, match="retrieval is not float32"):
        half_shares(graphs[VISION]["fp16"], VISION, "retrieved_by_nobody")


def test_overflow_is_found_where_float32_hides_it(graphs, pixels, keys, tmp_path):
    feed = {"pixels": pixels[:2], **keys}
    peak = half_peak(graphs[VISION]["fp16"], VISION, [feed])
    assert 1 < peak < 1000
    loud = scaled(graphs[VISION]["fp16"], "MatMul", 3e4)
    with pytest.raises(FailedError, match=r"vision.onnx overflows half precision .*: use fp32"):
        half_peak(loud, VISION, [feed])
    (tmp_path / VISION).write_bytes(loud.SerializeToString())
    # ONNX Runtime on a CPU computes on in float32 and says nothing: the reason why the check is there.
    assert np.isfinite(OrtEngine(tmp_path / VISION, "cpu").run(feed)[0]).all()


def test_the_extremes_are_what_they_are_called():
    black, white, checkerboard, saturated, noise = extreme_images(64)
    assert not black.any()
    assert (white == 255).all()
    assert set(np.unique(checkerboard)) == {0, 255}
    assert checkerboard[0, 0, 0] != checkerboard[0, 8, 0]
    assert len(np.unique(saturated.reshape(-1, 3), axis=0)) == 4
    assert len(np.unique(noise)) == 256
    assert {image.dtype for image in extreme_images(64)} == {np.dtype(np.uint8)}
