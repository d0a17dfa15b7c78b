"""Retrieval that does not flicker: an entry is left only for one that is better by a margin.

Retrieval is a hard choice, so two entries that are equally near take turns from frame to frame, and every turn is a
miss of the text cache. With a margin (our choice; off by default) the entries of the frame before are favoured:

    chosen = top k over entries n of   score_n + margin * (n was chosen in the frame before)

An entry stays while it is within the margin of what would replace it. What is retrieved is then no longer a function
of the frame alone: the text features stay exact for the entries, but the entries may be the second best.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attri.runtime.errors import UsageError


class RetrievalHysteresis:
    """The retrieval of one source. It remembers a frame, so every camera and every file needs its own.

    Args:
        margin: cosine that a new entry must be ahead by, 0 or more; 0 retrieves exactly as the vision graph does.
        topk: k, entries that each centre retrieves; the manifest's `retrieval["topk"]`.

    Raises:
        UsageError: the margin is negative or not finite, or topk is below 1.
    """

    def __init__(self, margin: float, topk: int = 1) -> None:
        if not 0 <= margin < math.inf:
            raise UsageError(f"the margin is {margin}: it must be 0 (exact retrieval) or more")
        if topk < 1:
            raise UsageError(f"topk is {topk}: it must be 1 or more")
        self.margin, self.topk = margin, topk
        self._chosen: NDArray[np.intp] | None = None  # [L, K, k]
        self._pool = ""

    def __call__(self, scores: NDArray[Any], pool: str = "") -> NDArray[np.int32]:
        """The next frame. scores: cosines of centres and keys, float32 [L, K, N] -> int32 [L, K k], rows ascending.

        Equal scores go to the lower entry, as in the graph.

        Args:
            scores: of one frame.
            pool: names the prompt whose keys they are of; nothing is remembered from another one.
        """
        if pool != self._pool:
            self._chosen, self._pool = None, pool
        favoured = scores.copy()
        if self._chosen is not None:
            kept = np.take_along_axis(scores, self._chosen, -1) + scores.dtype.type(self.margin)
            np.put_along_axis(favoured, self._chosen, kept, -1)
        self._chosen = np.argsort(-favoured, axis=-1, kind="stable")[..., : self.topk]  # [L, K, k]
        return np.sort(self._chosen.reshape(len(scores), -1), axis=-1).astype(np.int32)  # [L, K k]
