"""The method as published, done literally: what attri's fold is measured against.

tests/support/literal.py, which attri is held against, is another one, for an image at a time; they share nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attri.runtime.text.label_tokens import LabelTokens
from attri.train.model import AttriPrompt

CONTEXT = 77


class Literal(nn.Module):
    """The text encoder as published: open_clip's own blocks over 77 tokens, prompts concatenated.

    Every image with every class is a sequence of its own: ids [C, 77] and retrieved [B, L, M] -> unit features
    [B, C, D].
    """

    def __init__(self, model: AttriPrompt) -> None:
        super().__init__()
        self.clip: Any = model.backbone.clip
        self.pool = model.pool

    def forward(self, ids: Tensor, retrieved: Tensor) -> Tensor:
        """See the class."""
        B, C = len(retrieved), len(ids)
        tokens = self.pool.tokens_of_blocks()  # [L, N, p, W]
        x = self.clip.token_embedding(ids) + self.clip.positional_embedding  # [C, 77, W]
        x = x.expand(B, -1, -1, -1).flatten(0, 1)  # [B C, 77, W]
        for index, block in enumerate(self.clip.transformer.resblocks):
            prompts = tokens[index][retrieved[:, index].long()].flatten(1, 2)  # [B, M p, W]
            prompts = prompts[:, None].expand(-1, C, -1, -1).flatten(0, 1)  # [B C, M p, W]
            x = torch.cat([x[:, :1], prompts, x[:, 1:]], 1)
            x = block(x, attn_mask=torch.full((x.shape[1],) * 2, -torch.inf).triu(1))
            x = torch.cat([x[:, :1], x[:, 1 + prompts.shape[1] :]], 1)
        x = x.reshape(B, C, CONTEXT, -1)[:, torch.arange(C), ids.argmax(1)]  # at EOT, the highest id: [B, C, W]
        return nn.functional.normalize(self.clip.ln_final(x) @ self.clip.text_projection, dim=-1)


def padded(words: LabelTokens) -> NDArray[np.int64]:
    """Ids [C, 77] of every prompt from SOS to EOT, and zeros."""
    ids = np.zeros((len(words), CONTEXT), np.int64)
    for row, whole in zip(ids, words.whole(), strict=True):
        row[: len(whole)] = whole
    return ids
