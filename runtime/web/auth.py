"""Who may ask the preview for what: checked before anything else looks at a request."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from attri.runtime._util.net import is_own_name

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
# They tell nothing that has to be kept; /healthz tells more to the trusted.
OPEN = ("/", "/preview.js", "/preview.css", "/preview.svg", "/healthz")
_READS = ("GET", "HEAD")


class AuthMiddleware:
    """ASGI around the application: Host, Origin, token, and the headers of every answer.

    `scope["trusted"]` tells the application whether who asks may read everything.

    Args:
        token: as "Authorization: Bearer TOKEN"; None lets nobody change anything.
        private: bound to loopback, so that reading needs no token.
        names: this machine's beside its own.
    """

    def __init__(self, app: ASGIApp, token: str | None, private: bool, names: Sequence[str] = ()) -> None:
        self._app, self._token, self._private = app, token, private
        self._names = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.requests import Request
        from starlette.responses import JSONResponse

        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_RAW]
            await send(message)

        app: Any = self._app
        request = Request(scope)
        scope["trusted"] = self._private or self._knows(request)
        if (refused := self._refusal(request, scope["trusted"])) is not None:
            status, reason = refused
            challenge = {"WWW-Authenticate": "Bearer"} if status == 401 else None
            app = JSONResponse({"error": reason}, status, challenge)
        await app(scope, receive, send_with_headers)

    def _refusal(self, request: Request, trusted: bool) -> tuple[int, str] | None:
        host = request.headers.get("host", "")
        if not (is_own_name(host) or self._is_named(f"//{host}")):
            return 421, "this is not a name of this machine: use its address, or --serve-allowed-host"
        reads = request.method in _READS
        origin = request.headers.get("origin")
        if not reads and origin is not None and not (_same(origin, host) or self._is_named(origin)):
            return 403, "another page may not change anything here"
        if not reads and self._token is None:
            return 403, "nothing can be changed: attri-run was started without a token"
        allowed = trusted if reads else self._knows(request)
        return None if allowed or request.url.path in OPEN else (401, "the token is missing or wrong")

    def _is_named(self, address: str) -> bool:
        """Whether it leads to one of the names, at any port: a proxy has its own."""
        try:
            return urlsplit(address).hostname in self._names
        except ValueError:
            return False

    def _knows(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        wanted = (self._token or "").encode()
        return scheme.lower() == "bearer" and bool(wanted) and hmac.compare_digest(given.strip().encode(), wanted)


def _same(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


_RAW = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
