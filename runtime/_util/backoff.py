"""Exponential backoff with jitter."""

from __future__ import annotations

import random

_MAX_DOUBLINGS = 30


def backoff_delay(attempt: int, initial: float, longest: float) -> float:
    """Seconds to wait before an attempt.

    The delay doubles with each attempt and is shortened by up to half at random, so that many devices do not all
    reconnect at once when a server comes back.

    Args:
        attempt: counted from 1.
        initial: seconds before the first attempt.
        longest: the delay grows no longer than this, in seconds.
    """
    return min(longest, initial * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS)) * random.uniform(0.5, 1.0)
