"""Towers that halve their map from stage to stage: ConvNeXt, Swin and CLIP's own ResNet.

Only the last stage has the width that the tower's head maps into the joint space, so its blocks are those that
retrieval reads: two or three, which the text blocks share in turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from attri.train.model.blocks import layer_norm, merge_heads, softmax, split_heads
from attri.train.model.towers.base import ImageTower, is_linear
from attri.train.model.towers.value_path import ValuePath


def tokens_of(x: Tensor) -> Tensor:
    """Make rows of a map. [B, W, h, w] -> [B, T, W]."""
    return x.flatten(2).transpose(1, 2)


class ConvNext(ImageTower):
    """timm's ConvNeXt: pools the mean of its map, then norm and projection."""

    transformer = False

    def __init__(self, visual: Any, joint_width: int, name: str) -> None:
        trunk, size = visual.trunk, visual.image_size[0]
        side = size // trunk.feature_info[-1]["reduction"]
        blocks = len(trunk.stages[-1].blocks)
        joint = nn.Sequential(trunk.head.pre_logits, trunk.head.fc, visual.head)
        super().__init__(size, (side, side), 0, blocks, joint, joint_width, is_linear(joint))
        self.trunk, self.head = trunk, visual.head

    def states(self, pixels: Tensor) -> Iterator[Tensor]:
        """Yield the last stage's map after each of its blocks, as rows. [B, 3, H, W] -> [B, T, W]."""
        x = self.trunk.stem(pixels)
        *earlier, last = self.trunk.stages
        for stage in earlier:
            x = stage(x)
        x = last.downsample(x)
        for block in last.blocks:
            x = block(x)
            yield tokens_of(x)

    def normalize(self, tokens: Tensor) -> Tensor:
        """Apply the head's norm, which comes after pooling."""
        return layer_norm(self.trunk.head.norm, tokens)

    def feature(self, tokens: Tensor) -> Tensor:
        """Run the tower's own head. [B, T, W] -> [B, D]."""
        x = tokens.transpose(1, 2).reshape(-1, tokens.shape[2], *self.grid)  # [B, W, h, w]
        return self.head(self.trunk.forward_head(self.trunk.norm_pre(x)))  # type: ignore[no-any-return]


class Swin(ImageTower):
    """timm's Swin transformer: norm, the mean of its map, projection."""

    def __init__(self, visual: Any, joint_width: int, name: str) -> None:
        trunk = visual.trunk
        last = trunk.layers[-1]
        joint = nn.Sequential(trunk.head.fc, visual.head)
        size = trunk.patch_embed.img_size[0]
        super().__init__(size, tuple(last.output_resolution), 0, len(last.blocks), joint, joint_width, is_linear(joint))
        self.trunk, self.head = trunk, visual.head

    def states(self, pixels: Tensor) -> Iterator[Tensor]:
        """Yield the last stage's map after each of its blocks, as rows. [B, 3, H, W] -> [B, T, W]."""
        x = self.trunk.patch_embed(pixels)
        *earlier, last = self.trunk.layers
        for stage in earlier:
            x = stage(x)
        x = last.downsample(x)
        for block in last.blocks:
            x = block(x)  # [B, h, w, W]
            yield x.flatten(1, 2)

    def normalize(self, tokens: Tensor) -> Tensor:
        """Apply the trunk's last norm."""
        return layer_norm(self.trunk.norm, tokens)

    def feature(self, tokens: Tensor) -> Tensor:
        """Run the tower's own head. [B, T, W] -> [B, D]."""
        x = self.trunk.norm(tokens.reshape(-1, *self.grid, tokens.shape[2]))  # [B, h, w, W]
        return self.head(self.trunk.forward_head(x))  # type: ignore[no-any-return]


class ClipResNet(ImageTower):
    """CLIP's ModifiedResNet: attention pooling whose one query is the mean of the map."""

    transformer = False

    def __init__(self, visual: Any, joint_width: int, name: str) -> None:
        size = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
        joint = ValuePath(visual.attnpool)
        super().__init__(size, (size // 32, size // 32), 0, len(visual.layer4), joint, joint_width, linear=False)
        self.visual = visual

    def states(self, pixels: Tensor) -> Iterator[Tensor]:
        """Yield the last stage's map after each of its blocks, as rows. [B, 3, H, W] -> [B, T, W]."""
        visual = self.visual
        x = visual.layer3(visual.layer2(visual.layer1(visual.stem(pixels))))
        for block in visual.layer4:
            x = block(x)
            yield tokens_of(x)

    def normalize(self, tokens: Tensor) -> Tensor:
        """Leave the tokens as they are: this tower has no norm."""
        return tokens

    def feature(self, tokens: Tensor) -> Tensor:
        """Pool by attention; of the queries only the mean's is computed. [B, T, W] -> [B, D]."""
        pool = self.visual.attnpool
        mean = tokens.sum(1, keepdim=True) / tokens.shape[1]
        x = torch.cat([mean, tokens], 1) + pool.positional_embedding  # [B, 1 + T, W]
        heads = pool.num_heads
        q = split_heads(linear(x[:, :1], pool.q_proj.weight, pool.q_proj.bias), heads)  # [B, H, 1, d]
        k, v = (split_heads(linear(x, part.weight, part.bias), heads) for part in (pool.k_proj, pool.v_proj))
        attended = softmax(q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)) @ v  # [B, H, 1, d]
        return linear(merge_heads(attended)[:, 0], pool.c_proj.weight, pool.c_proj.bias)
