"""Models whose text tower is not causal go all the way: three graphs, each precision, into the runtime.

tests/train/model/test_towers.py holds the model itself against the literal one.
"""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from support.engines import WatchedEngine
from support.models import prompted_tower, small_tower

from attri.export.onnx import ExportOptions, export_bundle
from attri.export.parity.compare import compare
from attri.export.parity.drift import locate_drift
from attri.export.parity.gates import Gates
from attri.export.pooled import zero_shot_model
from attri.export.prompt import PromptOptions, export_prompt
from attri.export.quantize import Calibration
from attri.runtime import Classifier
from attri.runtime.bundle import LABEL, PROMPT, TEXT, TOKENIZER, VISION, Bundle, read_manifest
from attri.runtime.classifier import classify_together
from attri.runtime.engines.verify import ParityStage
from attri.runtime.errors import BundleError
from attri.runtime.prompt import Prompt
from attri.runtime.text.cache import TextCache

LABELS = ["bird", "red apple", "a small wooden house", "cat"]


@pytest.fixture(scope="module")
def model(siglip_model):
    return siglip_model


@pytest.fixture(scope="module")
def exported(siglip_bundle):
    return siglip_bundle


def expected(model, labels, file):
    pixels = torch.from_numpy(model.backbone.preprocess()(file)[None])
    with torch.no_grad():
        return model(pixels, model.backbone.reader.encode(labels, "a photo of a {}.")).softmax(-1)[0].numpy()


def test_the_runtime_gives_the_model_s_scores_for_any_labels(model, exported, image_files):
    classifier = Classifier.load(exported, device="cpu")
    manifest = classifier.bundle.manifest
    assert manifest.graph_files == (VISION, TEXT, LABEL)
    assert {LABEL, TOKENIZER} <= manifest.files.keys()
    assert (manifest.text["causal"], manifest.text["pooled"], manifest.text["clean"]) == (False, "last", "canonicalize")
    assert manifest.logit_bias == pytest.approx(-10)
    assert (manifest.retrieval["depth"], manifest.retrieval["sources"]) == (2, [2, 2])
    for labels in (LABELS, ["zebra", "bird"], ["bird"] * 2):
        classifier.labels = labels
        for file in image_files[6:8]:
            # float32 on both sides: differences of 1e-6 in cosines, times a scale of 14.
            assert np.abs(classifier(file).probabilities - expected(model, labels, file)).max() < 1e-4


def test_labels_are_computed_when_they_change_and_frames_run_two_blocks(exported, image_files):
    bundle = Bundle.open(exported)
    engines = {name: WatchedEngine(bundle.graph(name)) for name in bundle.graph_files}
    classifier = Classifier(bundle, engines[VISION], engines[TEXT], None, TextCache(), label=engines[LABEL])
    classifier.labels = LABELS
    assert [run["tokens"].shape for run in engines[LABEL].runs] == [(4, 16, 64)]
    classifier(image_files[:3])
    assert classifier(image_files[0]).cache == "hit"
    classifier.labels = [*LABELS, "two dogs"]
    classifier(image_files[0])
    assert [run["tokens"].shape for run in engines[LABEL].runs] == [(4, 16, 64), (1, 16, 64)]
    assert engines[TEXT].runs[-1]["states"].shape == (1, 16, 64)


def test_a_shortlist_prompts_the_nearest_alone(model, exported, image_files):
    labels = [*LABELS, "two dogs", "zebra", "green bus"]
    listed = Classifier.load(exported, labels, device="cpu", shortlist=3)
    tokens = model.backbone.reader.encode(labels, "a photo of a {}.")
    with torch.no_grad():
        features, centres = model.encode_image(torch.from_numpy(model.backbone.preprocess()(image_files[7])[None]))
        retrieved = model.pool.retrieve(centres)
        plain = model.encode_text(tokens, torch.full_like(retrieved, 8))  # one past the last entry is none
        prompted = model.encode_text(tokens, retrieved)
    cosine, with_prompts = ((text[0] @ features[0]) for text in (plain, prompted))
    chosen = cosine.topk(3).indices
    cosine[chosen] = with_prompts[chosen]
    wanted = (model.backbone.logit_scale * cosine).softmax(-1).numpy()
    assert np.abs(listed(image_files[7]).probabilities - wanted).max() < 1e-4


