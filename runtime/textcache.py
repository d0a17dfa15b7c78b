"""Text features by label set and retrieved entries: for a video, most frames find theirs here.

That an image's text features depend on nothing but its sorted entries is an equality (DESIGN.md, section 3), so a hit
is exact.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from numpy.typing import NDArray

Key = tuple[bytes, bytes]


class TextCache:
    """Least recently used out first, bounded in bytes, safe to use from several threads.

    Args:
        max_bytes: bound on the arrays kept; one that is larger on its own is not kept.
    """

    def __init__(self, max_bytes: int = 256 << 20) -> None:
        self.max_bytes = max_bytes
        self.bytes = self.hits = self.misses = 0
        self._entries: OrderedDict[Key, NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> NDArray[Any] | None:
        with self._lock:
            value = self._entries.get(key)
            if value is None:
                self.misses += 1
                return None
            self.hits += 1
            self._entries.move_to_end(key)
            return value

    def put(self, key: Key, value: NDArray[Any]) -> None:
        """Keep `value`, which must not be written to afterwards."""
        with self._lock:
            old = self._entries.pop(key, None)
            self.bytes -= 0 if old is None else old.nbytes
            if value.nbytes > self.max_bytes:
                return
            self._entries[key] = value
            self.bytes += value.nbytes
            while self.bytes > self.max_bytes:
                self.bytes -= self._entries.popitem(last=False)[1].nbytes
