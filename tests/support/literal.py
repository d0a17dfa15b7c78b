"""The method word for word: slow, one image at a time, open_clip's own blocks, prompts really concatenated, 77 tokens.

Nothing here is shared with attri but the learned tensors. Everything folded is held against it.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn


def text_part(clip, name):
    return getattr(getattr(clip, "text", clip), name)


def literal_text(clip, tokens: Tensor, static: Tensor, retrieved: Tensor, ids: Tensor) -> Tensor:
    """Unit features [C, D] of the prompts `ids` [C, 77] for one image.

    tokens [L, N, p, W] and static [L, q, W]: learned prompts of each prompted block; retrieved [L, M]: this image's.
    A tower that is not causal has them in its last blocks, and its tokens see each other, padding too.
    """
    x = text_part(clip, "token_embedding")(ids) + text_part(clip, "positional_embedding")  # [C, 77, W]
    blocks, causal = text_part(clip, "transformer").resblocks, text_part(clip, "attn_mask") is not None
    for index, block in enumerate(blocks, start=0 if causal else len(tokens) - len(blocks)):
        prompts = x[:, :0]
        if 0 <= index < len(tokens):
            entries = [tokens[index, entry] for entry in retrieved[index].tolist()]
            prompts = torch.cat([*entries, static[index]]).expand(len(ids), -1, -1)  # [C, p M + q, W]
        count = prompts.shape[1]
        x = torch.cat([x[:, :1], prompts, x[:, 1:]], 1)
        mask = torch.full((x.shape[1], x.shape[1]), -math.inf, dtype=x.dtype).triu(1)
        x = block(x, attn_mask=mask if causal else None)
        x = torch.cat([x[:, :1], x[:, 1 + count :]], 1)
    last = getattr(getattr(clip, "text", clip), "pool_type", "argmax") == "last"
    place = torch.full((len(ids),), ids.shape[1] - 1) if last else ids.argmax(-1)
    eot = text_part(clip, "ln_final")(x)[torch.arange(len(ids)), place]
    projection = text_part(clip, "text_projection")
    return torch.nn.functional.normalize(
        eot @ projection if isinstance(projection, Tensor) else projection(eot), dim=-1
    )


def literal_image(clip, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """One image [1, 3, H, W] -> its unit feature [D] and the patch tokens after every usable vision block, each [T, W].

    Recorded while the model itself runs.
    """
    seen: list[Tensor] = []
    last = getattr(getattr(clip.visual, "trunk", None), "final_conv", nn.Identity())  # FastViT's, before the head
    hooks = [
        block.register_forward_hook(lambda *call: seen.append(patches(last(call[-1])))) for block in vision_blocks(clip)
    ]
    feature = clip.encode_image(pixels, normalize=True)[0]
    for hook in hooks:
        hook.remove()
    return feature, seen


def vision_blocks(clip) -> list[nn.Module]:
    """Blocks of a transformer, or of the last stage, which alone has the width that the head takes."""
    visual = clip.visual
    if hasattr(visual, "transformer"):
        return list(visual.transformer.resblocks)
    if hasattr(visual, "layer4"):
        return list(visual.layer4)
    trunk = visual.trunk
    return list(
        next(
            t
            for t in (trunk, *reversed(getattr(trunk, "stages", getattr(trunk, "layers", []))))
            if hasattr(t, "blocks")
        ).blocks
    )


def patches(x: Tensor) -> Tensor:
    """Of one image [1, n, W], [1, W, h, w] or [1, h, w, W]; the patches are the square at the end."""
    if x.dim() == 4:
        return x[0].flatten(0, 1) if x.shape[1] == x.shape[2] else x[0].flatten(1).T
    return x[0, x.shape[1] - math.isqrt(x.shape[1]) ** 2 :]


def last_norms(visual) -> list[tuple[nn.Module, str]]:
    """The norms between the last block and the joint space, and where they are."""
    if hasattr(visual, "layer4") or hasattr(getattr(visual, "trunk", None), "final_conv"):
        return []
    if hasattr(visual, "ln_post"):
        return [(visual, "ln_post")]
    trunk = visual.trunk
    if hasattr(trunk, "stages"):
        return [(trunk.head, "norm")]
    after_pooling = hasattr(trunk, "fc_norm") and getattr(trunk, "attn_pool", None) is None
    return [(trunk, "norm")] + [(trunk, "fc_norm")] * after_pooling


def pooled_alone(visual, token: Tensor) -> Tensor:
    """What the tower makes of a token [W] after its last block, if that were its only one, unit [D]."""
    if hasattr(visual, "layer4"):
        pool = copy.deepcopy(visual.attnpool)  # a single token has no place
        pool.positional_embedding.data = torch.zeros_like(pool.positional_embedding[:2])
        return normal(pool(token[None, :, None, None])[0])
    if hasattr(visual, "ln_post"):
        return normal(visual.ln_post(token) @ visual.proj)
    trunk = visual.trunk
    if hasattr(trunk, "stages"):
        pooled = trunk.forward_head(getattr(trunk, "norm_pre", nn.Identity())(token[None, :, None, None]))
    else:
        pooled = trunk.forward_head(
            trunk.norm(token[None, None, None] if hasattr(trunk, "layers") else token[None, None])
        )
    return normal(visual.head(pooled)[0])


def literal_centres(clip, tokens: Tensor, clusters: int, steps: int, start: str) -> Tensor:
    """Spherical k-means of one image's patch tokens [T, W], by loops -> unit centres in the joint space [K, D]."""
    visual = clip.visual
    length = sum(row.norm() for row in normed(visual, tokens)) / len(tokens)
    centres, _ = literal_clusters(clip, tokens, clusters, steps, start)
    norms = [(owner, name, getattr(owner, name)) for owner, name in last_norms(visual)]
    for owner, name, _ in norms:
        setattr(owner, name, nn.Identity())  # they were applied before clustering
    mapped = torch.stack([pooled_alone(visual, centre * length) for centre in centres])
    for owner, name, norm in norms:
        setattr(owner, name, norm)
    return mapped


