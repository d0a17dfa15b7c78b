"""A graph is damaged in one place, and that place must be named."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from attri.export.graph.trace import trace_vision
from attri.export.parity.compare import compare
from attri.export.parity.drift import first_jump, layer_drifts, locate_drift, name_layers
from attri.export.parity.gates import Gates
from attri.runtime.bundle import PROMPT, TEXT, VISION, Bundle, read_manifest
from attri.runtime.engines.verify import ParityStage
from attri.runtime.prompt import Prompt


@pytest.fixture
def unfinished(bundle, tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    return Bundle(copy, read_manifest(copy), Prompt.read(copy / PROMPT))


@pytest.fixture
def damage(unfinished):
    """damage(graph, tensor): disturb the constant of a graph that holds that tensor of the model."""

    def write(name, tensor):
        proto = onnx.load(unfinished.file(name))
        wanted = tensor.detach().numpy()
        found = [w for w in proto.graph.initializer if same(numpy_helper.to_array(w), wanted)]
        assert found, "the tracer has changed this weight: choose another"
        noise = np.random.default_rng(0).normal(size=tuple(found[0].dims)) * wanted.std()
        values = numpy_helper.to_array(found[0])
        found[0].CopyFrom(numpy_helper.from_array((values + noise).astype(values.dtype), found[0].name))
        unfinished.file(name).write_bytes(proto.SerializeToString())

    return write


def same(values, wanted):
    """Equal, perhaps turned, in the precision of the graph."""
    turned = (wanted, wanted.swapaxes(-1, -2)) if wanted.ndim > 1 else (wanted,)
    return any(values.shape == one.shape and np.allclose(values, one, rtol=1e-3, atol=1e-6) for one in turned)


def places(model):
    """A weight, the stage that misses its gate through it, and what must be said."""
    vision, text = model.backbone.clip.visual, model.backbone.text
    blocks, words = vision.transformer.resblocks, text.transformer.resblocks
    return {
        "patches": (VISION, vision.conv1.weight, ParityStage.IMAGE_FEATURES, "the embedding"),
        "first block": (VISION, blocks[0].mlp.c_fc.weight, ParityStage.IMAGE_FEATURES, "block 0, MLP"),
        "attention": (VISION, blocks[3].attn.out_proj.weight, ParityStage.IMAGE_FEATURES, "block 3, attention"),
        "a norm": (VISION, blocks[4].ln_2.weight, ParityStage.IMAGE_FEATURES, "block 4, ln_2"),
        "image projection": (VISION, vision.proj, ParityStage.IMAGE_FEATURES, "the projection"),
        "words": (TEXT, words[2].mlp.c_proj.weight, ParityStage.TEXT_FEATURES, "block 2, MLP"),
        "last block of words": (TEXT, words[5].mlp.c_fc.weight, ParityStage.TEXT_FEATURES, "block 5, MLP"),
        "text projection": (TEXT, text.text_projection, ParityStage.TEXT_FEATURES, "the projection"),
    }


NAMES = [
    "patches",
    "first block",
    "attention",
    "a norm",
    "image projection",
    "words",
    "last block of words",
    "text projection",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_damaged_layer_is_named(pocket_model, unfinished, damage, make_pixels, name):
    graph, weight, stage, layer = places(pocket_model)[name]
    damage(graph, weight)
    pixels = make_pixels(pocket_model.backbone.preprocess(), 4)
    report = compare(pocket_model, unfinished, pixels, Gates.of("fp32"))
    assert stage in {each.id for each in report.stages if not each.held}
    said = locate_drift(pocket_model, unfinished, stage, pixels[:1])
    assert said.startswith(f"; {graph} drifts first in {layer} (1 - cosine ")


def test_keys_that_moved_are_no_layers_fault(pocket_model, unfinished, make_pixels):
    tensors = unfinished.prompt.tensors
    moved = Prompt.of(unfinished.prompt.facts, {**tensors, "keys": np.roll(tensors["keys"], 1, -1)})
    bundle = dataclasses.replace(unfinished, prompt=moved)
    pixels = make_pixels(pocket_model.backbone.preprocess(), 4)
    report = compare(pocket_model, bundle, pixels, Gates.of("fp32"))
    assert report.missed.id is ParityStage.RETRIEVED
    said = locate_drift(pocket_model, bundle, ParityStage.RETRIEVED, pixels[:1])
    assert said == "; no layer of vision.onnx drifts by itself"


def test_a_sound_graph_has_no_culprit(pocket_model, unfinished, make_pixels):
    pixels = make_pixels(pocket_model.backbone.preprocess(), 1)
    said = locate_drift(pocket_model, unfinished, ParityStage.TOP1, pixels)
    assert said == "; no layer of vision.onnx drifts by itself; no layer of text.onnx drifts by itself"
    assert locate_drift(pocket_model, unfinished, "pixels", pixels) == ""  # type: ignore[arg-type]  # no stage of the text


def test_half_precision_alone_is_no_drift_and_damage_to_it_is(pocket_model, traced, unfinished, damage, make_pixels):
    half = dataclasses.replace(unfinished, manifest=dataclasses.replace(unfinished.manifest, precision="fp16"))
    proto = traced(trace_vision)(pocket_model, "fp16", 18)
    half.file(VISION).write_bytes(proto.SerializeToString())
    pixels = make_pixels(pocket_model.backbone.preprocess(), 1)
    assert (
        locate_drift(pocket_model, half, ParityStage.IMAGE_FEATURES, pixels)
        == "; no layer of vision.onnx drifts by itself"
    )
    damage(VISION, pocket_model.backbone.clip.visual.transformer.resblocks[2].mlp.c_proj.weight)
    assert "vision.onnx drifts first in block 2, MLP" in locate_drift(
        pocket_model, half, ParityStage.IMAGE_FEATURES, pixels
    )


def test_layers_are_named_by_the_norms_around_them():
    weights = ["a.ln_pre", "a.resblocks.0.ln_1", "a.resblocks.0.ln_2", "a.ln_post", "a.resblocks.1.ln_1"]
    assert list(name_layers(f"{weight}.weight" for weight in weights)) == [
        "the embedding",
        "ln_pre",
        "the embedding",
        "block 0, ln_1",
        "block 0, attention",
        "block 0, ln_2",
        "block 0, MLP",
        "ln_post",
        "block 0, MLP",
        "block 1, ln_1",
    ]


def test_norms_of_timm_go_by_their_names_there():
    weights = ["vision.tower.trunk.blocks.1.norm2.weight", "vision.tower.trunk.blocks.1.mlp.norm.weight"]
    assert list(name_layers(weights)) == [
        "what blocks.1.norm2 reads",
        "blocks.1.norm2",
        "what blocks.1.mlp.norm reads",
        "blocks.1.mlp.norm",
    ]


def test_the_first_jump_counts_and_a_slow_rise_does_not():
    assert first_jump([("a", 1e-12), ("b", 9e-12), ("c", 8e-11)], 1e-12) is None
    assert first_jump([("a", 1e-12), ("b", 1e-7), ("c", 1.0)], 1e-12) == "b (1 - cosine 1.0e-07)"
    assert first_jump([("a", float("nan"))], 1e-12) == "a (1 - cosine nan)"


def test_other_norms_than_the_modules_are_not_compared():
    ones = np.ones((2, 3))
    assert layer_drifts([ones], [("a", ones), ("b", ones)]) == []
    assert layer_drifts([ones], [("a", np.ones((2, 4)))]) == []
