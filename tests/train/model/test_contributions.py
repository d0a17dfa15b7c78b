"""Contributions of patches: with the rest they are the model's own feature, and each is what its patch alone brings."""

from __future__ import annotations

import math

import pytest
import torch
from support.models import FAMILIES, small_tower, vision_tower

from attri.runtime.errors import UsageError
from attri.train.model.towers import image_tower
from attri.train.model.towers.contributions import contributions

BLOCKS = 2


def tower_of(name):
    backbone = small_tower(name, double=True)
    return backbone.clip.visual, image_tower(backbone.clip.visual, backbone.joint_width, name)


def pixels_of(tower, count=2):
    torch.manual_seed(0)
    return torch.randn(count, 3, tower.size, tower.size, dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "convnext_tiny_d"])
def test_patches_and_rest_are_the_model_s_own_feature(name):
    visual, tower = tower_of(name)
    pixels = pixels_of(tower)
    patches, rest = contributions(tower, pixels, BLOCKS)
    assert patches.shape == (2, math.prod(tower.grid), tower.joint_width)
    own = visual(pixels)
    # float64: only the order of summation differs.
    torch.testing.assert_close(patches.sum(1) + rest, own, rtol=0, atol=1e-10 * float(own.abs().max()))
    alone, _ = contributions(tower, pixels[1:], BLOCKS)
    torch.testing.assert_close(alone, patches[1:], rtol=0, atol=1e-10)


def test_a_head_that_is_no_sum_is_refused():
    _, tower = tower_of("convnext_tiny_d")
    with pytest.raises(UsageError, match="ends in an MLP"):
        contributions(tower, pixels_of(tower))


def literal_class_token(visual, pixels, blocks):
    """By loops over heads and tokens, one image [3, H, W]: what each patch adds to CLS, through the norm as it is."""
    seen = []
    hooks = [
        block.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        for block in visual.transformer.resblocks
    ]
    last = []
    hooks.append(visual.ln_post.register_forward_pre_hook(lambda _, given: last.append(given[0])))
    visual(pixels[None])
    for hook in hooks:
        hook.remove()
    width, count = visual.proj.shape[0], visual.grid_size[0] * visual.grid_size[1]
    added = torch.zeros(count, width, dtype=pixels.dtype)
    for block, x in list(zip(visual.transformer.resblocks, seen, strict=True))[-blocks:]:
        attention = block.attn
        q, k, v = (block.ln_1(x[0]) @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, -1)
        size = width // attention.num_heads
        for head in range(attention.num_heads):
            part = slice(head * size, (head + 1) * size)
            weights = torch.softmax(torch.stack([q[0, part] @ row / size**0.5 for row in k[:, part]]), 0)
            for patch in range(count):
                added[patch] += attention.out_proj.weight[:, part] @ (weights[1 + patch] * v[1 + patch, part])
    whole = last[0].reshape(-1, width)[0]
    deviation = (whole.var(unbiased=False) + visual.ln_post.eps).sqrt()
    return torch.stack([(row - row.mean()) / deviation * visual.ln_post.weight @ visual.proj for row in added])


@torch.no_grad()
def test_clip_s_own_tower_by_loops():
    torch.manual_seed(0)
    visual = vision_tower(48, {"image_size": 32, "patch_size": 8, "width": 64, "layers": 3, "head_width": 32})
    visual = visual.eval().double()
    for parameter in visual.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.05)
    tower = image_tower(visual, 48, "a small ViT")
    pixels = pixels_of(tower)
    patches, _ = contributions(tower, pixels, BLOCKS)
    literal = torch.stack([literal_class_token(visual, image, BLOCKS) for image in pixels])
    torch.testing.assert_close(patches, literal, rtol=0, atol=1e-10)


def with_one_value(visual, pixels, layer, number, patch, monkeypatch):
    """The input of a layer while, in the attention of that number, all values but one patch's are 0."""
    attend, calls, given = torch.nn.functional.scaled_dot_product_attention, [], []

    def only_one(q, k, v, *more, **named):
        calls.append(None)
        if len(calls) == number:
            kept = torch.zeros_like(v)
            kept[:, :, patch] = v[:, :, patch]
            v = kept
        return attend(q, k, v, *more, **named)

    hook = layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with monkeypatch.context() as context:
        context.setattr(torch.nn.functional, "scaled_dot_product_attention", only_one)
        visual(pixels)
    hook.remove()
    return given[-1][:, 0]  # [B, W], of the token that reads


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["MobileCLIP-B", "vit_relpos_medium_patch16_cls_224", "PE-Core-T-16-384", "ViT-B-16-SigLIP"]
)
def test_timm_s_towers_patch_by_patch(name, monkeypatch):
    visual, tower = tower_of(name)
    trunk, pixels = visual.trunk, pixels_of(tower, 1)
    patches, _ = contributions(tower, pixels, blocks=1)
    pool = getattr(trunk, "attn_pool", None)
    attention, number = (trunk.blocks[-1].attn, len(trunk.blocks)) if pool is None else (pool, len(trunk.blocks) + 1)
    norms = []
    norm = trunk.norm if pool is None else trunk.fc_norm
    hook = norm.register_forward_pre_hook(lambda _, inputs: norms.append(inputs[0]))
    visual(pixels)
    hook.remove()
    head = torch.nn.Sequential(trunk.head, visual.head)
    for patch in (0, 3, patches.shape[1] - 1):
        row = patch + trunk.num_prefix_tokens
        added = with_one_value(visual, pixels, attention.proj, number, row, monkeypatch) @ attention.proj.weight.T
        if pool is None:
            added = trunk.blocks[-1].ls1(added)
            whole = norms[0][:, 0]
            deviation = (whole.var(-1, unbiased=False) + norm.eps).sqrt()
            added = (added - added.mean(-1, keepdim=True)) / deviation[:, None] * norm.weight
        expected = head(added) - head(torch.zeros_like(added))
        torch.testing.assert_close(patches[:, patch], expected, rtol=0, atol=1e-10)
