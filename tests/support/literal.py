"""The method word for word: slow, one image at a time, open_clip's own blocks, prompts really concatenated, 77 tokens.

Nothing here is shared with attri but the learned tensors. Everything folded is held against it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def text_part(clip, name):
    return getattr(getattr(clip, "text", clip), name)


def literal_text(clip, tokens: Tensor, static: Tensor, retrieved: Tensor, ids: Tensor) -> Tensor:
    """Unit features [C, D] of the prompts `ids` [C, 77] for one image.

    tokens [L, N, p, W] and static [L, q, W]: learned prompts of each prompted block; retrieved [L, M]: this image's.
    """
    x = text_part(clip, "token_embedding")(ids) + text_part(clip, "positional_embedding")  # [C, 77, W]
    for index, block in enumerate(text_part(clip, "transformer").resblocks):
        prompts = x[:, :0]
        if index < len(tokens):
            entries = [tokens[index, entry] for entry in retrieved[index].tolist()]
            prompts = torch.cat([*entries, static[index]]).expand(len(ids), -1, -1)  # [C, p M + q, W]
        count = prompts.shape[1]
        x = torch.cat([x[:, :1], prompts, x[:, 1:]], 1)
        mask = torch.full((x.shape[1], x.shape[1]), -math.inf, dtype=x.dtype).triu(1)
        x = block(x, attn_mask=mask)
        x = torch.cat([x[:, :1], x[:, 1 + count :]], 1)
    eot = text_part(clip, "ln_final")(x)[torch.arange(len(ids)), ids.argmax(-1)]
    projection = text_part(clip, "text_projection")
    return torch.nn.functional.normalize(
        eot @ projection if isinstance(projection, Tensor) else projection(eot), dim=-1
    )


def literal_image(clip, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """One image [1, 3, H, W] -> its unit feature [D] and the patch tokens after every vision block, each [T, W]."""
    out = clip.visual.forward_intermediates(pixels, output_fmt="NLC")
    return torch.nn.functional.normalize(out["image_features"][0], dim=-1), [x[0] for x in out["image_intermediates"]]


def literal_centres(clip, tokens: Tensor, clusters: int, steps: int, start: str) -> Tensor:
    """Spherical k-means of one image's patch tokens [T, W], by loops -> unit projected centres [K, D]."""
    centres, _ = literal_clusters(clip, tokens, clusters, steps, start)
    return torch.stack([normal(centre @ clip.visual.proj) for centre in centres])


def literal_clusters(clip, tokens: Tensor, clusters: int, steps: int, start: str) -> tuple[list[Tensor], list[int]]:
    """The same, not projected -> K unit centres [W], and for each patch the number of the centre most like it."""
    rows = [x / x.norm() for x in clip.visual.ln_post(tokens)]
    centres = grid_start(rows, clip.visual.grid_size, clusters) if start == "grid" else farthest_start(rows, clusters)
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
    return [normal(sum(region) / len(region)) for region in regions]


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
