"""Attention pooling of a single token: whatever the query asks, all of it goes to that token's value.

The softmax over one score is 1, so query and key drop out and the pool is an affine map, exactly:

    pool(x) = y + mlp(norm(y)),  y = W_o (W_v x + b_v) + b_o
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class LatentValuePath(nn.Module):
    """timm's AttentionPoolLatent of one token; it shares the pool's weights."""

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self.kv, self.proj, self.norm, self.mlp = pool.kv, pool.proj, pool.norm, pool.mlp

    def forward(self, x: Tensor) -> Tensor:
        """Pool each token by itself. [..., W] -> [..., W]."""
        width = self.kv.out_features // 2
        y = self.proj(F.linear(x, self.kv.weight[width:], self.kv.bias[width:]))
        return y + self.mlp(self.norm(y))  # type: ignore[no-any-return]


class ValuePath(nn.Module):
    """CLIP's AttentionPool2d of one token, without the positional embedding; it shares the pool's weights."""

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self.v_proj, self.c_proj = pool.v_proj, pool.c_proj

    def forward(self, x: Tensor) -> Tensor:
        """Pool each token by itself. [..., W] -> [..., D]."""
        return self.c_proj(self.v_proj(x))  # type: ignore[no-any-return]
