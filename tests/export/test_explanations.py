"""The graph of explanations: families, precision and opset, the gate, and models that allow none."""

from __future__ import annotations

import copy

import numpy as np
import onnxruntime
import pytest
import torch
from support.models import prompted_tower, small_tower

from attri.export.graph.trace import trace_explain
from attri.export.onnx import ExportOptions, export_bundle
from attri.export.parity.explanations import GATE, compare_explanations
from attri.runtime.bundle import EXPLAIN, Bundle
from attri.runtime.errors import UsageError
from attri.train.config import PromptConfig
from attri.train.model import AttriPrompt

LABELS = ["bird", "red apple"]


# A class token with rotary positions and a norm inside of attention, attention pooling, convolutions with batch norms
# (slow: the first two have both ways in which attention becomes a feature).
@pytest.mark.parametrize(
    "name", ["EVA02-B-16", "PE-Core-T-16-384", pytest.param("MobileCLIP2-S3", marks=pytest.mark.slow)]
)
def test_what_the_graph_divides_is_the_model_s_feature_at_the_lowest_opset(name, make_pixels):
    model = AttriPrompt(small_tower(name), PromptConfig(pool_size=8)).eval()
    pixels = make_pixels(model.backbone.preprocess(), 3)
    proto = trace_explain(model, 17)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    patches, rest = session.run(None, {"pixels": pixels})
    with torch.no_grad():
        own = model.backbone.clip.visual(torch.from_numpy(pixels)).numpy()
    difference = np.abs(patches.sum((1, 2)) + rest - own).max()
    assert difference < 1e-5 * np.abs(own).max()  # float32 on both sides, in another order
    alone = session.run(None, {"pixels": pixels[1:2]})[0]
    assert np.abs(alone - patches[1:2]).max() < 1e-5 * np.abs(patches).max()


def test_the_gate_holds_and_is_missed_by_another_model(explained_bundle, pocket_model, make_pixels):
    pixels = make_pixels(pocket_model.backbone.preprocess(), 4)
    bundle = Bundle.open(explained_bundle)
    stage = compare_explanations(pocket_model, bundle, pixels)
    assert stage.held
    assert stage.worst < GATE / 10
    tower = copy.deepcopy(pocket_model)
    with torch.no_grad():
        tower.backbone.clip.visual.ln_post.bias += 0.1
    assert not compare_explanations(tower, bundle, pixels).held


def test_a_bundle_with_explanations_says_so_and_takes_the_same_prompts(explained_bundle, bundle):
    ours, plain = Bundle.open(explained_bundle).manifest, Bundle.open(bundle).manifest
    assert EXPLAIN in ours.files
    assert ours.base == plain.base


def test_a_model_that_cannot_be_explained_is_refused_first(image_files, tmp_path):
    model = prompted_tower("convnext_tiny_d")
    with pytest.raises(UsageError, match="convnext_tiny_d cannot be explained: its image tower ends in an MLP"):
        export_bundle(model, tmp_path / "bundle", LABELS, image_files[:4], ExportOptions(explain=True))
    assert list(tmp_path.iterdir()) == []
