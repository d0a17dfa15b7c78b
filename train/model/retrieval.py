r"""Attribute retrieval, step 1: cluster an image's patch tokens into the queries of the prompt pool.

For text block l the patch tokens after vision block s(l) = ceil(l L_v / L_t) are clustered, image by image:

    Z = l2_normalize(x),  x = norm(patch tokens)                  [T, W_v]
    a_t = argmax_j Z_t . m_j,   m_j = l2_normalize(sum_{t: a_t = j} Z_t)      spherical k-means, a fixed number of steps
    c_j = l2_normalize(joint(r m_j)),  r = mean_t |x_t|           [K, D]

T patches, W_v width of the vision tower, K clusters, D joint width; `norm` and `joint` are the image tower's own, and
give its feature of a single patch (`attri.train.model.towers`). The paper clusters and aggregates; spherical k-means,
its initial centres and mapping the K centres in place of the T tokens are our choice. CLIP's own joint is a matrix:
then mapping centres equals averaging mapped tokens, and their length r does not matter. With a bias or an activation it
does, and r is what patches of this image have. The sums below weight each row by 1 / |row| (0 for CLS) and so need no
normalized copy of the tokens. Everything here is float32 or wider: retrieval is a discrete choice, and half precision
would flip it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from attri.train.config import KmeansInit
from attri.train.model.blocks import l2_normalize, upcast
from attri.train.model.towers.base import ImageTower


def source_blocks(vision_layers: int, text_layers: int, blocks: Iterable[int]) -> list[int]:
    """Return the vision block whose tokens each of these text blocks retrieves with, all counted from 1.

    With fewer vision blocks than text blocks, neighbouring text blocks share one.
    """
    return [math.ceil(block * vision_layers / text_layers) for block in blocks]


def region_means(grid: tuple[int, int], clusters: int) -> Tensor:
    """Return the averaging matrix [K, T] of K equal regions of the patch grid: 2 are halves, 4 quadrants.

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
    """Choose initial centres among the tokens by farthest-first traversal.

    The first is the token nearest to the mean, each next one the token least similar to those chosen. Ties go to the
    lower index. tokens: unit rows [B, T, W] -> [B, K, W]
    """
    nearest = (tokens @ tokens.mean(1, keepdim=True).transpose(1, 2)).argmax(1)  # [B, 1]
    chosen = [_take(tokens, nearest)]
    similarity = tokens @ chosen[0].transpose(1, 2)  # [B, T, 1]
    while len(chosen) < clusters:
        chosen.append(_take(tokens, similarity.argmin(1)))
        similarity = torch.maximum(similarity, tokens @ chosen[-1].transpose(1, 2))
    return torch.cat(chosen, 1)


def _take(tokens: Tensor, index: Tensor) -> Tensor:
    """Take one token per image. tokens [B, T, W], index [B, 1] -> [B, 1, W]."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[-1]))


def nearest_centre(tokens: Tensor, centres: Tensor) -> Tensor:
    """Return the index of the most similar centre of each token; ties go to the lower index.

    tokens of any length [B, T, W], unit centres [B, K, W] -> int64 [B, T]
    """
    return (tokens @ centres.transpose(1, 2)).argmax(-1)


def lloyd_step(tokens: Tensor, weights: Tensor, centres: Tensor) -> Tensor:
    """Run one step of spherical k-means; an empty cluster keeps its centre.

    Args:
        tokens: rows of any length [B, T, W].
        weights: factor of each row in the sums [B, T]; 0 leaves it out.
        centres: unit rows [B, K, W].

    Returns:
        The new centres, unit rows [B, K, W].
    """
    numbers = torch.arange(centres.shape[1], device=tokens.device)[None, :, None]
    member = (nearest_centre(tokens, centres)[:, None, :] == numbers).to(tokens.dtype) * weights[:, None]  # [B, K, T]
    empty = member.sum(-1, keepdim=True) == 0  # [B, K, 1]
    return torch.where(empty, centres, l2_normalize(member @ tokens))


class Retrieval(nn.Module):
    """Cluster the patch tokens of one vision block and map the centres into the joint space.

    Args:
        grid: rows and columns of patches.
        prefix: tokens before the patches, which are in no cluster.
        clusters: K, centres per image.
        steps: Lloyd steps, a fixed number so that the graph is static.
        kmeans_init: "grid" for means of equal regions, "farthest" for farthest-first tokens.
    """

    regions: Tensor

    def __init__(self, grid: tuple[int, int], prefix: int, clusters: int, steps: int, kmeans_init: KmeansInit) -> None:
        super().__init__()
        self.prefix, self.clusters, self.steps, self.kmeans_init = prefix, clusters, steps, kmeans_init
        regions = torch.empty(0)
        if kmeans_init == "grid":
            regions = torch.nn.functional.pad(region_means(grid, clusters), (prefix, 0))  # [K, prefix + T]
        self.register_buffer("regions", regions, persistent=False)

    def forward(self, tokens: Tensor, tower: ImageTower) -> Tensor:
        """Cluster and map. Tokens after one vision block [B, prefix + T, W] -> unit centres [B, K, D]."""
        x, centres = self.cluster(tokens, tower)
        if not tower.linear:
            lengths = (x * x).sum(-1)[:, self.prefix :].sqrt()  # [B, T]; sums alone, as in l2_normalize
            centres = centres * (lengths.sum(1) / lengths.shape[1])[:, None, None]
        return l2_normalize(tower.joint(centres))

    def cluster(self, tokens: Tensor, tower: ImageTower) -> tuple[Tensor, Tensor]:
        """Run spherical k-means per image.

        tokens [B, prefix + T, W] -> the tokens after the tower's norm, and unit centres [B, K, W]
        """
        x = tower.normalize(upcast(tokens))
        is_patch = torch.arange(x.shape[1], device=x.device) >= self.prefix
        weights = torch.rsqrt((x * x).sum(-1).clamp_min(1e-24)) * is_patch.to(x.dtype)  # [B, prefix + T]
        if self.kmeans_init == "grid":
            centres = l2_normalize((self.regions.to(x.dtype) * weights[:, None]) @ x)  # [B, K, W]
        else:
            centres = farthest_first((x * weights[..., None])[:, self.prefix :], self.clusters)
        for _ in range(self.steps):
            centres = lloyd_step(x, weights, centres)
        return x, centres
