"""What stays float32 inside of modules that attri runs as they are: norms, means and softmax, in every precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attri.train.model.blocks import softmax, upcast

__all__ = ["InFloat32", "attend"]


class InFloat32(TorchFunctionMode):
    """Compute norms and means of what runs inside in float32, and attention as products with a float32 softmax.

    timm's blocks call PyTorch's functions on whatever dtype they get. The tracer would write their fused attention at
    opset 18 with a softmax in half; as plain products it is what the runtimes fuse. A mean is a sum, as in
    `attri.train.model.blocks.l2_normalize`.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Replace these functions, and call every other."""
        kwargs = kwargs or {}
        if function is F.layer_norm:
            return layer_norm(*args, **kwargs)
        if function is F.scaled_dot_product_attention:
            return attend(*args, **kwargs)
        if function in (torch.mean, Tensor.mean) and "dtype" not in kwargs:
            return mean(*args, **kwargs)
        return function(*args, **kwargs)


def layer_norm(
    x: Tensor, shape: list[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """PyTorch's layer_norm in at least float32; the dtype stays."""
    y = upcast(x)
    weight, bias = (None if part is None else part.to(y.dtype) for part in (weight, bias))
    return F.layer_norm(y, shape, weight, bias, eps).to(x.dtype)


def mean(x: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
    """PyTorch's mean in at least float32; the dtype stays."""
    dims = list(range(x.dim())) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    count = math.prod(x.shape[each] for each in dims)
    return (upcast(x).sum(dims, keepdim) / count).to(x.dtype)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """PyTorch's scaled_dot_product_attention of a frozen tower. q, k, v [B, H, T, d] -> [B, H, T, d]."""
    assert not is_causal, dropout_p
    scores = q * (q.shape[-1] ** -0.5 if scale is None else scale) @ k.transpose(-1, -2)
    return softmax(scores if attn_mask is None else scores + attn_mask.to(scores.dtype)) @ v
