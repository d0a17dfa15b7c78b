"""Bytes of a repository by name: from a web server, with proxies of the environment, or from a folder on a stick.

Nothing is trusted here. A transport bounds what a bad or broken server can do: it may not stall, and never chooses how
much is read.
"""

from __future__ import annotations

import errno
import http.client
import netrc
import os
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from attri.runtime._util.redact import redact, redact_uri
from attri.runtime.errors import FailedError, UsageError

CHUNK = 1 << 18
_GONE = (403, 404, 410)


class TransportError(FailedError):
    """The repository cannot be read now.

    Args:
        message: one line.
        missing: whether it answers, and has no such file.
    """

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


class Transport(Protocol):
    """Where a repository is."""

    def read(self, name: str, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield the content of a file in chunks.

        Args:
            name: path below the repository.
            start: offset at which to begin; it may be ignored.

        Yields:
            Offset and bytes, one after the other, from `start` or from 0.

        Raises:
            TransportError: it cannot be read.
        """


def open_transport(where: str) -> Transport:
    """A transport for an http(s) URL or a folder."""
    scheme = urlsplit(where).scheme.lower()
    if scheme in ("http", "https"):
        return WebTransport(where)
    if "://" in where:
        raise UsageError(f"{redact_uri(where)}: a repository is at http://, https://, or in a folder")
    return FolderTransport(Path(where))


class FolderTransport:
    """A folder, as of a memory stick.

    Args:
        folder: of the repository.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """As of `Transport`. Links and pipes are not read."""
        path = self.folder / name
        try:
            with _opened(path) as file:
                file.seek(start)
                while chunk := file.read(CHUNK):
                    yield start, chunk
                    start += len(chunk)
        except OSError as error:
            missing = error.errno == errno.ENOENT and self.folder.is_dir()
            raise TransportError(f"{path}: {error.strerror or error}", missing=missing) from error


class WebTransport:
    """A web server, with a login where the URL has one (https://user:password@host) or netrc knows its host.

    Args:
        url: of the repository.
        timeout: seconds without a byte.
        slowest: bytes per second, over the whole of a file, below which it is given up.
        patience: seconds after which that is asked.

    Raises:
        UsageError: netrc cannot be used.
    """

    def __init__(self, url: str, timeout: float = 30.0, slowest: float = 2048.0, patience: float = 60.0) -> None:
        parts = urlsplit(url)
        self._url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
        self._opener = urllib.request.build_opener()  # with the proxies of the environment
        if login := _login(url):
            known = urllib.request.HTTPPasswordMgrWithPriorAuth()
            known.add_password(None, self._url, *login, is_authenticated=True)  # below this URL, and nowhere else
            self._opener.add_handler(urllib.request.HTTPBasicAuthHandler(known))
        self._timeout, self._slowest, self._patience = timeout, slowest, patience

    def read(self, name: str, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """As of `Transport`."""
        url = f"{self._url}/{quote(name)}"
        headers = {"User-Agent": "attri"} | ({"Range": f"bytes={start}-"} if start else {})
        began, got = time.monotonic(), 0
        try:
            request = urllib.request.Request(url, headers=headers)
            with self._opener.open(request, timeout=self._timeout) as answer:
                offset = start if answer.status == 206 and _begins(answer, start) else 0
                while chunk := answer.read1(CHUNK):
                    yield offset, chunk
                    offset, got = offset + len(chunk), got + len(chunk)
                    passed = time.monotonic() - began
                    if passed > self._patience and got < passed * self._slowest:
                        raise TransportError(f"{redact_uri(url)} sends {got / passed:.0f} bytes per second: given up")
        except urllib.error.HTTPError as error:
            with error:  # it holds the connection
                hint = ": it wants a login, give one in ~/.netrc" if error.code == 401 else ""
                raise TransportError(f"{redact_uri(url)}: {error}{hint}", missing=error.code in _GONE) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise TransportError(f"{redact_uri(url)}: {redact(str(reason) or type(error).__name__)}") from error


def _login(url: str) -> tuple[str, str] | None:
    """User and password for this URL: its own, or those of its host in ~/.netrc or $NETRC. Raises UsageError."""
    parts = urlsplit(url)
    if parts.username is not None:
        return unquote(parts.username), unquote(parts.password or "")
    try:
        found = netrc.netrc(os.environ.get("NETRC")).authenticators(parts.hostname or "")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, netrc.NetrcParseError) as error:
        raise UsageError(f"the netrc file cannot be used: {error}") from error
    return (found[0], found[2] or "") if found else None


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file")
        yield file


def _begins(answer: http.client.HTTPResponse, start: int) -> bool:
    """Whether a partial answer is the part that was asked for."""
    return (answer.headers.get("Content-Range") or "").startswith(f"bytes {start}-")
