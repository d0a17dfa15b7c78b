r"""Attribute retrieval: what an image asks the prompt pool for.

For text block l the tokens after vision block s(l) = ceil(l L_v / L_t) are clustered, image by image:

    Z = l2_normalize(ln_post(patch tokens))                       [T, W_v]
    a_t = argmax_j Z_t . m_j,   m_j = l2_normalize(sum_{t: a_t = j} Z_t)      spherical k-means, a fixed number of steps
    c_j = l2_normalize(m_j @ visual.proj)                         [K, D]

The paper clusters and aggregates; k-means, its start and projecting the K centres instead of the T tokens are our
choice. Projection is linear, so the order of projecting and averaging does not matter. Neither does where lengths are
divided out: the sums below weigh rows by 1 / |row|, 0 for CLS, and so never write a second copy of the tokens.
Everything here is float32 or wider: retrieval is a discrete choice, and half precision would flip it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from attri.train.model.blocks import l2_normalize, layer_norm, upcast


def source_blocks(vision_layers: int, text_layers: int, depth: int) -> list[int]:
    """The vision block (1-based) that feeds each of the first `depth` text blocks."""
    return [math.ceil(block * vision_layers / text_layers) for block in range(1, depth + 1)]


def region_means(grid: tuple[int, int], clusters: int) -> Tensor:
    """Averaging matrix [K, T] of K equal regions of the patch grid: 2 is upper and lower half, 4 is quadrants.

    Raises:
        ValueError: the grid has fewer rows or columns than the regions need.
    """
    rows = next(r for r in range(1, clusters + 1) if clusters % r == 0 and r * r >= clusters)
    columns = clusters // rows
    height, width = grid
    if rows > height or columns > width:
        raise ValueError(f"{clusters} regions do not fit a patch grid of {height} x {width}")
    y = torch.arange(height) * rows // height
    x = torch.arange(width) * columns // width
    region = (y[:, None] * columns + x[None, :]).flatten()  # [T]
    member = (region[None, :] == torch.arange(clusters)[:, None]).float()  # [K, T]
    return member / member.sum(1, keepdim=True)


def farthest_first(tokens: Tensor, clusters: int) -> Tensor:
    """Centres at existing tokens: the one nearest to the mean, then always the one least like those chosen.

    tokens: unit rows [B, T, W] -> [B, K, W]. Ties go to the lower index.
    """
    nearest = (tokens @ tokens.mean(1, keepdim=True).transpose(1, 2)).argmax(1)  # [B, 1]
    chosen = [_take(tokens, nearest)]
    likeness = tokens @ chosen[0].transpose(1, 2)  # [B, T, 1]
    while len(chosen) < clusters:
        chosen.append(_take(tokens, likeness.argmin(1)))
        likeness = torch.maximum(likeness, tokens @ chosen[-1].transpose(1, 2))
    return torch.cat(chosen, 1)


def _take(tokens: Tensor, index: Tensor) -> Tensor:
    """tokens [B, T, W] at index [B, 1] -> [B, 1, W]"""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[-1]))


def nearest_centre(tokens: Tensor, centres: Tensor) -> Tensor:
    """The most similar centre of every token of any length, ties to the lower index.

    [B, T, W], unit [B, K, W] -> int64 [B, T]
    """
    return (tokens @ centres.transpose(1, 2)).argmax(-1)


def lloyd_step(tokens: Tensor, weights: Tensor, centres: Tensor) -> Tensor:
    """One step of spherical k-means. A cluster that gets no token of weight keeps its centre.

    tokens: rows of any length [B, T, W]; weights: what each counts in a sum [B, T]; centres: unit [B, K, W] -> the same
    """
    numbers = torch.arange(centres.shape[1], device=tokens.device)[None, :, None]
    member = (nearest_centre(tokens, centres)[:, None, :] == numbers).to(tokens.dtype) * weights[:, None]  # [B, K, T]
    empty = member.sum(-1, keepdim=True) == 0  # [B, K, 1]
    return torch.where(empty, centres, l2_normalize(member @ tokens))


class Retrieval(nn.Module):
    """Clusters the tokens of a vision block and projects the centres into the joint space."""

    regions: Tensor

    def __init__(self, grid: tuple[int, int], clusters: int, steps: int, start: str) -> None:
        super().__init__()
        self.clusters, self.steps, self.start = clusters, steps, start
        regions = torch.nn.functional.pad(region_means(grid, clusters), (1, 0)) if start == "grid" else torch.empty(0)
        self.register_buffer("regions", regions, persistent=False)  # [K, 1 + T], CLS in none of them

    def forward(self, tokens: Tensor, ln_post: nn.Module, projection: Tensor) -> Tensor:
        """tokens after one vision block, CLS first [B, 1 + T, W]; projection [W, D] -> unit centres [B, K, D]"""
        _, centres = self.cluster(tokens, ln_post)
        return l2_normalize(centres @ projection.to(centres.dtype))

    def cluster(self, tokens: Tensor, ln_post: nn.Module) -> tuple[Tensor, Tensor]:
        """The k-means itself. tokens, CLS first [B, 1 + T, W] -> the same, normed, and unit centres [B, K, W]"""
        x = layer_norm(ln_post, upcast(tokens))
        is_patch = torch.arange(x.shape[1], device=x.device) > 0
        weights = torch.rsqrt((x * x).sum(-1).clamp_min(1e-24)) * is_patch.to(x.dtype)  # [B, 1 + T]
        if self.start == "grid":
            centres = l2_normalize((self.regions.to(x.dtype) * weights[:, None]) @ x)  # [B, K, W]
        else:
            centres = farthest_first((x * weights[..., None])[:, 1:], self.clusters)
        for _ in range(self.steps):
            centres = lloyd_step(x, weights, centres)
        return x, centres
