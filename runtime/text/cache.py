"""Text features by retrieved entries and label: for a video, most frames find theirs here.

That a label's text feature depends on nothing but its words and the image's sorted entries is an equality
(docs/explanation/fold.md), so a hit is exact. Features are kept for each label by itself: when labels change, the
others' stay valid.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.uint64]
Features = NDArray[np.float32]


@dataclass(frozen=True)
class _Known:
    """What is known for one set of entries: ascending ids [n] and their features [n, D], never written to."""

    ids: Ids
    features: Features

    @property
    def nbytes(self) -> int:
        return self.ids.nbytes + self.features.nbytes


class TextCache:
    """Least recently used entries out first, bounded in bytes, safe to use from several threads.

    Args:
        max_bytes: bound on the arrays kept; those of one set of entries that are larger on their own are not kept.
    """

    def __init__(self, max_bytes: int = 256 << 20) -> None:
        self.max_bytes = max_bytes
        self.nbytes = self.hits = self.misses = 0
        self._sets: OrderedDict[bytes, _Known] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sets)

    def get(self, entries: bytes, ids: Ids, count: bool = True) -> tuple[NDArray[np.bool_], Features]:
        """Which of the ascending `ids` [U] are known for these entries, bool [U], and their features, in their order.

        Counted as a hit when all are, else as a miss.
        """
        with self._lock:
            known = self._sets.get(entries)
            if known is not None:
                self._sets.move_to_end(entries)
        found, features = _look_up(known, ids)
        with self._lock:
            hit = bool(found.all())
            if count and hit:
                self.hits += 1
            elif count:
                self.misses += 1
        return found, features

    def count_hits(self, images: int) -> None:
        """Images that needed no text graph, because one before them in their batch has the same entries."""
        with self._lock:
            self.hits += images

    def put(self, entries: bytes, ids: Ids, features: Features) -> None:
        """Keep features [n, D] of ascending `ids` [n] beside what is known for the same entries."""
        with self._lock:
            old = self._sets.pop(entries, None)
            self.nbytes -= old.nbytes if old else 0
            new = _Known(ids, features)
            merged = _merge(old, new) if old else new
            kept = merged if merged.nbytes <= self.max_bytes else new
            if kept.nbytes > self.max_bytes:
                return
            self._sets[entries] = kept
            self.nbytes += kept.nbytes
            while self.nbytes > self.max_bytes:
                self.nbytes -= self._sets.popitem(last=False)[1].nbytes


def _look_up(known: _Known | None, ids: Ids) -> tuple[NDArray[np.bool_], Features]:
    if known is None:
        return np.zeros(len(ids), bool), np.empty((0, 0), np.float32)
    if known.ids is ids or np.array_equal(known.ids, ids):  # labels have not changed: no copy
        return np.ones(len(ids), bool), known.features
    rows = np.minimum(np.searchsorted(known.ids, ids), len(known.ids) - 1)
    found = known.ids[rows] == ids
    return found, known.features[rows[found]]


def _merge(old: _Known, new: _Known) -> _Known:
    ids, first = np.unique(np.concatenate([new.ids, old.ids]), return_index=True)
    return _Known(ids, np.concatenate([new.features, old.features])[first])