def normed(visual, tokens: Tensor) -> list[Tensor]:
    """The tokens after the last norms, one by one."""
    for owner, name in last_norms(visual):
        norm = getattr(owner, name)
        tokens = (
            torch.nn.functional.layer_norm(tokens, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
            if hasattr(norm, "eps")
            else tokens
        )
    return list(tokens)


def literal_clusters(clip, tokens: Tensor, clusters: int, steps: int, start: str) -> tuple[list[Tensor], list[int]]:
    """The same, not projected -> K unit centres [W], and for each patch the number of the centre most like it."""
    rows = [x / x.norm() for x in normed(clip.visual, tokens)]
    grid = (math.isqrt(len(rows)),) * 2
    centres = grid_start(rows, grid, clusters) if start == "grid" else farthest_start(rows, clusters)
    for _ in range(steps):
        labels = nearest(rows, centres)
        groups = [[row for row, label in zip(rows, labels, strict=True) if label == k] for k in range(clusters)]
        centres = [normal(sum(group)) if group else centre for group, centre in zip(groups, centres, strict=True)]
    return centres, nearest(rows, centres)


def nearest(rows, centres) -> list[int]:
    likeness = [[float(row @ centre) for centre in centres] for row in rows]
    return [one.index(max(one)) for one in likeness]


def grid_start(rows, grid, clusters):
    height, width = grid
    down = {1: 1, 2: 2, 3: 3, 4: 2, 6: 3, 8: 4, 9: 3}[clusters]
    across = clusters // down
    regions: list[list[Tensor]] = [[] for _ in range(clusters)]
    for y in range(height):
        for x in range(width):
            regions[(y * down // height) * across + x * across // width].append(rows[y * width + x])
    return [normal(sum(region, torch.zeros_like(rows[0])) / len(region)) for region in regions]


def farthest_start(rows, clusters):
    middle = sum(rows) / len(rows)
    likeness = [float(row @ middle) for row in rows]
    chosen = [rows[likeness.index(max(likeness))]]
    while len(chosen) < clusters:
        nearest = [max(float(row @ centre) for centre in chosen) for row in rows]
        chosen.append(rows[nearest.index(min(nearest))])
    return chosen


def literal_retrieve(centres: Tensor, keys: Tensor, topk: int) -> list[int]:
    """Entries that one image's centres [K, D] choose among keys [N, D], sorted, with repeats."""
    chosen = []
    for centre in centres:
        scores = [float(centre @ normal(key)) for key in keys]
        chosen += sorted(range(len(scores)), key=lambda entry: (-scores[entry], entry))[:topk]
    return sorted(chosen)


def normal(x: Tensor) -> Tensor:
    return x / x.norm()


def source_block(block: int, vision_layers: int, text_layers: int) -> int:
    """Vision block (1-based) that text block `block` (1-based) asks with."""
    return math.ceil(block * vision_layers / text_layers)
