"""The frozen image encoder: the image feature, and the cluster centres that each prompted text block retrieves with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attri.train.model.blocks import l2_normalize, upcast
from attri.train.model.retrieval import Retrieval
from attri.train.model.towers import ImageTower


class VisionTower(nn.Module):
    """An image tower with retrieval's clustering after its blocks. It owns no weights.

    Args:
        tower: the image tower.
        retrieval: the clustering, or None for image features alone.
        sources: vision block (1-based) of each prompted text block.
    """

    def __init__(self, tower: ImageTower, retrieval: Retrieval | None, sources: list[int]) -> None:
        super().__init__()
        self.tower = tower
        self.retrieval = retrieval
        self.sources = sources

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encode images. Normalized pixels [B, 3, H, W] -> unit features [B, D], unit centres [B, L, K, D] or None."""
        centres: dict[int, Tensor] = {}
        for number, x in enumerate(self.tower.states(pixels), start=1):
            if self.retrieval is not None and number in self.sources:
                centres[number] = self.retrieval(x, self.tower)
        features = l2_normalize(upcast(self.tower.feature(x)))
        if self.retrieval is None:
            return features, None
        return features, torch.stack([centres[source] for source in self.sources], 1)
