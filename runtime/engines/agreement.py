"""Agreement of an engine's outputs with a reference: cosine of features, equal best labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TIE", "cosine", "same_top1"]

TIE = 1e-5  # two best cosines closer than this are a tie: either class may come first


def cosine(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Cosine along the last axis, in float64; NaN where either side has NaN or infinity."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a).all(-1) & np.isfinite(b).all(-1)
    with np.errstate(all="ignore"):
        value = (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
    return np.where(finite, value, np.nan)


def same_top1(reference: NDArray[Any], ours: NDArray[Any]) -> NDArray[np.float64]:
    """Whether our best class is the reference's, or tied with it there.

    Args:
        reference: cosines [I, C].
        ours: cosines [I, C].

    Returns:
        1 or 0 for each image, [I]; 0 where ours has NaN or infinity.
    """
    chosen = np.take_along_axis(reference, ours.argmax(1)[:, None], 1)[:, 0]
    same: NDArray[np.float64] = (reference.max(1) - chosen <= TIE) * np.isfinite(ours).all(1).astype(np.float64)
    return same
