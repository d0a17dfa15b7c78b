"""Deferred signals: SIGINT (Ctrl-C) and SIGTERM ask for a stop, and the work in progress ends in order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def defer_signals(
    numbers: Sequence[signal.Signals] = STOP_SIGNALS,
    *,
    on_signal: Callable[[int], None] | None = None,
    restore_on_first: bool = True,
) -> Iterator[Callable[[], int | None]]:
    """Note signals instead of acting on them. The handlers from before come back at the end of the block.

    Python delivers signals to the main thread only; in any other thread nothing changes.

    Args:
        numbers: the signals to defer.
        on_signal: called with the number of each signal, from the signal handler.
        restore_on_first: restore the handlers at the first signal, so that a second one ends the process as usual.
            False defers every signal until the end of the block.

    Yields:
        A function that returns the number of the latest signal, or None while there was none.
    """
    received: list[int] = []

    def latest() -> int | None:
        return received[-1] if received else None

    if threading.current_thread() is not threading.main_thread():
        yield latest
        return
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)
        if on_signal is not None:
            on_signal(number)
        if restore_on_first:
            restore()

    try:
        for number in numbers:
            signal.signal(number, note)
        yield latest
    finally:
        restore()
