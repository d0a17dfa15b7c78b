"""The frozen image tower: the image feature, and the cluster centres that each prompted text block retrieves with."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from attri.train.model.blocks import BlockView, l2_normalize, layer_norm, upcast
from attri.train.model.open_clip_types import VisionTransformer
from attri.train.model.retrieval import Retrieval, source_blocks


class VisionTower(nn.Module):
    """open_clip's VisionTransformer, run block by block. It owns no weights.

    Args:
        visual: the image tower.
        retrieval: the clustering, or None for image features alone.
        sources: vision block (1-based) of each prompted text block.
    """

    def __init__(self, visual: VisionTransformer, retrieval: Retrieval | None, sources: list[int]) -> None:
        super().__init__()
        self.visual = visual
        self.retrieval = retrieval
        self.sources = sources

    @classmethod
    def of(cls, visual: VisionTransformer, retrieval: Retrieval | None, text_layers: int, depth: int) -> VisionTower:
        """Build a tower whose source blocks follow from the number of text blocks and the prompt depth."""
        layers = len(visual.transformer.resblocks)
        return cls(visual, retrieval, source_blocks(layers, text_layers, depth))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encode images. Normalized pixels [B, 3, H, W] -> unit features [B, D], unit centres [B, L, K, D] or None."""
        visual = self.visual
        ln_post, projection = visual.ln_post, visual.proj
        centres: dict[int, Tensor] = {}
        for number, x in enumerate(self.states(pixels), start=1):
            if self.retrieval is not None and number in self.sources:
                centres[number] = self.retrieval(x, ln_post, projection)
        features = l2_normalize(upcast(self.pool(x) @ projection.to(x.dtype)))
        if self.retrieval is None:
            return features, None
        return features, torch.stack([centres[source] for source in self.sources], 1)

    def states(self, pixels: Tensor) -> Iterator[Tensor]:
        """Yield the tokens after each of the L_v blocks, CLS first. [B, 3, H, W] -> [B, 1 + T, W]."""
        x = self.embed(pixels)
        for block in self.visual.transformer.resblocks:
            x = BlockView(block)(x)
            yield x

    def embed(self, pixels: Tensor) -> Tensor:
        """Embed patches, CLS and positions, and normalize. [B, 3, H, W] -> [B, 1 + T, W]."""
        visual = self.visual
        patches = visual.conv1(pixels).flatten(2).transpose(1, 2)  # [B, T, W]
        cls = visual.class_embedding.expand(patches.shape[0], 1, -1)
        x = torch.cat([cls, patches], 1) + visual.positional_embedding
        return layer_norm(visual.ln_pre, x)

    def pool(self, x: Tensor) -> Tensor:
        """Pool to CLS or to the mean of the patches, as the tower was trained. [B, 1 + T, W] -> [B, W]."""
        ln_post = self.visual.ln_post
        if self.visual.pool_type == "tok":
            return layer_norm(ln_post, x[:, 0])
        if self.visual.final_ln_after_pool:
            return layer_norm(ln_post, x[:, 1:].mean(1))
        return layer_norm(ln_post, x[:, 1:]).mean(1)
