"""timm's plain vision transformers: EVA01 and EVA02, PE-Core, ViTamin, MobileCLIP-B, vit_medium and vit_relpos.

A patch alone would be pooled to itself, whether the tower reads CLS or the mean; attention pooling is its value path.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from attri.runtime.errors import UsageError
from attri.train.model.towers.base import ImageTower, is_linear
from attri.train.model.towers.value_path import LatentValuePath


class TimmVit(ImageTower):
    """A transformer of timm in parts: Eva, VisionTransformer or VisionTransformerRelPos.

    Args:
        visual: open_clip's TimmModel, a trunk and perhaps a projection after it.
        joint_width: D.
        name: of the model, for messages.

    Raises:
        UsageError: the tower has other parts; with the model's name and the reason.
    """

    def __init__(self, visual: Any, joint_width: int, name: str) -> None:
        trunk = visual.trunk
        check(trunk, name)
        pool: Any = getattr(trunk, "attn_pool", None)
        one = nn.Identity() if pool is None else nn.Sequential(LatentValuePath(pool), trunk.fc_norm)
        joint = nn.Sequential(one, trunk.head, visual.head)
        linear = pool is None and is_linear(joint)
        embed = trunk.patch_embed
        super().__init__(
            embed.img_size[0], embed.grid_size, trunk.num_prefix_tokens, len(trunk.blocks), joint, joint_width, linear
        )
        self.trunk, self.head = trunk, visual.head

    def states(self, pixels: Tensor) -> Iterator[Tensor]:
        """Yield the tokens after each block, CLS first where there is one. [B, 3, H, W] -> [B, prefix + T, W]."""
        trunk = self.trunk
        x, more = trunk.patch_embed(pixels), {}
        if hasattr(trunk, "shared_rel_pos"):
            if trunk.cls_token is not None:
                x = torch.cat([trunk.cls_token.expand(x.shape[0], -1, -1), x], 1)
            more["shared_rel_pos"] = None if trunk.shared_rel_pos is None else trunk.shared_rel_pos.get_bias()
        elif hasattr(trunk, "rope"):
            x, more["rope"] = trunk._pos_embed(x)
            x = trunk.norm_pre(x)
        else:
            x = trunk.norm_pre(trunk._pos_embed(x))
        for block in trunk.blocks:
            x = block(x, **more)
            yield x

    def normalize(self, tokens: Tensor) -> Tensor:
        """Apply the trunk's last norm, before or after pooling: of a single token both are the same."""
        x = self.trunk.norm(tokens)
        if getattr(self.trunk, "attn_pool", None) is None:
            x = self.trunk.fc_norm(x)
        return x  # type: ignore[no-any-return]

    def feature(self, tokens: Tensor) -> Tensor:
        """Run the tower's own head. [B, prefix + T, W] -> [B, D]."""
        trunk = self.trunk
        return self.head(trunk.forward_head(trunk.norm(tokens)))  # type: ignore[no-any-return]


def check(trunk: Any, name: str) -> None:
    """Check that a trunk has no parts but those above.

    Raises:
        UsageError: with the model's name and the reason.
    """
    pool = getattr(trunk, "attn_pool", None)
    if pool is not None and (pool.latent_len != 1 or pool.pos_embed is not None or pool.mlp is None):
        raise UsageError(f"{name} is not supported: its attention pooling has several queries, or positions")
    if pool is None and trunk.global_pool not in ("token", "avg"):
        raise UsageError(f"{name} is not supported: its image tower pools by {trunk.global_pool!r}")
    if getattr(trunk, "rope_mixed", False):
        raise UsageError(f"{name} is not supported: its rotary positions differ from block to block")
