"""open_clip's residual attention block in parts, so that attention can read key/value tables instead of tokens.

Everything is decomposed into plain matrix products and a softmax: it is what the exported graphs consist of, and
what training differentiates. Half-precision inputs pass norms and softmax in float32; float64 stays float64.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attri.train.model.open_clip_types import ResidualBlock


def upcast(x: Tensor) -> Tensor:
    """Return x in at least float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def layer_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply a LayerNorm, or the Identity that some towers have instead, in float32; shape and dtype stay."""
    if not isinstance(norm, nn.LayerNorm):
        return x
    y = upcast(x)
    weight, bias = norm.weight.to(y.dtype), norm.bias.to(y.dtype)
    return F.layer_norm(y, norm.normalized_shape, weight, bias, norm.eps).to(x.dtype)


def l2_normalize(x: Tensor) -> Tensor:
    """Divide x by its length along the last axis; as a ReduceSum, which TensorRT 8.6 reads correctly at opset 18."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True).clamp_min(1e-24))


def softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis in at least float32; the dtype stays."""
    return upcast(scores).softmax(-1).to(scores.dtype)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Split the width into heads. [B, T, W] -> [B, H, T, W/H]."""
    batch, tokens, width = x.shape
    return x.reshape(batch, tokens, heads, width // heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """Join the heads again. [B, H, T, W/H] -> [B, T, W]."""
    batch, heads, tokens, width = x.shape
    return x.transpose(1, 2).reshape(batch, tokens, heads * width)


class BlockView:
    """A view of one open_clip ResidualAttentionBlock; it owns nothing."""

    def __init__(self, block: ResidualBlock) -> None:
        self.attention = block.attn
        self.ln_1, self.ln_2 = block.ln_1, block.ln_2
        self.ls_1, self.ls_2, self.mlp = block.ls_1, block.ls_2, block.mlp
        self.heads = self.attention.num_heads
        self.scale: float = (self.attention.embed_dim // self.heads) ** -0.5

    def _project(self, x: Tensor, parts: slice) -> Tensor:
        """The rows `parts` of the stacked q, k, v projection, after the block's first norm."""
        width = self.attention.embed_dim
        rows = slice(parts.start * width, parts.stop * width)
        normed = layer_norm(self.ln_1, x)
        return F.linear(normed, self.attention.in_proj_weight[rows], self.attention.in_proj_bias[rows])

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project to q (already scaled), k and v. [B, T, W] -> each [B, H, T, W/H]."""
        q, k, v = (split_heads(part, self.heads) for part in self._project(x, slice(0, 3)).chunk(3, -1))
        return q * self.scale, k, v

    def query(self, x: Tensor) -> Tensor:
        """Project to the scaled query. [B, T, W] -> [B, H, T, W/H]."""
        return split_heads(self._project(x, slice(0, 1)), self.heads) * self.scale

    def keys_values(self, x: Tensor) -> Tensor:
        """Project to key and value side by side. [..., W] -> [..., 2W]."""
        return self._project(x, slice(1, 3))

    def split_keys_values(self, kv: Tensor) -> tuple[Tensor, Tensor]:
        """Split a key/value table. [B, T, 2W] -> k, v, each [B, H, T, W/H]."""
        k, v = kv.chunk(2, -1)
        return split_heads(k, self.heads), split_heads(v, self.heads)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Run the block after attention: output projection, residuals, MLP. x and attended [B, T, W] -> [B, T, W]."""
        out = self.attention.out_proj
        x = x + self.ls_1(F.linear(attended, out.weight, out.bias))
        return x + self.ls_2(self.mlp(layer_norm(self.ln_2, x)))

    def __call__(self, x: Tensor) -> Tensor:
        """Run the whole block without a mask. [B, T, W] -> [B, T, W]."""
        q, k, v = self.qkv(x)
        return self.finish(x, merge_heads(softmax(q @ k.transpose(-1, -2)) @ v))
