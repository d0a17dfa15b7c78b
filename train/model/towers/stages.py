"""Towers that halve their map from stage to stage: ConvNeXt, Swin, FastViT and CLIP's own ResNet.

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
from attri.train.model.towers.attention import product, shares
from attri.train.model.towers.base import ImageTower, Parts, is_linear, mean_of
from attri.train.model.towers.value_path import ValuePath


def tokens_of(x: Tensor) -> Tensor:
    """Make rows of a map. [B, W, h, w] -> [B, T, W]."""
    return x.flatten(2).transpose(1, 2)


def into_last_stage(x: Tensor, stages: Any) -> tuple[Tensor, Any]:
    """Run all stages but the blocks of the last; return its map before them, and the stage."""
    *earlier, last = stages
    for stage in earlier:
        x = stage(x)
    return last.downsample(x), last


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
        x, last = into_last_stage(self.trunk.stem(pixels), self.trunk.stages)
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

    def parts(self, pixels: Tensor, blocks: int) -> Parts:
        """Divide the mean."""
        *_, last = self.states(pixels)
        return mean_of(last, self.trunk.head.norm, self.joint)


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
        x, last = into_last_stage(self.trunk.patch_embed(pixels), self.trunk.layers)
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

    def parts(self, pixels: Tensor, blocks: int) -> Parts:
        """Divide the mean."""
        *_, last = self.states(pixels)
        return mean_of(self.normalize(last), nn.Identity(), self.joint)


class FastVit(ImageTower):
    """timm's FastViT (MobileCLIP-S): a last convolution widens the map, then its mean and the projection.

    That convolution belongs to what the tower reads of a patch, so it is run after each block of the last stage.
    """

    transformer = False

    def __init__(self, visual: Any, joint_width: int, name: str) -> None:
        trunk, size = visual.trunk, visual.image_size[0]
        side = size // trunk.feature_info[-1]["reduction"]
        joint = nn.Sequential(trunk.head.fc, visual.head)
        blocks = len(trunk.stages[-1].blocks)
        super().__init__(size, (side, side), 0, blocks, joint, joint_width, is_linear(joint))
        self.trunk, self.head = trunk, visual.head

    def states(self, pixels: Tensor) -> Iterator[Tensor]:
        """Yield the last stage's map after each of its blocks and the last convolution. [B, 3, H, W] -> [B, T, W]."""
        x, last = into_last_stage(self.trunk.stem(pixels), self.trunk.stages)
        x = last.pos_emb(x)
        for block in last.blocks:
            x = block(x)
            yield tokens_of(self.trunk.final_conv(x))

    def normalize(self, tokens: Tensor) -> Tensor:
        """Leave the tokens as they are: this tower has no norm."""
        return tokens

    def feature(self, tokens: Tensor) -> Tensor:
        """Run the tower's own head. [B, T, W] -> [B, D]."""
        x = tokens.transpose(1, 2).reshape(-1, tokens.shape[2], *self.grid)  # [B, W, h, w]
        return self.head(self.trunk.forward_head(x))  # type: ignore[no-any-return]

    def parts(self, pixels: Tensor, blocks: int) -> Parts:
        """Divide the mean."""
        *_, last = self.states(pixels)
        return mean_of(last, nn.Identity(), self.joint)


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
        q, k, v = self._qkv(tokens)
        attended = softmax(q @ k.transpose(-1, -2)) @ v  # [B, H, 1, d]
        pool = self.visual.attnpool
        return linear(merge_heads(attended)[:, 0], pool.c_proj.weight, pool.c_proj.bias)

    def parts(self, pixels: Tensor, blocks: int) -> Parts:
        """Divide what attention pooling took."""
        *_, last = self.states(pixels)
        taken = product(self.visual.attnpool.c_proj, shares(*self._qkv(last)))  # [B, 1 + T, D], the mean first
        return Parts(self.feature(last), taken[:, 1:], nn.Identity(), nn.Identity())

    def _qkv(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The scaled query of the mean [B, H, 1, d], and keys and values of mean and patches [B, H, 1 + T, d]."""
        pool = self.visual.attnpool
        mean = tokens.sum(1, keepdim=True) / tokens.shape[1]
        x = torch.cat([mean, tokens], 1) + pool.positional_embedding  # [B, 1 + T, W]
        heads = pool.num_heads
        q = split_heads(linear(x[:, :1], pool.q_proj.weight, pool.q_proj.bias), heads)
        k, v = (split_heads(linear(x, part.weight, part.bias), heads) for part in (pool.k_proj, pool.v_proj))
        return q * q.shape[-1] ** -0.5, k, v
