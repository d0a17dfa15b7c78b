"""The two static graphs, as modules to trace. Across their borders indices are int32, pixels and features float32."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from attri.export.precision import DTYPES, in_precision
from attri.train.model import AttriPrompt
from attri.train.prompted_text import TextTower, prompted_text


class VisionGraph(nn.Module):
    """pixels float32 [B, 3, H, W] -> image_features float32 [B, D], retrieved int32 [B, L, M]"""

    def __init__(self, model: AttriPrompt, precision: str) -> None:
        super().__init__()
        self.vision = copy.copy(model.vision)
        self.vision._modules = {**model.vision._modules, "visual": in_precision(model.vision.visual, precision)}
        self.pool = model.pool
        self.dtype = DTYPES[precision]

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features, centres = self.vision(pixels.to(self.dtype))
        return features, self.pool.retrieve(centres).to(torch.int32)


class TextGraph(nn.Module):
    """retrieved int32 [B, L, M], stem float32 [P, W], own float32 [C, T, W], lengths int32 [C] -> float32 [B, C, D]

    The key and value tables are constants of the graph: prompts have been folded away.
    """

    pool: Tensor
    static: Tensor

    def __init__(self, model: AttriPrompt, precision: str) -> None:
        super().__init__()
        dtype = DTYPES[precision]
        self.dtype = dtype
        self.text: TextTower = in_precision(model.text, precision)
        with torch.no_grad():
            pool, static = model.tables()
        self.register_buffer("pool", pool.detach().to(dtype))
        self.register_buffer("static", static.detach().to(dtype))

    def forward(self, retrieved: Tensor, stem: Tensor, own: Tensor, lengths: Tensor) -> Tensor:
        stem, own = stem.to(self.dtype), own.to(self.dtype)
        return prompted_text(self.text, self.pool, self.static, retrieved, stem, own, lengths)
