"""The sum that attention is, before it is added up: what one token takes from each of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attri.train.model.blocks import merge_heads, softmax, upcast


def shares(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Divide what the first token attends to by the token that it comes from.

    Args:
        q: scaled queries [B, H, T', d], of which the first counts.
        k: keys [B, H, T, d].
        v: values [B, H, T, d].
        bias: added to the scores [..., T', T].

    Returns:
        Weighted values of each token [B, T, H d]; their sum is the first token's attention.
    """
    scores = q[:, :, :1] @ k.transpose(-1, -2)  # [B, H, 1, T]
    if bias is not None:
        scores = scores + bias[..., :1, :].to(scores.dtype)
    return merge_heads(softmax(scores).transpose(-1, -2) * v)


def product(linear: nn.Module, x: Tensor) -> Tensor:
    """Apply a linear layer without its bias, which belongs to no token."""
    weight: Any = linear.weight
    return F.linear(x, weight)


def held_norm(norm: nn.Module, at: Tensor, x: Tensor, *, bias: bool = False) -> Tensor:
    """Apply a LayerNorm with the mean and deviation that another input has; then it is affine.

    Args:
        norm: a LayerNorm, or the Identity that some towers have in its place.
        at: what gives the deviation [B, W].
        x: parts of `at`, [B, T, W]; their own means are taken away, which add up to that of `at`.
        bias: whether to add the norm's bias, which is no part's own.
    """
    if not isinstance(norm, nn.LayerNorm):
        return x
    variance = upcast(at).var(-1, unbiased=False)[:, None, None]
    y = upcast(x)
    y = (y - y.mean(-1, keepdim=True)) * torch.rsqrt(variance + norm.eps) * norm.weight.to(y.dtype)
    return (y + norm.bias.to(y.dtype) if bias else y).to(x.dtype)


class Attended(TorchFunctionMode):
    """Note what the first token takes from each other in every attention that runs inside, in timm's modules.

    Attributes:
        shares: of each attention in turn, as of `shares`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shares: list[Tensor] = []

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Look at attention, and call every function as it is."""
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention:
            q, k, v, *more = args
            scale = kwargs.get("scale") or q.shape[-1] ** -0.5
            self.shares.append(shares(q * scale, k, v, more[0] if more else kwargs.get("attn_mask")))
        return function(*args, **kwargs)
