"""Types of the open_clip modules that attri reads, for type checkers; nothing is made of these classes.

open_clip has no annotations, and PyTorch says of an attribute of a module only that it is a tensor or a module. A model
that `attri.train.model.backbone.check_foldable` lets pass has these attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn


class Attention(nn.Module):
    """nn.MultiheadAttention with one stacked projection of q, k and v, as in all blocks of CLIP."""

    embed_dim: int
    num_heads: int
    in_proj_weight: Tensor  # [3 W, W]
    in_proj_bias: Tensor  # [3 W]
    out_proj: nn.Linear


class ResidualBlock(nn.Module):
    """ResidualAttentionBlock."""

    ln_1: nn.Module
    attn: Attention
    ls_1: Callable[[Tensor], Tensor]
    ln_2: nn.Module
    mlp: Callable[[Tensor], Tensor]
    ls_2: Callable[[Tensor], Tensor]


class Transformer(nn.Module):
    """Transformer."""

    resblocks: Sequence[ResidualBlock]  # an nn.ModuleList


class VisionTransformer(nn.Module):
    """VisionTransformer: the image tower."""

    image_size: tuple[int, int]
    grid_size: tuple[int, int]
    conv1: nn.Conv2d
    class_embedding: Tensor
    positional_embedding: Tensor
    ln_pre: nn.Module
    transformer: Transformer
    ln_post: nn.Module
    proj: Tensor  # [W, D]
    pool_type: str
    final_ln_after_pool: bool


class TextTransformer(nn.Module):
    """What holds the text tower's parts: a CLIP itself, or the `text` of a CustomTextCLIP."""

    token_embedding: nn.Embedding
    positional_embedding: Tensor  # [77, W]
    transformer: Transformer
    ln_final: nn.Module
    text_projection: Tensor | nn.Linear | None


class CLIP(nn.Module):
    """CLIP or CustomTextCLIP."""

    visual: VisionTransformer
    logit_scale: Tensor
