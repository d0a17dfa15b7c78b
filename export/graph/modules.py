"""The two static graphs as modules to trace. Inputs and outputs are int32 (indices) or float32 (pixels, features)."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any, TypeVar

import torch
from timm.layers.activations import GELU
from timm.models.fastvit import Attention as MapSelfAttention
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from attri.export.graph.in_float32 import InFloat32, attend
from attri.export.graph.precision import DTYPES, in_precision
from attri.runtime.bundle import Precision
from attri.train.model import AttriPrompt
from attri.train.model.bidirectional import label_states, prompted_states
from attri.train.model.blocks import merge_heads, split_heads
from attri.train.model.pool import top_entries
from attri.train.model.prompted_text import EmbeddedLabels, TextTower, prompted_text
from attri.train.model.towers.contributions import contributions

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


class MapAttention(nn.Module):
    """FastViT's attention over a map, as the same products in another order.

    The form that timm has is one that ONNX Runtime fuses, and its fusion fails on half precision (1.32).
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = attention.qkv, attention.proj, attention.num_heads

    def forward(self, x: Tensor) -> Tensor:
        """Attend from each place to all. [B, W, h, w] -> [B, W, h, w]."""
        rows = x.flatten(2).transpose(1, 2)  # [B, T, W]
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(rows).chunk(3, -1))  # [B, H, T, d]
        return self.proj(merge_heads(attend(q, k, v))).transpose(1, 2).reshape(x.shape)  # type: ignore[no-any-return]


def to_trace(tower: Tower, precision: Precision) -> Tower:
    """Copy a tower in that precision, with parts that the runtimes can fuse and without batch norms."""
    tower = copy.deepcopy(tower)
    module: Any
    for module in list(tower.modules()):
        if hasattr(module, "reparameterize"):  # FastViT's branches are trained apart and are one convolution
            module.reparameterize()
    fold_batch_norms(tower)
    for module in list(tower.modules()):
        if hasattr(module, "fused_attn"):
            module.fused_attn = True  # which InFloat32 takes apart
        for name, child in module.named_children():
            if hasattr(child, "get_bias"):
                setattr(module, name, AttentionBias(child.get_bias().detach()))
            if isinstance(child, MapSelfAttention):
                setattr(module, name, MapAttention(child))
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


class ExplainGraph(nn.Module):
    """What the patches of an image contribute to its feature; see `attri.train.model.towers.contributions`.

    pixels float32 [B, 3, H, W] -> patches float32 [B, h, w, D], rest float32 [B, D]

    Always in float32, so that what it returns adds up.

    Raises:
        UsageError: the model's image tower cannot be divided.
    """

    def __init__(self, model: AttriPrompt) -> None:
        super().__init__()
        self.tower = to_trace(model.vision.tower, "fp32")

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Divide image features."""
        with InFloat32():
            patches, rest = contributions(self.tower, pixels)
        return patches.reshape(-1, *self.tower.grid, patches.shape[-1]), rest  # [B, h, w, D]


class LabelGraph(nn.Module):
    """Blocks of a text tower that is not causal, before the first prompted one: constants of a label.

    tokens float32 [C, T, W], embedded -> states float32 [C, T, W]
    """

    def __init__(self, model: AttriPrompt, precision: Precision) -> None:
        super().__init__()
        self.dtype = DTYPES[precision]
        self.text: TextTower = to_trace(model.text, precision)
        self.text.blocks = self.text.blocks[: model.first]

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode the tokens of labels."""
        return label_states(self.text, tokens.to(self.dtype), self.text.blocks).float()


class PromptedGraph(nn.Module):
    """What the text graphs of both kinds of towers share: precision, the tower, and a table where there is none."""

    no_static: Tensor

    def __init__(self, model: AttriPrompt, precision: Precision) -> None:
        super().__init__()
        self.dtype = DTYPES[precision]
        self.text: TextTower = to_trace(model.text, precision)
        width = model.text.positional_embedding.shape[1]
        self.register_buffer("no_static", torch.zeros(model.depth, 0, 2 * width), persistent=False)

    def static(self, table: Tensor | None) -> Tensor:
        """The table of static tokens [L, q, 2 W]; a graph takes no empty input, so of none there is a constant."""
        return (self.no_static if table is None else table).to(self.dtype)


class StatesGraph(PromptedGraph):
    """The text graph of a tower that is not causal: its prompted blocks, on states of the label graph.

    retrieved int32 [B, L, M], prompt_table float32 [L, N, p, 2 W], states float32 [C, T, W], pooled_rows int32 [C], and
    for a model with static tokens static_table float32 [L, q, 2 W] -> text_features float32 [B, C, D]
    """

    def __init__(self, model: AttriPrompt, precision: Precision) -> None:
        super().__init__(model, precision)
        self.text.blocks = self.text.blocks[model.first :]

    def forward(
        self,
        retrieved: Tensor,
        prompt_table: Tensor,
        states: Tensor,
        pooled_rows: Tensor,
        static_table: Tensor | None = None,
    ) -> Tensor:
        """Encode labels for the pool entries of each image."""
        static = self.static(static_table)
        table, states = prompt_table.to(self.dtype), states.to(self.dtype)
        return prompted_states(self.text, self.text.blocks, table, static, retrieved, states, pooled_rows)


def text_graph(model: AttriPrompt, precision: Precision) -> nn.Module:
    """The text graph of a model."""
    return TextGraph(model, precision) if model.text.causal else StatesGraph(model, precision)


class TextGraph(PromptedGraph):
    """Folded text encoder of a causal tower; the key/value tables of the prompt are inputs.

    retrieved int32 [B, L, M], prompt_table float32 [L, N, p, 2 W] and labels (`LabelTokens`), and for a model with
    static tokens static_table float32 [L, q, 2 W] -> text_features float32 [B, C, D]

    Of the labels, prefix [P, W] and suffix_tokens [R, W] are float32 token embeddings; suffix_positions [R],
    token_rows [C, T], scatter_index [R] and eot_rows [C] are int32.
    """

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
        return prompted_text(self.text, prompt_table.to(self.dtype), self.static(static_table), retrieved, labels)
