"""Events to an HTTP server: signed, tried again, and kept on the disk until they were taken."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import logging
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from attri.runtime._util.backoff import backoff_delay
from attri.runtime.deliver.format import event_body
from attri.runtime.deliver.result import FrameResult
from attri.runtime.deliver.sink import SinkFilter
from attri.runtime.deliver.spool import Message, Spool
from attri.runtime.errors import UsageError

_LOGGER = logging.getLogger("attri")
TIMEOUT = 5.0  # seconds a request may take, all in all, but for looking the host's name up
_LOOK = 0.1  # seconds between tries to break off one that takes longer
OLDEST = 86_400.0  # seconds after which an event is given up
_PAUSES = (1.0, 60.0)  # seconds between tries, at first and at most
_AGAIN = (408, 425, 429)  # these refuse the moment, the other 4xx the event


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """ "sha256=" and the hex of HMAC-SHA256(secret, timestamp + "." + body)."""
    digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256)
    return f"sha256={digest.hexdigest()}"


class WebhookSink:
    """POST every event. X-Attri-Timestamp is Unix time of the try, X-Attri-Signature covers it and the body.

    At least once, in order: an event is tried until it is taken (2xx), refused for good (other 4xx, 3xx), a day old, or
    pushed out by newer ones.

    Raises:
        UsageError: the URL or the secret is of no use.
    """

    name = "webhook"
    lossless = True
    takes: SinkFilter = "changes"

    def __init__(self, url: str, secret: str | None, spool: Callable[[], Spool], topk: int) -> None:
        try:
            parts = urlsplit(url)
            whole = url.isascii() and url.isprintable() and " " not in url
            known = whole and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            known = False
        if not known:
            raise UsageError("--webhook takes an http:// or https:// URL, and in it %20 for a blank")
        if parts.username or parts.password:
            raise UsageError("--webhook takes no user and password in its URL: the signature says who sends")
        if not secret:
            raise UsageError("--webhook signs what it sends: set ATTRI_WEBHOOK_SECRET, or --webhook-secret-file")
        self._url, self._secret, self._topk = url, secret, topk
        self._shown = f"webhook {parts.scheme}://{parts.netloc}"  # paths of webhooks are secrets often
        self.delivered = self.given_up = 0
        self._spool = spool()
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def write(self, result: FrameResult) -> None:
        self._spool.add("", event_body(result, self._topk))
        self._wake.set()

    def close(self) -> None:
        """Waits a second for what is on its way; the rest stays on the disk for the next run."""
        self._stop.set()
        self._wake.set()
        self._thread.join(1.0)
        self._spool.close()

    def _run(self) -> None:
        failures = 0  # in a row
        while True:
            waiting = self._spool.after(0, 1)
            if not waiting:
                if self._stop.is_set():
                    return
                self._wake.wait(_PAUSES[1])  # and then look: the disk may not have given what waits
                self._wake.clear()
                continue
            trouble = self._send(waiting[0])
            if trouble is None:
                if failures:
                    _LOGGER.info("%s answers again", self._shown)
                failures = 0
                continue
            if not failures:
                _LOGGER.warning("%s: %s; events are kept and tried again", self._shown, trouble)
            failures += 1
            if self._stop.wait(backoff_delay(failures, *_PAUSES)):
                return

    def _send(self, message: Message) -> str | None:
        """Why it has to be tried again; None where it is done with."""
        try:
            status = self._post(message.body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # Only the system's errors in full: others quote what they do not like, which may be the path.
            words = str(getattr(error, "reason", error)) if isinstance(error, OSError) else type(error).__name__
            status, trouble = 0, words
        else:
            trouble = f"status {status}"
        taken, refused = 200 <= status < 300, 300 <= status < 500 and status not in _AGAIN
        too_old = time.time() - message.born > OLDEST
        if not (taken or refused or too_old):
            return trouble
        if not taken:
            self.given_up += 1
            _LOGGER.warning("%s: an event was given up (%s)", self._shown, trouble)
        self.delivered += taken
        self._spool.done(message.id)
        return None

    def _post(self, body: bytes) -> int:
        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "attri",
            "X-Attri-Timestamp": timestamp,
            "X-Attri-Signature": signature(self._secret, timestamp, body),
        }
        request = urllib.request.Request(self._url, body, headers)
        try:
            with _OPENER.open(request, timeout=TIMEOUT) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """A POST that is redirected would arrive as a GET without its body."""


class _Deadline:
    """For urllib's handlers: its timeout is of each read, so that a server that sends a byte now and then holds a
    request for ever. After TIMEOUT its connection is broken off."""

    def do_open(self, http_class: Any, req: urllib.request.Request, **options: Any) -> Any:
        opened: list[http.client.HTTPConnection] = []
        answered, expired = threading.Event(), threading.Event()

        def connection(*args: Any, **kwargs: Any) -> http.client.HTTPConnection:
            opened.append(http_class(*args, **kwargs))
            return opened[-1]

        def watch() -> None:
            if answered.wait(TIMEOUT):
                return
            expired.set()
            while not answered.wait(_LOOK):  # a connection may come about after the deadline
                for each in opened:
                    _break_off(each.sock)

        threading.Thread(target=watch, name="webhook deadline", daemon=True).start()
        try:
            response = super().do_open(connection, req, **options)  # type: ignore[misc]  # of the class beside this one
        finally:
            answered.set()
        if expired.is_set():  # half an answer looks like a whole one
            response.close()
            raise TimeoutError("timed out")
        return response


class _Http(_Deadline, urllib.request.HTTPHandler):
    pass


class _Https(_Deadline, urllib.request.HTTPSHandler):
    pass


def _break_off(connection: socket.socket | None) -> None:
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


_OPENER = urllib.request.build_opener(_NoRedirect, _Http, _Https)
