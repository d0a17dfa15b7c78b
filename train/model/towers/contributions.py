"""What each patch of an image contributes to its feature, so that the contributions and a rest add up to it.

After its last blocks an image tower is a sum, then a norm, then an affine map. The norm divides by the deviation of
what it gets; with that held at its value the norm is affine too, and the feature is a sum over patches:

    feature = sum_t contribution_t + rest

A patch's contribution is what the class token took from it by attention in the last m blocks, or what pooling takes
(`ImageTower.parts`). The rest is what is no patch's: the class token before those blocks, MLPs, biases. Because a
cosine is linear in the image feature, it divides in the same way for every text: a heat map is one product. After
Gandelsman, Efros, Steinhardt (ICLR 2024), who find that the last blocks' attention carries nearly all that text can
tell; the choice of m is ours (benchmarks/explain.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attri.runtime.errors import UsageError
from attri.train.model.towers.attention import held_norm
from attri.train.model.towers.base import ImageTower
from attri.train.model.towers.clip_vit import Projection

LAST_BLOCKS = 4  # m (our choice)
AFFINE = (nn.Identity, nn.Dropout, nn.Linear, nn.Sequential, Projection)


def contributions(tower: ImageTower, pixels: Tensor, blocks: int = LAST_BLOCKS) -> tuple[Tensor, Tensor]:
    """Divide image features, before they are made unit vectors, by patches.

    Args:
        tower: the image tower.
        pixels: normalized [B, 3, H, W].
        blocks: m, the last blocks whose attention counts, where the tower has a class token.

    Returns:
        Contributions of the patches [B, T, D], row by row, and the rest [B, D].

    Raises:
        UsageError: this tower cannot be divided; says why.
    """
    whole, patches, norm, head = tower.parts(pixels, blocks)
    if not all(isinstance(part, AFFINE) for part in head.modules()):
        raise UsageError("its image tower ends in an MLP, which is no sum over patches")
    rest = (whole - patches.sum(1))[:, None]
    constant = head(torch.zeros_like(rest))  # the biases of the head, which are no patch's
    return head(held_norm(norm, whole, patches)) - constant, head(held_norm(norm, whole, rest, bias=True))[:, 0]
