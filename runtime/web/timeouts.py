"""Limits on how long a client may keep the server waiting, so that slow clients cannot hold all places."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Deadlines:
    """Seconds that a client has; none of them runs while the application works on an answer."""

    receive: float = 30.0  # for a whole request, headers and body, from the moment when it may begin
    send: float = 30.0  # to take all that waits to be sent; a stream is never late while its reader keeps up


class Deadline:
    """A timer that is armed once and then runs out, whatever happens meanwhile, unless it is disarmed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, act: Callable[[], None]) -> None:
        self._loop, self._seconds, self._act = loop, seconds, act
        self._timer: asyncio.TimerHandle | None = None

    @property
    def armed_at(self) -> float:
        """The loop's time when it was armed, or infinity."""
        return float("inf") if self._timer is None else self._timer.when() - self._seconds

    def arm(self, armed: bool) -> None:
        """Arm it, or disarm it; one that is armed keeps its time."""
        if armed and self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._act)
        elif not armed and self._timer is not None:
            self._timer.cancel()
            self._timer = None


def bounded(deadlines: Deadlines) -> type[Any]:
    """uvicorn's HTTP protocol with deadlines for its clients, and with room for new ones.

    uvicorn itself limits only the idle time between two requests. Where all places are taken it refuses the newcomer;
    here the connection that has kept the server waiting longest is closed first.
    """
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Bounded(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.set_write_buffer_limits(0)  # so that pause_writing means: the client has not taken everything
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
        def waits_since(self) -> float:
            return min(self._receiving.armed_at, self._sending.armed_at)

        def _watch(self) -> None:
            self._receiving.arm(self.conn.their_state in (h11.IDLE, h11.SEND_BODY))

        def _make_room(self) -> None:
            others: set[Any] = {*self.connections} - {self}
            if self.limit_concurrency is None or len(others) + 1 < self.limit_concurrency:
                return
            slowest: Any = min(others, key=lambda each: each.waits_since)
            if slowest.waits_since < float("inf"):
                self.connections.discard(slowest)  # now, since others may come before its end is noticed
                slowest.transport.abort()

    return Bounded
