"""What attri needs of an image tower, whatever its architecture: a new family is one class beside this file.

Retrieval clusters the patch tokens after a block, and asks the prompt pool with what the tower itself would make of a
cluster's centre if it were the only patch: `normalize`, then `joint`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

from torch import Tensor, nn


class Parts(NamedTuple):
    """What an image tower pools, as a sum over patches and a rest (`attri.train.model.contributions`).

    Attributes:
        whole: what goes into the last norm and the head [B, W].
        patches: the share of each patch [B, T, W].
        norm: the last norm after pooling: a LayerNorm, or nothing.
        head: what comes after it; affine.
    """

    whole: Tensor
    patches: Tensor
    norm: nn.Module
    head: nn.Module


class ImageTower(nn.Module, ABC):
    """A frozen image tower, run block by block. It owns no weights: they are those of the model.

    A family's class is made of the module, the joint width and the model's name, and raises UsageError for a module
    that it cannot run exactly.

    Args:
        size: side of the images, pixels.
        grid: rows and columns of patches, alike after every block of `states`.
        prefix: tokens before the patches (CLS, registers).
        layers: blocks whose tokens can be clustered, L_v; where a tower shrinks its map, those of its last stage.
        joint: maps a patch after `normalize`, if it were the only one, into the joint space: [..., W] -> [..., D].
            Retrieval uses it, so it stays float32 in every precision; `feature` may use the same weights in half.
        joint_width: D.
        linear: whether `joint` has neither bias nor activation, so that a centre's length does not matter.

    Attributes:
        transformer: whether the products of its blocks are matrix products of tokens, which int8 quantizes.
    """

    transformer: ClassVar[bool] = True

    def __init__(
        self,
        size: int,
        grid: tuple[int, int],
        prefix: int,
        layers: int,
        joint: nn.Module,
        joint_width: int,
        linear: bool,
    ) -> None:
        super().__init__()
        self.size, self.grid, self.prefix, self.layers = size, grid, prefix, layers
        self.joint, self.joint_width, self.linear = joint, joint_width, linear

    @abstractmethod
    def states(self, pixels: Tensor) -> Iterator[Tensor]:
        """Yield the tokens after each of the L_v blocks. [B, 3, H, W] -> [B, prefix + T, W]."""

    @abstractmethod
    def normalize(self, tokens: Tensor) -> Tensor:
        """Apply the norm that comes before pooling, as to the last block's. [B, T, W] -> [B, T, W]."""

    @abstractmethod
    def feature(self, tokens: Tensor) -> Tensor:
        """Pool and project the tokens after the last block, as the tower was trained. [B, prefix + T, W] -> [B, D]."""

    @abstractmethod
    def parts(self, pixels: Tensor, blocks: int) -> Parts:
        """Encode images up to the last norm, and divide what is pooled into shares of patches.

        Where a class token reads the patches, a patch's share is what the token took from it by attention in the last
        blocks, with the attention as it is; where the patches are pooled, it is what pooling takes.

        Args:
            pixels: normalized [B, 3, H, W].
            blocks: m, the last blocks that count, where the tower has a class token.

        Raises:
            UsageError: this tower cannot be divided; says why.
        """


def mean_of(tokens: Tensor, norm: nn.Module, head: nn.Module) -> Parts:
    """Parts of a tower that pools the mean of its patches. tokens [B, T, W]."""
    shares = tokens / tokens.shape[1]
    return Parts(shares.sum(1), shares, norm, head)


def is_linear(joint: nn.Module) -> bool:
    """Whether a map is nothing but products: its parts are without bias, and none is an activation."""
    plain = (nn.Identity, nn.Linear, nn.Dropout, nn.Sequential)
    return all(isinstance(part, plain) and getattr(part, "bias", None) is None for part in joint.modules())
