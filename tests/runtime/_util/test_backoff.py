"""Backoff: doubling, a longest delay, jitter."""

from __future__ import annotations

from attri.runtime._util.backoff import backoff_delay


def test_backoff_delay_doubles_up_to_the_longest() -> None:
    for attempt, full in ((1, 1.0), (2, 2.0), (4, 8.0), (6, 30.0), (10_000, 30.0)):
        delays = [backoff_delay(attempt, 1.0, 30.0) for _ in range(200)]
        assert full / 2 <= min(delays) < max(delays) <= full
