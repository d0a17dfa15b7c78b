"""The webhook sink: signed POST requests with events, retried with backoff, from a spool on the disk."""

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
import uuid
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from attri.runtime._util.backoff import backoff_delay
from attri.runtime._util.printable import json_text
from attri.runtime.deliver.spool import Message, Spool
from attri.runtime.deliver.spooled import OutageLog, SpooledSink
from attri.runtime.errors import UsageError

_LOGGER = logging.getLogger("attri")
TIMEOUT = 5.0  # seconds that a whole request may take, without resolving the host name
_ABORT_INTERVAL = 0.1  # seconds between attempts to abort a request that takes longer
OLDEST = 86_400.0  # seconds after which an event is given up
PAUSES = (1.0, 60.0)  # seconds between attempts, the first and the longest pause
_RETRY_STATUS = (408, 425, 429)  # refused for now; the other 4xx refuse the event itself


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Signature of a request: "sha256=" and the hexadecimal HMAC-SHA256(secret, timestamp + "." + body)."""
    digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256)
    return f"sha256={digest.hexdigest()}"


def check_url(url: str) -> None:
    """Check that events can be sent to this URL.

    Raises:
        UsageError: It is no HTTP address, or has a user in it.
    """
    try:
        parts = urlsplit(url)
        whole = url.isascii() and url.isprintable() and " " not in url
        known = whole and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise UsageError("a webhook takes an http:// or https:// URL, and in it %20 for a blank")
    if parts.username or parts.password:
        raise UsageError("a webhook takes no user and password in its URL: the signature says who sends")


def check_secret(secret: str | None) -> str:
    """The secret, if there is one to sign events with.

    Raises:
        UsageError: There is none.
    """
    if not secret:
        raise UsageError("a webhook signs what it sends: set ATTRI_WEBHOOK_SECRET, or `webhook_secret_file`")
    return secret


class WebhookSink(SpooledSink):
    """Sends every event by POST, signed, at least once and in order.

    An event is tried until it is taken (2xx), refused for good (3xx, most 4xx), a day old, or pushed out of the spool
    by newer ones. The header X-Attri-Timestamp has the Unix time of the attempt; X-Attri-Signature covers it and the
    body (see `signature`).

    Args:
        url: Address of the receiver, http:// or https://.
        secret: Key of the signatures.
        spool: Opens the spool, which belongs to this URL alone.
        topk: Labels in the JSON of an event.

    Attributes:
        delivered: Events that the receiver has taken.
        given_up: Events that were refused for good or became too old.

    Raises:
        UsageError: The URL or the secret cannot be used.
        SinkError: The disk is full.
    """

    name = "webhook"

    def __init__(self, url: str, secret: str | None, spool: Callable[[], Spool], topk: int) -> None:
        check_url(url)
        self._url, self._secret = url, check_secret(secret)
        parts = urlsplit(url)
        self._shown = f"webhook {parts.scheme}://{parts.netloc}"  # without the path, which is often a secret
        self._outage = OutageLog(f"{self._shown}: ", "events are kept and tried again")
        self.delivered = self.given_up = 0
        super().__init__(spool(), topk)
        self._thread.start()

    def announce(self, update: Mapping[str, Any]) -> None:
        """Send the state of an update of the bundle, as an event is sent; may be called from any thread.

        Raises:
            SinkError: The disk does not take it.
        """
        self._spool.add("", json_text({"id": uuid.uuid4().hex, "update": update}).encode())
        self._wake.set()

    def close(self) -> None:
        """Wait a second for the event on its way; the rest stays on the disk for the next run."""
        self._stop_sending(1.0)
        self._spool.close()

    def _run(self) -> None:
        failures = 0  # in a row
        while True:
            waiting = self._spool.after(0, 1)
            if not waiting:
                if self._stop.is_set():
                    return
                self._wake.wait(PAUSES[1])  # and then read again: the disk may have failed to give what waits
                self._wake.clear()
                continue
            trouble = self._send(waiting[0])
            if trouble is None:
                if self._outage.end():
                    _LOGGER.info("%s answers again", self._shown)
                failures = 0
                continue
            self._outage.report(trouble)
            failures += 1
            if self._stop.wait(backoff_delay(failures, *PAUSES)):
                return

    def _send(self, message: Message) -> str | None:
        """Try to deliver an event. Returns why it has to be tried again, or None when it is delivered or given up."""
        try:
            status = self._post(message.body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # Only the system's errors in full: others quote what they do not like, which may be the path.
            words = str(getattr(error, "reason", error)) if isinstance(error, OSError) else type(error).__name__
            status, trouble = 0, words
        else:
            trouble = f"status {status}"
        taken = 200 <= status < 300
        refused = 300 <= status < 500 and status not in _RETRY_STATUS
        too_old = time.time() - message.born > OLDEST
        if not (taken or refused or too_old):
            return trouble
        if taken:
            self.delivered += 1
        else:
            self.given_up += 1
            _LOGGER.warning("%s: an event was given up (%s)", self._shown, trouble)
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
    """Takes no redirect: the POST would arrive there as a GET without its body."""

    def redirect_request(self, *_: Any) -> None:
        """Follow no redirect."""


class _Deadline:
    """Mixin for urllib's handlers: aborts the connection of a request that takes longer than TIMEOUT.

    urllib's own timeout applies to each read, so that a server that sends a byte now and then holds a request forever.
    """

    def do_open(self, http_class: Any, req: urllib.request.Request, **options: Any) -> Any:
        """Open a connection as the handler does, with a deadline."""
        opened: list[http.client.HTTPConnection] = []
        answered, expired = threading.Event(), threading.Event()

        def connection(*args: Any, **kwargs: Any) -> http.client.HTTPConnection:
            opened.append(http_class(*args, **kwargs))
            return opened[-1]

        def watch() -> None:
            if answered.wait(TIMEOUT):
                return
            expired.set()
            while not answered.wait(_ABORT_INTERVAL):  # the connection may be made after the deadline
                for each in opened:
                    _abort(each.sock)

        threading.Thread(target=watch, name="webhook deadline", daemon=True).start()
        try:
            response = super().do_open(connection, req, **options)  # type: ignore[misc]  # of the handler that this is mixed into
        finally:
            answered.set()
        if expired.is_set():  # an answer that was cut off looks like a complete one
            response.close()
            raise TimeoutError("timed out")
        return response


class _Http(_Deadline, urllib.request.HTTPHandler):
    pass


class _Https(_Deadline, urllib.request.HTTPSHandler):
    pass


def _abort(connection: socket.socket | None) -> None:
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


_OPENER = urllib.request.build_opener(_NoRedirect, _Http, _Https)
