"""An explanation: the cosines of an image with labels, divided by the patches of the image, so that they add up."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Explanation:
    """What each patch of an image contributes to its cosine with each label.

    Attributes:
        labels: C labels.
        patches: float32 [C, h, w], contributions in units of the cosine, row by row of patches; above 0 they speak for
            the label, below 0 against it.
        rest: float32 [C], what belongs to no patch: with it, a label's patches add up to its cosine.
        seen: Left, top, right and bottom of what the model saw of the image, in its pixels: most models see a square.
    """

    labels: tuple[str, ...]
    patches: NDArray[np.float32] = field(repr=False)
    rest: NDArray[np.float32] = field(repr=False)
    seen: tuple[float, float, float, float]

    @property
    def cosines(self) -> NDArray[np.float32]:
        """Cosines of image and labels, float32 [C]."""
        total: NDArray[np.float32] = self.patches.sum((1, 2)) + self.rest
        return total

    def of(self, label: str) -> NDArray[np.float32]:
        """Contributions to the cosine with a label, float32 [h, w]."""
        contributions: NDArray[np.float32] = self.patches[self.labels.index(label)]
        return contributions

    def contrast(self, label: str, other: str) -> NDArray[np.float32]:
        """Contributions to the difference of two cosines, float32 [h, w]: what speaks for `label` and not `other`."""
        return self.of(label) - self.of(other)


def divide_cosines(
    text: NDArray[np.float32], patches: NDArray[np.float32], rest: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Divide the cosines of an image and labels by the parts of the image.

    Args:
        text: Unit features of the labels [C, D].
        patches: Contributions to the image feature [h, w, D].
        rest: What belongs to no patch [D].

    Returns:
        `patches` float32 [C, h, w] and `rest` float32 [C], as of `Explanation`.
    """
    length = np.linalg.norm(patches.sum((0, 1)) + rest)
    of_patches = np.moveaxis(patches @ text.T, -1, 0) / length  # [C, h, w]
    of_rest = text @ rest / length  # [C]
    return of_patches.astype(np.float32), of_rest.astype(np.float32)
