r"""Attribute retrieval, step 2: the prompt pool, whose entries hold a key and prompt tokens.

Each centre c of an image retrieves the k pool entries with the most similar keys:

    r = sort( top-k_n  c . key_n )          M = K k pool entries per prompted text block, ascending, with repeats

Retrieval is hard: prompt tokens are never scaled or mixed by similarity, which makes the fold (prompted_text.py) exact.
The pool is the paper's; hard retrieval, one pool shared by all blocks and the keys' initial values are our choice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attri.train.config import PromptConfig
from attri.train.model.blocks import l2_normalize

MAX_POINTS = 1_000_000  # for the k-means of the keys, sampled where there are more; torch.multinomial takes 2^24


class PromptPool(nn.Module):
    """All learned parameters: keys, prompt tokens and static tokens.

    L is the prompt depth, N the pool size, D the joint width, W_t the width of the text tower. A pool that all blocks
    share has L = 1 in `keys` and `tokens`, but not in `static`.

    Attributes:
        keys: [L, N, D], compared by cosine, so their length does not matter.
        tokens: [L, N, p, W_t], prompt tokens of each pool entry.
        static: [L, q, W_t], prompt tokens of each block that are the same for every image.
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
        """Return the unit keys of every prompted block [L, N, D]; a shared pool is repeated."""
        return l2_normalize(self.keys).expand(self.depth, -1, -1)

    def tokens_of_blocks(self) -> Tensor:
        """Return the prompt tokens of every prompted block [L, N, p, W_t]; a shared pool is repeated."""
        return self.tokens.expand(self.depth, -1, -1, -1)

    def scores(self, centres: Tensor) -> Tensor:
        """Return the cosine of each centre and each key of its block, without gradient.

        centres: unit [B, L, K, D] -> [B, L, K, N]
        """
        return (centres @ self.keys_of_blocks().to(centres.dtype).transpose(-1, -2)).detach()

    def retrieve(self, centres: Tensor) -> Tensor:
        """Retrieve pool entries. centres: unit [B, L, K, D] -> indices int64 [B, L, K k], ascending, with repeats."""
        return top_entries(self.scores(centres), self.topk)

    def usage(self, retrieved: Tensor) -> Tensor:
        """Return the share of retrievals that each pool entry gets. retrieved [B, L, M] -> [L, N], rows sum to 1.

        A shared pool has one row: it does not matter which blocks retrieve an entry.
        """
        pools, size = self.keys.shape[:2]
        of_pool = retrieved.transpose(0, 1).reshape(pools, -1)
        counts = torch.stack([torch.bincount(entries, minlength=size) for entries in of_pool])
        return counts / counts.sum(1, keepdim=True).clamp_min(1)


def top_entries(scores: Tensor, topk: int) -> Tensor:
    """Choose the top k pool entries of each centre. scores [B, L, K, N] -> indices [B, L, K k], ascending.

    Equal scores go to the lower index, as argmax does in PyTorch and in ONNX.
    """
    if scores.shape[-1] == 0:
        return scores.new_zeros((*scores.shape[:2], 0), dtype=torch.long)
    entries = torch.arange(scores.shape[-1], device=scores.device)
    chosen = [scores.argmax(-1, keepdim=True)]  # [B, L, K, 1]
    while len(chosen) < topk:
        scores = scores.masked_fill(entries == chosen[-1], -2.0)  # below every cosine
        chosen.append(scores.argmax(-1, keepdim=True))
    return ascending(torch.cat(chosen, -1).flatten(2))


def ascending(entries: Tensor) -> Tensor:
    """Sort indices along the last axis, as float32 (exact below 2^24), because TensorRT's TopK takes floats."""
    return entries.float().topk(entries.shape[-1], largest=False).values.long()


@torch.no_grad()
def fit_keys(pool: PromptPool, centres: Tensor, generator: torch.Generator, steps: int = 10) -> None:
    """Initialize the keys by spherical k-means over the training set's centres (our choice).

    A key that starts far from every image would never be retrieved and so never learn.

    Args:
        pool: its keys are set in place.
        centres: unit rows [B, L, K, D].
        generator: source of all randomness, on the CPU.
        steps: Lloyd steps.
    """
    pools, size, joint = pool.keys.shape
    if size == 0:
        return
    for block in range(pools):
        points = (centres if pools == 1 else centres[:, block]).reshape(-1, joint)
        if len(points) > MAX_POINTS:
            points = points[torch.randint(len(points), (MAX_POINTS,), generator=generator)]
        pool.keys[block].copy_(spherical_kmeans(points, size, generator, steps))


def spherical_kmeans(points: Tensor, size: int, generator: torch.Generator, steps: int) -> Tensor:
    """Cluster unit points [P, D] into unit centres [N, D], with k-means++ initialization."""
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
