"""The prompt pool: keys that images find, and the prompt tokens that they bring to the text encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attri.train.config import PromptConfig
from attri.train.model.blocks import l2_normalize

POINTS = 1_000_000  # that k-means looks at, drawn where there are more; torch.multinomial takes 2^24 (our choice)


class PromptPool(nn.Module):
    """All that is learned. L is the prompt depth, N the pool size; a shared pool has L = 1 in `keys` and `tokens`.

    keys    [L, N, D]        compared by cosine; their length is of no consequence
    tokens  [L, N, p, W_t]   prompt tokens of each entry
    static  [L', q, W_t]     deep prompt tokens that every image sees (L' is the depth, shared or not)
    """

    def __init__(self, config: PromptConfig, depth: int, width: int, joint: int) -> None:
        super().__init__()
        pools = 1 if config.shared else depth
        self.topk, self.depth = config.topk, depth
        self.keys = nn.Parameter(torch.randn(pools, config.pool_size, joint))
        # The block's first norm rescales prompts, so the deviation only sets how fast they turn; 0.02 is CLIP's own.
        self.tokens = nn.Parameter(torch.randn(pools, config.pool_size, config.prompt_length, width) * 0.02)
        self.static = nn.Parameter(torch.randn(depth, config.static_tokens, width) * 0.02)
        for parameter in self.parameters():
            parameter.requires_grad_(parameter.numel() > 0)

    def keys_of_blocks(self) -> Tensor:
        """Unit keys for every prompted block [L, N, D], a shared pool repeated."""
        return l2_normalize(self.keys).expand(self.depth, -1, -1)

    def tokens_of_blocks(self) -> Tensor:
        """Prompt tokens for every prompted block [L, N, p, W_t], a shared pool repeated."""
        return self.tokens.expand(self.depth, -1, -1, -1)

    def scores(self, centres: Tensor) -> Tensor:
        """Cosine of every centre and every key of its block. centres: unit [B, L, K, D] -> [B, L, K, N]; no gradient"""
        return (centres @ self.keys_of_blocks().to(centres.dtype).transpose(-1, -2)).detach()

    def retrieve(self, centres: Tensor) -> Tensor:
        """Hard retrieval. centres: unit [B, L, K, D] -> entries [B, L, K k], int64, ascending, with repeats."""
        return self.choose(self.scores(centres))

    def choose(self, scores: Tensor) -> Tensor:
        """The top k entries of every centre. [B, L, K, N] -> [B, L, K * k]

        Equal scores go to the lower index, as argmax does in PyTorch and in ONNX.
        """
        if scores.shape[-1] == 0:
            return scores.new_zeros((*scores.shape[:2], 0), dtype=torch.long)
        entries = torch.arange(scores.shape[-1], device=scores.device)
        chosen = [scores.argmax(-1, keepdim=True)]  # [B, L, K, 1]
        while len(chosen) < self.topk:
            scores = scores.masked_fill(entries == chosen[-1], -2.0)  # below every cosine
            chosen.append(scores.argmax(-1, keepdim=True))
        return ascending(torch.cat(chosen, -1).flatten(2))

    def usage(self, retrieved: Tensor) -> Tensor:
        """Share of a pool's retrievals that each entry gets. retrieved [B, L, M] -> [L, N], rows sum to 1.

        A shared pool has one row: an entry that only some blocks retrieve is as alive as another.
        """
        pools, size = self.keys.shape[:2]
        of_pool = retrieved.transpose(0, 1).reshape(pools, -1)
        counts = torch.stack([torch.bincount(entries, minlength=size) for entries in of_pool])
        return counts / counts.sum(1, keepdim=True).clamp_min(1)


def ascending(entries: Tensor) -> Tensor:
    """Sorted along the last axis. By float32, exact below 2^24, since TensorRT's TopK wants floats."""
    return entries.float().topk(entries.shape[-1], largest=False).values.long()


@torch.no_grad()
def fit_keys(pool: PromptPool, centres: Tensor, generator: torch.Generator, steps: int = 10) -> None:
    """Start the keys where the images are: spherical k-means over the training centres (our choice).

    A key that starts far from every image is never retrieved and so never learns. centres: unit [B, L, K, D].
    """
    pools, size, joint = pool.keys.shape
    if size == 0:
        return
    for block in range(pools):
        points = (centres if pools == 1 else centres[:, block]).reshape(-1, joint)
        if len(points) > POINTS:
            points = points[torch.randint(len(points), (POINTS,), generator=generator)]
        pool.keys[block].copy_(_spherical_kmeans(points, size, generator, steps))


def _spherical_kmeans(points: Tensor, size: int, generator: torch.Generator, steps: int) -> Tensor:
    """points: unit [P, D] -> centres [N, D], started by k-means++."""
    first = torch.randint(len(points), (1,), generator=generator)
    centres = points[first]  # [1, D]
    while len(centres) < size:
        distance = (1 - (points @ centres.T).amax(1)).clamp_min(1e-6)  # [P]
        centres = torch.cat([centres, points[torch.multinomial(distance, 1, generator=generator)]])
    for _ in range(steps):
        nearest = (points @ centres.T).argmax(1)  # [P]
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        filled = torch.bincount(nearest, minlength=size)[:, None] > 0
        centres = torch.where(filled, l2_normalize(sums), centres)
    return centres
