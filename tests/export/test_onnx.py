"""What is written: signatures, opset, precision, and that the same model gives the same bytes."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from support import make_bundle
from support.models import tiny_backbone

from attri.export.graph import trace as trace_module
from attri.export.graph.opset import to_opset_17
from attri.export.graph.trace import assert_signature, trace_text, trace_vision
from attri.export.onnx import ExportOptions, export_bundle
from attri.runtime import Classifier
from attri.runtime.bundle import Bundle
from attri.runtime.errors import FailedError, UsageError
from attri.runtime.text.label_tokens import encode_labels
from attri.runtime.tokenizer import Tokenizer
from attri.train.config import PromptConfig
from attri.train.model import AttriPrompt

LABELS = ["bird", "red apple", "a very small wooden house"]


def signature(proto):
    values = [*proto.graph.input, *proto.graph.output]
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def types(proto):
    return {v.name: v.type.tensor_type.elem_type for v in [*proto.graph.input, *proto.graph.output]}


FLOAT, INT32 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32


@pytest.mark.parametrize(("precision", "opset"), [("fp32", 18), ("fp16", 17)])
def test_signatures_are_dynamic_and_typed_as_documented(pocket_model, traced, precision, opset):
    vision, text = (traced(trace)(pocket_model, precision, opset) for trace in (trace_vision, trace_text))
    assert [(entry.domain, entry.version) for entry in (*vision.opset_import, *text.opset_import)] == [("", opset)] * 2
    assert signature(vision) == {
        "pixels": ["B", 3, 64, 64],
        "keys": [6, 192, "N"],
        "image_features": ["B", 192],
        "retrieved": ["B", 6, 2],
        "scores": ["B", 6, 2, "N"],
    }
    assert types(vision) == dict.fromkeys(("pixels", "keys", "image_features", "scores"), FLOAT) | {"retrieved": INT32}
    assert signature(text) == {
        "retrieved": ["B", 6, 2],
        "prompt_table": [6, "N", 2, 256],
        "prefix": ["P", 128],
        "suffix_tokens": ["R", 128],
        "suffix_positions": ["R"],
        "token_rows": ["C", "T"],
        "scatter_index": ["R"],
        "eot_rows": ["C"],
        "text_features": ["B", "C", 192],
    }
    integers = ("retrieved", "suffix_positions", "token_rows", "scatter_index", "eot_rows")
    assert types(text) == dict.fromkeys(integers, INT32) | dict.fromkeys(
        ("prompt_table", "prefix", "suffix_tokens", "text_features"), FLOAT
    )
    for proto in (vision, text):
        onnx.checker.check_model(proto, full_check=True)
        written = proto.SerializeToString()
        assert b"/site-packages/" not in written
        assert b"pkg.torch" not in written


def test_fp16_is_half_where_it_should_be_and_single_where_it_must(pocket_model, traced):
    vision = onnx.shape_inference.infer_shapes(traced(trace_vision)(pocket_model, "fp16", 18))
    known = {v.name: v.type.tensor_type.elem_type for v in (*vision.graph.value_info, *vision.graph.output)}
    known |= {i.name: i.data_type for i in vision.graph.initializer}
    of = {op: {known[o] for n in vision.graph.node if n.op_type == op for o in n.output} for op in ("Conv", "Softmax")}
    assert of == {"Conv": {onnx.TensorProto.FLOAT16}, "Softmax": {FLOAT}}
    norms = {known[n.output[0]] for n in vision.graph.node if n.op_type == "LayerNormalization"}
    chosen = {known[n.input[0]] for n in vision.graph.node if n.op_type in ("ArgMax", "ArgMin", "TopK", "ReduceSum")}
    assert norms == chosen == {FLOAT}
    big = [i for i in vision.graph.initializer if np.prod(i.dims) >= 1000]
    single = sum(np.prod(i.dims) for i in big if i.data_type == FLOAT)
    # The joint projection (it belongs to retrieval) and the averaging matrix are all that stays single.
    assert single == pocket_model.backbone.clip.visual.proj.numel()
    products = [n for n in vision.graph.node if n.op_type in ("MatMul", "Gemm")]
    half = [n for n in products if known[n.output[0]] == onnx.TensorProto.FLOAT16]
    assert len(half) == 6 * 6 + 1  # qkv, scores, values, out, two of the MLP in each block; the projection


def test_a_frozen_batch_and_a_wrong_opset_are_noticed(pocket_model, traced):
    proto = traced(trace_text)(pocket_model, "fp32", 18)
    with pytest.raises(FailedError, match="asked for 17"):
        assert_signature(proto, signature(proto), 17)
    shapes = signature(proto) | {"token_rows": [1, "T"]}
    with pytest.raises(FailedError, match=r"gave token_rows the shape \['C', 'T'\], expected \[1, 'T'\]"):
        assert_signature(proto, shapes, 18)


def test_the_same_model_gives_the_same_manifest(bundle, pocket_model, image_files, tmp_path):
    export_bundle(pocket_model, tmp_path / "again", Bundle.open(bundle).prompt.facts.labels, image_files[:8])
    manifests = [json.loads((path / "manifest.json").read_text()) for path in (bundle, tmp_path / "again")]
    for manifest in manifests:
        del manifest["created"], manifest["sha256"]  # the second covers the first
    assert manifests[0] == manifests[1]  # it holds the sha256 of every other file


def test_another_model_survives_the_way_to_the_runtime(image_files, tmp_path):
    """Towers side by side, every setting another one; QuickGELU and a single block: test_roundtrip.py."""
    config = PromptConfig(
        pool_size=5, static_tokens=2, shared=True, clusters=3, topk=2, lloyd_steps=2, kmeans_init="farthest"
    )
    torch.manual_seed(0)
    model = AttriPrompt(tiny_backbone("CustomTextCLIP"), config).eval()
    with torch.no_grad():
        model.pool.tokens.normal_()
        model.pool.static.normal_()
        previous = model.backbone.clip.logit_scale.clone()
        model.backbone.clip.logit_scale.fill_(3.0)  # not the usual 100
    try:
        export_bundle(model, tmp_path / "bundle", LABELS, image_files[:4])
        classifier = Classifier.load(tmp_path / "bundle")
        pixels = torch.from_numpy(model.backbone.preprocess()(image_files[5])[None])
        words = encode_labels(Tokenizer(), LABELS, "a photo of a {}.", 24)
        with torch.no_grad():
            expected = model(pixels, words).softmax(-1)[0].numpy()
    finally:
        model.backbone.clip.logit_scale.data.copy_(previous)
    # float32 on both sides: differences of 1e-6 in cosines, times a scale of 20.
    assert np.abs(classifier(image_files[5]).probabilities - expected).max() < 1e-4


def test_what_cannot_be_written_is_refused_first(pocket_model, image_files, tmp_path):
    with pytest.raises(UsageError, match="choose fp32, fp16, int8"):
        export_bundle(pocket_model, tmp_path / "b", LABELS, image_files[:1], ExportOptions(precision="int4"))  # type: ignore[arg-type]  # refused
    with pytest.raises(
        UsageError, match="opset is 9: these graphs are written at 17 or 18, the lowest that works is 17"
    ):
        export_bundle(pocket_model, tmp_path / "b", LABELS, image_files[:1], ExportOptions(opset=9))
    assert list(tmp_path.iterdir()) == []


def test_a_graph_over_two_gigabytes_is_refused(monkeypatch):
    monkeypatch.setattr(trace_module, "MAX_BYTES", 64)
    inputs = {"x": (torch.zeros(2, 3), {0: torch.export.Dim("B", min=1)})}
    with pytest.raises(FailedError, match=r"the graph of y would be 0.0 GB, ONNX holds 0.0: use fp16"):
        trace_module.trace(torch.nn.Linear(3, 4), inputs, ["y"], {"x": ["B", 3], "y": ["B", 4]}, 18)


def test_a_whole_bundle_at_opset_17(pocket_model, image_files, tmp_path):
    report = export_bundle(pocket_model, tmp_path / "bundle", LABELS, image_files[:2], ExportOptions(opset=17))
    assert report.missed is None
    opened = Bundle.open(tmp_path / "bundle")
    assert opened.manifest.opset == 17
    assert {onnx.load(opened.file(f"{n}.onnx")).opset_import[0].version for n in ("vision", "text")} == {17}
    assert Classifier.load(tmp_path / "bundle", device="cpu")(image_files[0]).label in LABELS


def test_what_opset_18_changed_is_not_written_as_17():
    node = onnx.helper.make_node("ReduceMax", ["x", "axes"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [], [])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    with pytest.raises(FailedError, match="ReduceMax cannot be written at opset 17: use `opset` 18"):
        to_opset_17(proto)
    assert proto.opset_import[0].version == 18


def test_an_fp16_bundle_keeps_half_embeddings(fp16_bundle):
    bundle = Bundle.open(fp16_bundle)
    assert bundle.manifest.precision == "fp16"
    assert bundle.token_embedding().dtype == np.float16
    assert all(stage["held"] for stage in bundle.manifest.parity["stages"])
    assert bundle.prompt.facts.labels == make_bundle.LABELS
