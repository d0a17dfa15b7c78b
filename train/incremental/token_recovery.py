r"""Prompt tokens from the key/value tables of a prompt file, which holds no tokens.

A table is affine in the normalized token, block by block: KV_l = W_l (g_l * z + h_l) + b_l, where W_l and b_l project
to keys and values, g_l and h_l are weight and bias of the block's first norm, and z = (P - mean P) / sqrt(var P + eps).
So z is the solution of a linear least-squares problem, over all blocks that share the token. The length of P is in z
too: its mean square is var P / (var P + eps). The mean of P is lost, and nothing depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from attri.train.model.open_clip_types import ResidualBlock

LONGEST = 0.9999  # mean square of z from which on float32 no longer tells the length of P


@torch.no_grad()
def tokens_of_tables(blocks: Sequence[ResidualBlock], tables: Tensor) -> Tensor:
    """Compute the tokens whose key/value tables these are.

    Args:
        blocks: text blocks that read the same tokens, L of them.
        tables: float32 [L, ..., 2 W].

    Returns:
        Prompt tokens, float32 [..., W], each with a mean of 0.
    """
    matrices, targets, eps = [], [], 0.0
    for block, table in zip(blocks, tables.double(), strict=True):
        attention, norm = block.attn, cast(nn.LayerNorm, block.ln_1)
        width, eps = attention.embed_dim, norm.eps
        project, bias = attention.in_proj_weight[width:].double(), attention.in_proj_bias[width:].double()
        matrices.append(project * norm.weight.double())  # [2 W, W]
        targets.append(table.flatten(0, -2) - bias - project @ norm.bias.double())  # [P, 2 W]
    matrix, target = torch.cat(matrices), torch.cat(targets, -1)  # [2 L W, W], [P, 2 L W]
    z: Tensor = torch.linalg.lstsq(matrix, target.T).solution.T  # [P, W]
    z = z - z.mean(-1, keepdim=True)
    square = z.square().mean(-1, keepdim=True).clamp(0, LONGEST)  # var P / (var P + eps)
    return (z * (eps / (1 - square)).sqrt()).float().reshape(*tables.shape[1:-1], -1)
