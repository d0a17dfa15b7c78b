"""timm's plain vision transformers: EVA01 and EVA02, PE-Core, ViTamin, MobileCLIP-B, vit_medium and vit_relpos.

A patch alone would be pooled to itself, whether the tower reads CLS or the mean; attention pooling is its value path.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from timm.models.eva import EvaBlock
from timm.models.vision_transformer import Block
from timm.models.vision_transformer_relpos import RelPosBlock
from torch import Tensor, nn

from attri.runtime.errors import UsageError
from attri.train.model.towers.attention import Attended, held_norm, product
from attri.train.model.towers.base import ImageTower, Parts, is_linear, mean_of
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

    def parts(self, pixels: Tensor, blocks: int) -> Parts:
        """Divide what attention pooling or CLS took from the patches, or the mean."""
        trunk, head = self.trunk, nn.Sequential(self.trunk.head, self.head)
        with Attended() as blocks_attended:
            *_, last = self.states(pixels)
        tokens = trunk.norm(last)
        if (pool := getattr(trunk, "attn_pool", None)) is not None:
            with Attended() as attended:
                whole = trunk.pool(tokens)
            taken = product(pool.proj, attended.shares[-1])
            return Parts(whole, taken[:, -tokens.shape[1] + self.prefix :], trunk.fc_norm, head)
        if trunk.global_pool == "avg":
            return mean_of(tokens[:, self.prefix :], trunk.fc_norm, head)
        taken = torch.zeros_like(last)
        number = min(blocks, self.layers)
        for block, shares in zip(trunk.blocks[-number:], blocks_attended.shares[-number:], strict=True):
            taken = taken + _added(block, shares)
        norm = trunk.norm if isinstance(trunk.fc_norm, nn.Identity) else trunk.fc_norm
        return Parts(last[:, 0], taken[:, self.prefix :], norm, head)


def _added(block: Any, shares: Tensor) -> Tensor:
    """What a block adds to the class token, by the token that it comes from. [B, 1 + T, W] -> [B, 1 + T, W].

    Raises:
        UsageError: the block is not attention, scale and sum.
    """
    attention = block.attn
    if not isinstance(block, (EvaBlock, Block, RelPosBlock)) or getattr(attention, "gate", None) is not None:
        raise UsageError(f"its blocks ({type(block).__name__}) add more than a product of what they attend to")
    if (norm := getattr(attention, "norm", None)) is not None:
        shares = held_norm(norm, shares.sum(1), shares)
    added = product(attention.proj, shares)
    if isinstance(block, EvaBlock):
        return added if block.gamma_1 is None else block.gamma_1 * added
    return block.ls1(added)  # type: ignore[no-any-return]


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
