"""Every family of image towers equals the literal model: feature, retrieval, scores and gradients."""

from __future__ import annotations

import open_clip
import pytest
import torch
from support.literal import (
    literal_centres,
    literal_image,
    literal_retrieve,
    literal_text,
    normal,
    pooled_alone,
    source_block,
)
from support.models import FAMILIES, small_tower, vision_tower

from attri.runtime.errors import UsageError
from attri.train.config import PromptConfig
from attri.train.model import AttriPrompt
from attri.train.model.foldable import supported_models
from attri.train.model.towers import image_tower

LABELS = ["cat", "a very small red apple"]
TEMPLATE = "a photo of a {}."


def build(name, double, **options):
    config = PromptConfig(pool_size=6, clusters=2, topk=2, prompt_length=2, static_tokens=1, shared=False, **options)
    backbone = small_tower(name, double)
    torch.manual_seed(1)
    model = AttriPrompt(backbone, config)
    with torch.no_grad():
        model.pool.tokens.normal_()
        model.pool.static.normal_()
    return model.double() if double else model


def literal_logits(model, pixels):
    """Scores [B, C], one image at a time: the model itself, k-means by loops, prompts really concatenated."""
    clip, config, pool = model.backbone.clip, model.config, model.pool
    texts, length = [TEMPLATE.format(label) for label in LABELS], model.backbone.context_length
    if model.backbone.reader.clean is None:
        ids = open_clip.SimpleTokenizer(context_length=length)(texts)
    else:  # tests/train/model/test_vocabulary.py holds these against open_clip's
        ids = torch.from_numpy(model.backbone.reader.encode(LABELS, TEMPLATE).ids).long()
    first = 0 if model.text.causal else len(model.text.blocks) - model.depth
    rows = []
    for image in pixels:
        feature, states = literal_image(clip, image[None])
        retrieved = []
        for block in range(model.depth):
            tokens = states[source_block(first + block + 1, len(states), len(model.text.blocks)) - 1]
            centres = literal_centres(clip, tokens, config.clusters, config.lloyd_steps, config.kmeans_init)
            retrieved.append(literal_retrieve(centres, pool.keys[block].detach(), config.topk))
        text = literal_text(clip, pool.tokens_of_blocks(), pool.static, torch.tensor(retrieved), ids)
        rows.append(model.backbone.logit_scale * text @ feature)
    return torch.stack(rows)


def words(model):
    return model.backbone.reader.encode(LABELS, TEMPLATE)


# Cosines, as everywhere: 1e-10 in float64 leaves only the order of summation, 1e-5 in float32 is its rounding.
@pytest.mark.parametrize(("double", "tolerance"), [(True, 1e-10), (False, 1e-5)], ids=["float64", "float32"])
@pytest.mark.parametrize("name", FAMILIES)
def test_scores_and_gradients_equal_literal(name, double, tolerance, make_pixels):
    model = build(name, double)
    pixels = torch.from_numpy(make_pixels(model.backbone.preprocess(), 2))
    pixels = pixels.double() if double else pixels
    folded = model(pixels, words(model))
    literal = literal_logits(model, pixels)
    learned = [model.pool.tokens, model.pool.static]
    target = torch.randn_like(folded)
    ours, theirs = (torch.autograd.grad((scores * target).sum(), learned) for scores in (folded, literal))
    scale = model.backbone.logit_scale
    assert (folded - literal).abs().max() < tolerance * scale
    for mine, other in zip(ours, theirs, strict=True):
        assert other.abs().max() > 0
        assert (mine - other).abs().max() < tolerance * max(scale, float(other.abs().max()))


@pytest.mark.parametrize("start", ["grid", "farthest"])
@pytest.mark.parametrize("name", FAMILIES)
def test_centres_equal_literal(name, start, make_pixels):
    model = build(name, True, kmeans_init=start, lloyd_steps=2)
    pixels = torch.from_numpy(make_pixels(model.backbone.preprocess(), 1)).double()
    features, centres = model.encode_image(pixels)
    feature, states = literal_image(model.backbone.clip, pixels)
    assert len(states) == model.backbone.tower.layers
    assert (features[0] - feature).abs().max() < 1e-10
    for block in range(model.depth):
        text_block = block + 1 + (0 if model.text.causal else len(model.text.blocks) - model.depth)
        tokens = states[source_block(text_block, len(states), len(model.text.blocks)) - 1]
        expected = literal_centres(model.backbone.clip, tokens, 2, 2, start)
        assert (centres[0, block] - expected).abs().max() < 1e-9  # 1e-10 and a sum over all tokens


@pytest.mark.parametrize("name", FAMILIES)
def test_a_patch_alone_is_mapped_as_the_tower_pools_a_single_token(name, make_pixels):
    """Attention over one token is its value path, exactly: nothing is left but rounding."""
    backbone = small_tower(name, True)
    tower = backbone.tower
    pixels = torch.from_numpy(make_pixels(backbone.preprocess(), 1)).double()
    *_, last = tower.states(pixels)
    for token in last[0, tower.prefix :][:3]:
        own = pooled_alone(backbone.clip.visual, token)
        assert (normal(tower.joint(tower.normalize(token))) - own).abs().max() < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("name", supported_models())
def test_every_supported_model_has_a_tower_of_the_right_shapes(name):
    """Real sizes and depths, on tensors without memory."""
    config = open_clip.get_model_config(name)
    vision, joint = config["vision_cfg"], config["embed_dim"]
    with torch.device("meta"), torch.no_grad():
        visual = vision_tower(joint, vision, config.get("quick_gelu", False)).eval()
        tower = image_tower(visual, joint, name)
        states = list(tower.states(torch.empty(1, 3, tower.size, tower.size)))
        assert len(states) == tower.layers
        assert {state.shape[1] for state in states} == {tower.prefix + tower.grid[0] * tower.grid[1]}
        assert tower.feature(states[-1]).shape == (1, joint)
        assert tower.joint(tower.normalize(states[0])).shape == (*states[0].shape[:2], joint)


def test_fewer_vision_blocks_than_text_blocks_are_shared_in_turn():
    assert build("convnext_tiny", False).vision.sources == [1, 1, 2, 2]
    assert build("PE-Core-T-16-384", False).vision.sources == [1, 2, 3, 3]


def test_a_tower_without_a_class_is_refused_by_name():
    from open_clip.model import CLIP

    from attri.train.model.backbone import freeze

    config = open_clip.get_model_config("convnext_tiny")
    config["vision_cfg"] |= {"timm_model_name": "resnet18", "timm_proj": "linear"}
    config["text_cfg"] |= {"layers": 1}
    with pytest.raises(UsageError, match=r"own is not supported: its image tower is of timm.models.resnet"):
        freeze(CLIP(**config), "own", "random")
