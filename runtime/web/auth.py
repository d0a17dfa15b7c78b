"""ASGI middleware of the preview: Host and Origin checks, bearer-token authentication, security headers."""

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
# Readable without the token: static files, and /healthz, which names no sources to clients without it.
_STATIC = ("/preview.js", "/preview.css", "/preview.svg", "/page.js", "/regions.js", "/review.js", "/review.css")
OPEN = ("/", "/review", *_STATIC, "/healthz")
_READS = ("GET", "HEAD")


class AuthMiddleware:
    """ASGI middleware that refuses a request or passes it on, and adds security headers to every response.

    The Host header must name this machine (against DNS rebinding), a change must come from a page of this server
    (Origin, against cross-site requests) and carry the token. `scope["trusted"]` tells the application whether the
    client may read everything.

    Args:
        app: The application behind it.
        token: Expected as "Authorization: Bearer TOKEN"; None refuses every change.
        private: Whether the server is bound to loopback, so that reading needs no token.
        allowed_hosts: Further names of this machine.
    """

    def __init__(self, app: ASGIApp, token: str | None, private: bool, allowed_hosts: Sequence[str] = ()) -> None:
        self._app, self._token, self._private = app, token, private
        self._allowed_hosts = {name.lower() for name in allowed_hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
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
        scope["trusted"] = self._private or self._has_token(request)
        if (refused := self._refusal(request, scope["trusted"])) is not None:
            status, reason = refused
            challenge = {"WWW-Authenticate": "Bearer"} if status == 401 else None
            app = JSONResponse({"error": reason}, status, challenge)
        await app(scope, receive, send_with_headers)

    def _refusal(self, request: Request, trusted: bool) -> tuple[int, str] | None:
        """HTTP status and message if the request is refused."""
        host = request.headers.get("host", "")
        if not (is_own_name(host) or self._is_allowed_host(f"//{host}")):
            return 421, "this is not a name of this machine: use its address, or have attri-run allow this name"
        reads = request.method in _READS
        origin = request.headers.get("origin")
        if not reads and origin is not None and not (_is_same_origin(origin, host) or self._is_allowed_host(origin)):
            return 403, "another page may not change anything here"
        if not reads and self._token is None:
            return 403, "nothing can be changed: attri-run was started without a token"
        allowed = trusted if reads else self._has_token(request)
        return None if allowed or request.url.path in OPEN else (401, "the token is missing or wrong")

    def _is_allowed_host(self, address: str) -> bool:
        """Whether the address has one of the allowed names, at any port: a proxy listens on another one."""
        try:
            return urlsplit(address).hostname in self._allowed_hosts
        except ValueError:
            return False

    def _has_token(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        wanted = (self._token or "").encode()
        return scheme.lower() == "bearer" and bool(wanted) and hmac.compare_digest(given.strip().encode(), wanted)


def _is_same_origin(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


_RAW = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