def test_plain_text_is_open_clip_s_own(model):
    tokens = model.backbone.reader.encode(LABELS, "a photo of a {}.")
    with torch.no_grad():
        own = model.backbone.clip.encode_text(torch.from_numpy(tokens.ids).long(), normalize=True)
    assert (model.plain_text(tokens) - own).abs().max() < 1e-5  # float32


def test_a_zero_shot_prompt_is_refused_where_static_tokens_are_and_shared_where_not(exported, tmp_path, image_files):
    bundle = Bundle.open(exported)
    with pytest.raises(Exception, match="graphs with static tokens give them to every image"):
        zero_shot_model(small_tower("ViT-B-16-SigLIP"), bundle.manifest.retrieval)
    other = prompted_tower("ViT-B-16-SigLIP")
    with torch.no_grad():
        other.pool.tokens.neg_()
    export_prompt(other, bundle, tmp_path / PROMPT, LABELS, image_files[:4], PromptOptions())
    classifier = Classifier.load(exported, device="cpu", prompt=tmp_path / PROMPT)
    found = classify_together([classifier], [image_files[8]], [None])[0][0]
    assert np.abs(found.probabilities - expected(other, LABELS, image_files[8])).max() < 1e-4


def test_damaged_states_are_found_by_name(model, exported, tmp_path, make_pixels):
    copy = tmp_path / "bundle"
    shutil.copytree(exported, copy)
    unfinished = Bundle(copy, read_manifest(copy), Prompt.read(copy / PROMPT))
    proto = onnx.load(copy / LABEL)
    wanted = model.backbone.text.transformer.resblocks[1].mlp.c_fc.weight.detach().numpy().T
    weight = next(w for w in proto.graph.initializer if np.array_equal(numpy_helper.to_array(w), wanted))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight)[::-1].copy(), weight.name))
    (copy / LABEL).write_bytes(proto.SerializeToString())
    pixels = make_pixels(model.backbone.preprocess(), 2)
    report = compare(model, unfinished, pixels, Gates.of("fp32"))
    assert report.missed.id is ParityStage.TEXT_FEATURES
    said = locate_drift(model, unfinished, ParityStage.TEXT_FEATURES, pixels[:1])
    assert said.startswith("; label.onnx drifts first in block 1, MLP (1 - cosine ")
    assert said.endswith("no layer of text.onnx drifts by itself")


@pytest.mark.parametrize("name", [LABEL, TOKENIZER])
def test_a_changed_file_is_refused(exported, tmp_path, name):
    copy = tmp_path / "bundle"
    shutil.copytree(exported, copy)
    with (copy / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(BundleError, match=f"{name} is not the file that was exported"):
        Bundle.open(copy)
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"is incomplete, '{name}' is missing"):
        Bundle.open(copy)


def test_half_precision_at_opset_17_holds_the_gates(tmp_path, image_files):
    """SigLIP2's tanh GELU and 256 positions; products are half in all three graphs, and none overflows."""
    model = prompted_tower("ViT-SO400M-16-SigLIP2-256")
    report = export_bundle(model, tmp_path / "bundle", LABELS, image_files[:6], ExportOptions("fp16", opset=17))
    assert report.missed is None
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest.arithmetic["graphs"].keys() == {VISION, TEXT, LABEL}
    assert all(0 < graph["peak"] < 65504 for graph in manifest.arithmetic["graphs"].values())
    Classifier.load(tmp_path / "bundle", device="cpu")  # which runs all graphs on a reference image


def test_int8_quantizes_vision_and_text_and_leaves_labels(model, exported, tmp_path, image_files):
    gates = dataclasses.replace(Gates.of("int8"), retrieved=0.85)  # of 24 entries of random keys, some are near ties
    options = ExportOptions("int8", gates=gates, calibration=Calibration(image_files[0].parent.parent))
    report = export_bundle(model, tmp_path / "bundle", LABELS, image_files[:6], options)
    assert report.missed is None
    quantized = read_manifest(tmp_path / "bundle").arithmetic["graphs"]
    assert len(quantized) == 4  # two flavours of two graphs
    assert all(not graph["float_layers"] for graph in quantized.values())
    assert (tmp_path / "bundle" / LABEL).read_bytes() == (exported / LABEL).read_bytes()
    classifier = Classifier.load(tmp_path / "bundle", LABELS, device="cpu")
    found = [classifier(file).probabilities for file in image_files[6:10]]
    wanted = [expected(model, LABELS, file) for file in image_files[6:10]]
    assert np.abs(np.stack(found) - np.stack(wanted)).max() < 0.1  # int8: cosines differ by hundredths
