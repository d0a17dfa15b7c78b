"""open_clip's own VisionTransformer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from attri.runtime.errors import UsageError
from attri.train.model.blocks import BlockView, layer_norm
from attri.train.model.open_clip_types import VisionTransformer
from attri.train.model.towers.attention import product, shares
from attri.train.model.towers.base import ImageTower, Parts, mean_of


class Projection(nn.Module):
    """The product with a matrix [W, D] that belongs to the tower, in the dtype of what comes in."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """Project. [..., W] -> [..., D]."""
        return x @ self.weight.to(x.dtype)


class ClipVit(ImageTower):
    """open_clip's VisionTransformer in parts, with CLS before the patches.

    Args:
        visual: pools CLS or the mean of the patches.
        joint_width: D.
        name: of the model, for messages.

    Raises:
        UsageError: the tower has other parts; with the model's name and the reason.
    """

    def __init__(self, visual: VisionTransformer, joint_width: int, name: str) -> None:
        check(visual, name)
        blocks = len(visual.transformer.resblocks)
        joint = Projection(visual.proj)
        super().__init__(visual.image_size[0], visual.grid_size, 1, blocks, joint, joint_width, linear=True)
        self.visual = visual

    def states(self, pixels: Tensor) -> Iterator[Tensor]:
        """Yield the tokens after each block, CLS first. [B, 3, H, W] -> [B, 1 + T, W]."""
        visual = self.visual
        patches = visual.conv1(pixels).flatten(2).transpose(1, 2)  # [B, T, W]
        cls = visual.class_embedding.expand(patches.shape[0], 1, -1)
        x = torch.cat([cls, patches], 1) + visual.positional_embedding
        x = layer_norm(visual.ln_pre, x)
        for block in visual.transformer.resblocks:
            x = BlockView(block)(x)
            yield x

    def normalize(self, tokens: Tensor) -> Tensor:
        """Apply ln_post."""
        return layer_norm(self.visual.ln_post, tokens)

    def feature(self, tokens: Tensor) -> Tensor:
        """Project CLS or the mean of the patches. [B, 1 + T, W] -> [B, D]."""
        return self._pool(tokens) @ self.visual.proj.to(tokens.dtype)

    def parts(self, pixels: Tensor, blocks: int) -> Parts:
        """Divide what CLS took from the patches in the last blocks, or the mean."""
        *states, last = self.states(pixels)
        if self.visual.pool_type != "tok":
            after = self.visual.final_ln_after_pool
            tokens = last[:, 1:] if after else self.normalize(last[:, 1:])
            return mean_of(tokens, self.visual.ln_post if after else nn.Identity(), self.joint)
        taken = torch.zeros_like(last[:, 1:])
        number = min(blocks, len(states))  # the first block's input is no state
        views = [BlockView(block) for block in self.visual.transformer.resblocks]
        for view, x in zip(views[-number:], states[-number:], strict=True):
            q, k, v = view.qkv(x)
            taken = taken + view.ls_1(product(view.attention.out_proj, shares(q, k, v)))[:, 1:]
        return Parts(last[:, 0], taken, self.visual.ln_post, self.joint)

    def _pool(self, x: Tensor) -> Tensor:
        """[B, 1 + T, W] -> [B, W]."""
        if self.visual.pool_type == "tok":
            return self.normalize(x[:, 0])
        if self.visual.final_ln_after_pool:
            return self.normalize(x[:, 1:].mean(1))
        return self.normalize(x[:, 1:]).mean(1)


def check(visual: Any, name: str) -> None:
    """Check that a tower has no parts but those above.

    Raises:
        UsageError: with the model's name and the reason.
    """
    from open_clip.transformer import ResidualAttentionBlock

    if visual.attn_pool is not None or visual.pool_type not in ("tok", "avg"):
        raise UsageError(f"{name} is not supported: its image tower pools by attention")
    height, width = visual.image_size
    if height != width:
        raise UsageError(f"{name} takes {height} x {width} images: only square ones are supported")
    if visual.proj is None or not isinstance(visual.patch_dropout, nn.Identity):
        raise UsageError(f"{name} is not supported: its image tower has no plain projection or drops patches")
    if not all(type(block) is ResidualAttentionBlock for block in visual.transformer.resblocks):
        raise UsageError(f"{name} is not supported: its blocks are not CLIP's (custom attention)")
