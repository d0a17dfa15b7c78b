"""Connections on which nothing happens are closed, so that nobody can hold all of them."""

from __future__ import annotations

from typing import Any

SECONDS = 15.0  # without a byte from the client, outside of a request


def impatient() -> type[Any]:
    """uvicorn's HTTP protocol with a limit on silence. It has one between requests, but none before the first one, in
    the middle of one, or for a client that does not read its answer."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._heard = self.loop.time()
            self._watch()

        def data_received(self, data: bytes) -> None:
            self._heard = self.loop.time()
            super().data_received(data)

        def connection_lost(self, exc: Exception | None) -> None:
            self._timer.cancel()
            super().connection_lost(exc)

        def _watch(self) -> None:
            if self.loop.time() - self._heard > SECONDS:
                self.transport.abort()
            else:
                self._timer = self.loop.call_later(SECONDS / 4, self._watch)

    return Impatient
