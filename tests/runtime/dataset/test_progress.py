"""Lines of progress: rate of this run, time left by what is done of it, and few lines."""

from __future__ import annotations

import logging

import pytest

from attri.runtime.dataset.progress import Progress, duration


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_rate_and_time_left_are_of_this_run() -> None:
    clock = Clock()
    progress = Progress(1000, weight=500, rows=500, errors=3, clock=clock)
    assert progress.line() == "500 rows, 3 errors, 50%"
    clock.seconds = 10
    progress.finish(100, 100, 1)
    assert progress.line() == "600 rows, 4 errors, 60%, 10.0 rows/s, 40 s left"
    assert progress.line(50, 50) == "650 rows, 4 errors, 65%, 15.0 rows/s, 23 s left"
    progress.finish(400, 400, 0)
    assert progress.line() == "1000 rows, 4 errors, 100%, 50.0 rows/s"


def test_time_left_is_not_guessed_before_anything_is_done() -> None:
    clock = Clock()
    progress = Progress(1000, clock=clock)
    clock.seconds = 5
    assert progress.line(20) == "20 rows, 0%, 4.0 rows/s"


def test_lines_grow_rarer(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    progress = Progress(3600, clock=clock)
    with caplog.at_level(logging.INFO, "attri"):
        for second in range(3600):
            clock.seconds = second
            progress.saw(second)
    assert 60 <= len(caplog.messages) < 70


@pytest.mark.parametrize(("seconds", "words"), [(0, "0 s"), (99, "99 s"), (120, "2 min"), (12_000, "3 h 20 min")])
def test_times_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
