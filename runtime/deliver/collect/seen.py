"""Image features of what was collected, to tell what is new from what is a repeat."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from attri.runtime.deliver.result import ResultKey

_LIMIT = 2048  # images; compared with each frame: 0.1 ms on one core, with D = 512


class SeenImages:
    """The features of the images that were collected last.

    Args:
        limit: Images, at most; then the new ones take the places of the oldest.
    """

    def __init__(self, limit: int = _LIMIT) -> None:
        self._limit, self._count = limit, 0
        self._features = np.empty((0, 0), np.float32)  # [rows with a place, D]
        self._keys: list[ResultKey] = []

    def add(self, feature: NDArray[np.floating] | None, key: ResultKey) -> None:
        """Add an image.

        Args:
            feature: Its unit feature [D]; None and what has another D than the first is not kept.
            key: Region and task that it was collected of.
        """
        if feature is None or (self._keys and feature.shape != self._features.shape[1:]):
            return
        if len(self._keys) == len(self._features) < self._limit:  # room for twice as many
            room = np.zeros((min(self._limit, max(64, 2 * len(self._features))), len(feature)), np.float32)
            if self._keys:
                room[: len(self._keys)] = self._features
            self._features = room
        place = self._count % self._limit
        self._features[place] = feature
        self._keys[place : place + 1] = [key]
        self._count += 1

    def distance(self, feature: NDArray[np.floating] | None, key: ResultKey | None = None) -> float:
        """Cosine distance, 0 to 2, to the nearest image; infinite where there is none to compare with.

        Args:
            feature: Unit feature [D]; None is as far from others as it is near: NaN, which no limit holds for.
            key: Compare with images of this region and task alone; None compares with all.
        """
        if feature is None:
            return math.nan
        if not self._keys or feature.shape != self._features.shape[1:]:
            return math.inf
        cosines = self._features[: len(self._keys)] @ feature.astype(np.float32)  # [images]
        if key is not None:
            cosines = cosines[[each == key for each in self._keys]]
        return 1 - float(cosines.max()) if len(cosines) else math.inf
