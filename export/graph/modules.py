"""The two static graphs as modules to trace. Inputs and outputs are int32 (indices) or float32 (pixels, features)."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any, TypeVar

import torch
from timm.layers.activations import GELU
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from attri.export.graph.in_float32 import InFloat32
from attri.export.graph.precision import DTYPES, in_precision
from attri.runtime.bundle import Precision
from attri.train.model import AttriPrompt
from attri.train.model.pool import top_entries
from attri.train.model.prompted_text import EmbeddedLabels, TextTower, prompted_text

Tower = TypeVar("Tower", bound=nn.Module)
GELUS = (nn.GELU, GELU)  # timm's too


class Gelu(nn.Module):
    """nn.GELU in the form that ONNX Runtime and TensorRT fuse into one kernel; multiplying by 0.5 is exact."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation, any shape."""
        return (x * 0.5) * (1 + torch.erf(x / math.sqrt(2)))


class AttentionBias(nn.Module):
    """The relative positions of timm's attention, computed once."""

    bias: Tensor

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("bias", bias)

    def get_bias(self) -> Tensor:
        """Return what is added to the scores, [1, H, T, T]."""
        return self.bias


def to_trace(tower: Tower, precision: Precision) -> Tower:
    """Copy a tower in that precision, with parts that the runtimes can fuse and without batch norms."""
    tower = fold_batch_norms(copy.deepcopy(tower))
    module: Any
    for module in list(tower.modules()):
        if hasattr(module, "fused_attn"):
            module.fused_attn = True  # which InFloat32 takes apart
        for name, child in module.named_children():
            if hasattr(child, "get_bias"):
                setattr(module, name, AttentionBias(child.get_bias().detach()))
            if isinstance(child, GELUS) and getattr(child, "approximate", "none") == "none":
                setattr(module, name, Gelu())
    return in_precision(tower, precision)


def fold_batch_norms(tower: Tower) -> Tower:
    """Fold each batch norm into the convolution before it, in place: half precision then rounds only products."""
    for module in list(tower.modules()):
        children = list(module.named_children())
        before: dict[str, str] = {name: name.replace("bn", "conv") for name, _ in children if name.startswith("bn")}
        if isinstance(module, nn.Sequential):
            before = {name: last for (last, _), (name, _) in itertools.pairwise(children)}
        for name, conv in before.items():
            norm = getattr(module, name)
            if isinstance(norm, nn.BatchNorm2d):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), norm))
                setattr(module, name, getattr(norm, "act", nn.Identity()))  # timm's batch norms hold the activation
    return tower


class VisionGraph(nn.Module):
    """Image encoder and retrieval; the keys of the prompt pool are an input.

    pixels float32 [B, 3, H, W], keys float32 [L, D, N]
    -> image_features float32 [B, D], retrieved int32 [B, L, M], scores float32 [B, L, K, N]

    `scores` are the cosines of centres and keys, `retrieved` is their top-k; retrieval hysteresis across frames
    (`attri.runtime.text.hysteresis`) needs all scores. Keys are unit columns: the product then needs no transpose.
    """

    def __init__(self, model: AttriPrompt, precision: Precision) -> None:
        super().__init__()
        self.vision = copy.copy(model.vision)
        self.dtype = DTYPES[precision]
        tower = to_trace(model.vision.tower, precision)
        if self.dtype == torch.float16:
            tower.joint = to_trace(model.vision.tower.joint, "fp32")  # the part of it that retrieval computes with
        self.vision._modules = {**model.vision._modules, "tower": tower}
        self.topk = model.config.topk

    def forward(self, pixels: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode images and retrieve pool entries."""
        with InFloat32():
            features, centres = self.vision(pixels.to(self.dtype))
        scores = centres @ keys
        return features, top_entries(scores, self.topk).to(torch.int32), scores


class TextGraph(nn.Module):
    """Folded text encoder; the key/value tables of the prompt are inputs.

    retrieved int32 [B, L, M], prompt_table float32 [L, N, p, 2 W] and labels (`LabelTokens`), and for a model with
    static tokens static_table float32 [L, q, 2 W] -> text_features float32 [B, C, D]

    Of the labels, prefix [P, W] and suffix_tokens [R, W] are float32 token embeddings; suffix_positions [R],
    token_rows [C, T], scatter_index [R] and eot_rows [C] are int32.
    """

    no_static: Tensor

    def __init__(self, model: AttriPrompt, precision: Precision) -> None:
        super().__init__()
        self.dtype = DTYPES[precision]
        self.text: TextTower = to_trace(model.text, precision)
        width = model.text.positional_embedding.shape[1]
        self.register_buffer("no_static", torch.zeros(model.depth, 0, 2 * width), persistent=False)

    def forward(
        self,
        retrieved: Tensor,
        prompt_table: Tensor,
        prefix: Tensor,
        suffix_tokens: Tensor,
        suffix_positions: Tensor,
        token_rows: Tensor,
        scatter_index: Tensor,
        eot_rows: Tensor,
        static_table: Tensor | None = None,
    ) -> Tensor:
        """Encode labels for the pool entries of each image."""
        prefix, suffix_tokens = prefix.to(self.dtype), suffix_tokens.to(self.dtype)
        labels = EmbeddedLabels(prefix, suffix_tokens, suffix_positions, token_rows, scatter_index, eot_rows)
        static = (self.no_static if static_table is None else static_table).to(self.dtype)
        return prompted_text(self.text, prompt_table.to(self.dtype), static, retrieved, labels)
