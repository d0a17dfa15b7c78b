"""A session with Frigate's HTTP API: without a login on its internal port, or with one (a JWT cookie) on the other."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import urllib.error
import urllib.request
from http.cookiejar import CookieJar

from attri.runtime.capture.frigate.address import FrigateAddress
from attri.runtime.errors import FailedError, SourceError

TIMEOUT = 5.0  # seconds for each answer
_SESSIONS: dict[str, FrigateSession] = {}  # of sources that were opened, by host and port
_REFUSALS = {401: "wrong user or password", 429: "too many logins failed: wait, or start Frigate again"}


class FrigateSession:
    """Requests to a Frigate, which logs in when it is asked to, and again when the login has expired.

    A login that is refused is not tried again: Frigate counts them.

    Args:
        address: With a user, where there is a login.

    Raises:
        SourceError: The certificate cannot be read.
    """

    def __init__(self, address: FrigateAddress) -> None:
        self._address = address
        self._login, self._refused = threading.Lock(), ""
        self._cookies = CookieJar()  # Frigate renews the cookie by itself
        handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPCookieProcessor(self._cookies)]
        if address.certificate is not None:
            handlers.append(urllib.request.HTTPSHandler(context=_trusting(address.certificate)))
        self._opener = urllib.request.build_opener(*handlers)

    @property
    def api(self) -> str:
        """http://HOST:PORT."""
        return self._address.api

    def open(self, path: str, body: bytes | None = None) -> http.client.HTTPResponse:
        """Ask for a path, or send JSON to it.

        Raises:
            FailedError: The login is refused.
            OSError: As of urllib.
        """
        headers = {"User-Agent": "attri"} | ({} if body is None else {"Content-Type": "application/json"})
        request = urllib.request.Request(f"{self.api}{path}", body, headers)
        before = self._token()
        try:
            return self._opener.open(request, timeout=TIMEOUT)  # type: ignore[no-any-return]
        except urllib.error.HTTPError as error:
            if error.code != 401 or not self._address.user:
                raise
            error.close()
        self.login(before)
        request = urllib.request.Request(f"{self.api}{path}", body, headers)  # the other one has the old cookie
        return self._opener.open(request, timeout=TIMEOUT)  # type: ignore[no-any-return]

    def login(self, before: str = "") -> None:
        """Log in, unless another thread has since the token was `before`.

        Raises:
            FailedError: It is refused.
            OSError: As of urllib.
        """
        with self._login:
            if self._token() != before:
                return
            if not self._refused:
                self._ask_for_token()
            if self._refused:
                raise FailedError(f"{self.api} refuses the login of {self._address.user}: {self._refused}")

    def _ask_for_token(self) -> None:
        body = json.dumps({"user": self._address.user, "password": self._address.password}).encode()
        headers = {"User-Agent": "attri", "Content-Type": "application/json"}
        try:
            self._opener.open(urllib.request.Request(f"{self.api}/api/login", body, headers), timeout=TIMEOUT).close()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code >= 500:
                raise
            self._refused = _REFUSALS.get(error.code, f"status {error.code}")

    def _token(self) -> str:
        return "".join(cookie.value or "" for cookie in self._cookies)


def open_session(address: FrigateAddress) -> FrigateSession:
    """The session of a source; where it has a login, it is logged in.

    Raises:
        SourceError: The login is refused, or Frigate does not answer.
    """
    session = FrigateSession(address)
    if address.user:
        try:
            session.login()
        except FailedError as error:
            raise SourceError(str(error), final=True) from error
        except (OSError, http.client.HTTPException) as error:
            raise SourceError(f"{session.api} cannot be reached: {getattr(error, 'reason', error)}") from error
    _SESSIONS[address.host] = session
    return session


def session_at(host: str) -> FrigateSession:
    """The session that a source has opened with HOST:PORT: whoever answers to a result needs the same login."""
    return _SESSIONS[host]


def _trusting(certificate: str) -> ssl.SSLContext:
    """TLS with a server of this certificate, whatever host it names: Frigate makes itself one for `*`."""
    try:
        context = ssl.create_default_context(cafile=certificate)
    except OSError as error:
        raise SourceError(f"{certificate} cannot be read: {error.strerror or error}", final=True) from error
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it is trusted itself, not who signed it
    return context
