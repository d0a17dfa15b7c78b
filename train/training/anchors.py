"""What self-regularization holds on to: text features of plain CLIP, or of the prompt that training started at."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attri.runtime.text.reader import Tokens
from attri.train.model.attriprompt import AttriPrompt


@dataclass(frozen=True, eq=False)
class Anchors:
    """Anchors of the prompted text features, which depend on the image where training started at a prompt.

    Classes that the first prompt knows keep its features for the very entries that an image retrieves, as in learning
    without forgetting (Li and Hoiem, 2016); all others have plain CLIP's, as in any training.

    Attributes:
        frozen: text features without prompts, averaged over templates [C, D].
        start: the prompt that training started at, which does not change; None where it starts afresh.
        known: token ids of the classes that it knows, the first K of the C.
    """

    frozen: Tensor
    start: AttriPrompt | None = None
    known: Tokens | None = None

    @torch.no_grad()
    def __call__(self, centres: Tensor) -> Tensor:
        """Return the anchors of images. centres: unit [B, L, K, D] -> [B, C, D], or [1, C, D]: equal for all."""
        if self.start is None or self.known is None:
            return self.frozen[None]
        retrieved = self.start.pool.retrieve(centres)  # [B, L, M]
        if retrieved.shape[-1] == 0:
            retrieved = retrieved[:1]  # without a pool every image has the same text features
        text = self.start.encode_text(self.known, retrieved)  # [B, K, D]
        return torch.cat([text, self.frozen[len(self.known) :].expand(len(text), -1, -1)], 1)
