"""Request deadlines for uvicorn's HTTP protocol (slowloris protection): slow clients cannot hold all connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Deadlines:
    """Seconds that a client has. No deadline runs while the application works on a response.

    Attributes:
        receive: To send a whole request, headers and body, from the moment when it may begin.
        send: To take everything that waits to be sent; a client that keeps up with a stream is never late.
    """

    receive: float = 30.0
    send: float = 30.0


class Deadline:
    """A timer that is not renewed: once armed it runs out unless it is disarmed.

    Args:
        loop: The event loop.
        seconds: Time until it runs out.
        act: Called when it runs out.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, act: Callable[[], None]) -> None:
        self._loop, self._seconds, self._act = loop, seconds, act
        self._timer: asyncio.TimerHandle | None = None

    @property
    def armed_at(self) -> float:
        """Time of the event loop at which it was armed; infinity if it is not armed."""
        return float("inf") if self._timer is None else self._timer.when() - self._seconds

    def arm(self, armed: bool) -> None:
        """Arm or disarm it; if it is armed already, its time stays."""
        if armed and self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._act)
        elif not armed and self._timer is not None:
            self._timer.cancel()
            self._timer = None


def deadline_protocol(deadlines: Deadlines) -> type[Any]:
    """Make a class of uvicorn's HTTP protocol with request deadlines.

    Uvicorn itself limits only the idle time between two requests, and refuses new connections at its limit. Here the
    connection that has kept the server waiting longest is closed for a new one.
    """
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class RequestDeadlineProtocol(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.set_write_buffer_limits(0)  # so that pause_writing means: the client has not read everything
            self._receiving = Deadline(self.loop, deadlines.receive, transport.abort)
            self._sending = Deadline(self.loop, deadlines.send, transport.abort)
            self._watch()
            self._make_room()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._sending.arm(True)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._sending.arm(False)

        def connection_lost(self, exc: Exception | None) -> None:
            self._receiving.arm(False)
            self._sending.arm(False)
            super().connection_lost(exc)

        @property
        def waiting_since(self) -> float:
            return min(self._receiving.armed_at, self._sending.armed_at)

        def _watch(self) -> None:
            self._receiving.arm(self.conn.their_state in (h11.IDLE, h11.SEND_BODY))

        def _make_room(self) -> None:
            others: set[Any] = {*self.connections} - {self}
            if self.limit_concurrency is None or len(others) + 1 < self.limit_concurrency:
                return
            slowest: Any = min(others, key=lambda each: each.waiting_since)
            if slowest.waiting_since < float("inf"):
                self.connections.discard(slowest)  # at once: others may connect before its end is noticed
                slowest.transport.abort()

    return RequestDeadlineProtocol
