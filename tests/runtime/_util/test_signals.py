"""Deferred signals: noted, and handlers restored."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from attri.runtime._util.signals import STOP_SIGNALS, defer_signals


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, as in a terminal; a test runner in the background may have it ignored."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in STOP_SIGNALS}
    yield
    assert all(signal.getsignal(number) is signal.default_int_handler for number in STOP_SIGNALS)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_defer_signals_notes_the_first_and_lets_the_second_through(number: signal.Signals) -> None:
    seen: list[int] = []

    def twice() -> None:
        with defer_signals(on_signal=seen.append) as received:
            assert received() is None
            os.kill(os.getpid(), number)
            assert received() == number
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert seen == [number]


def test_defer_signals_holds_back_all_of_them_where_it_is_told_to() -> None:
    with defer_signals([signal.SIGINT], restore_on_first=False) as received:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        assert received() == signal.SIGINT
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler


def test_defer_signals_restores_handlers_when_the_block_fails() -> None:
    with pytest.raises(ValueError, match="x"), defer_signals():
        raise ValueError("x")


def test_defer_signals_does_nothing_outside_of_the_main_thread() -> None:
    handlers: list[object] = []

    def work() -> None:
        with defer_signals() as received:
            handlers.extend((received(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [None, signal.default_int_handler]
