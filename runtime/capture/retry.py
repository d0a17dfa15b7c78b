"""When a live source counts as frozen, and how long is waited before it is opened again."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attri.runtime._util.backoff import backoff_delay
from attri.runtime.errors import SourceError


@dataclass(frozen=True)
class RetryPolicy:
    """How a live source that fails is opened again: exponential backoff with jitter.

    Attributes:
        max_retries: Attempts in a row without a new image, before the source is given up.
        first_retries: Attempts before it has given any image, since a name that is mistyped is not to be waited for;
            None is as many as later on.
        initial_delay: Seconds before the first attempt; doubled for each further one, and shortened by up to half at
            random, so that many devices do not all connect at once when a server comes back.
        max_delay: Seconds between two attempts, at most.
        freeze_timeout: Seconds without a new image that are a fault; 0 lets the image stand still.
    """

    max_retries: int = 20
    first_retries: int | None = 2
    initial_delay: float = 1.0
    max_delay: float = 30.0
    freeze_timeout: float = 10.0

    def retries(self, proven: bool) -> int:
        """Attempts in a row, for a source that has worked before or has not."""
        return self.max_retries if proven or self.first_retries is None else min(self.first_retries, self.max_retries)

    def delay(self, attempt: int) -> float:
        """Seconds to wait before an attempt, counted from 1."""
        return backoff_delay(attempt, self.initial_delay, self.max_delay)


class FreezeDetector:
    """Detects a source that is open and gives nothing new: no image, or the same image again and again.

    Args:
        timeout: Seconds without a new image that are a fault; 0 is none.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._last: NDArray[np.uint8] | None = None
        self._renewed = time.monotonic()

    def restart(self) -> None:
        """Count from now: the source was opened. The last image is kept, for it may be repeated by the next opening."""
        self._renewed = time.monotonic()

    def is_repeat(self, image: object) -> bool:
        """Whether an image equals the one before, which a lost camera may go on giving."""
        last = self._last
        if last is None or not isinstance(image, np.ndarray) or image.shape != last.shape:
            return False
        middle = len(image) // 2  # one row first: in all but frozen images it differs already
        return np.array_equal(image[middle], last[middle]) and np.array_equal(image, last)

    def renew(self, image: object) -> None:
        """Note that a new image came."""
        self._renewed = time.monotonic()
        if self._timeout > 0 and isinstance(image, np.ndarray):
            self._last = image

    def is_suspect(self) -> bool:
        """Whether no new image has come for half of the timeout."""
        return 0 < self._timeout / 2 < time.monotonic() - self._renewed

    def check(self) -> None:
        """Look whether no new image has come for the whole timeout.

        Raises:
            SourceError: So it is.
        """
        if 0 < self._timeout < time.monotonic() - self._renewed:
            raise SourceError(f"frozen: nothing new for {self._timeout:g} s (a timeout of 0 lets an image stand still)")
