"""Bytes of a file from anywhere: a path, http(s), or whatever fsspec knows (s3, gs, az), bounded in size and time."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from attri.runtime._util.redact import redact, redact_uri
from attri.runtime.errors import ImageError, MissingExtra

__all__ = ["MAX_BYTES", "fetch", "is_url", "open_url"]

MAX_BYTES = 1 << 27  # of a file
_TIMEOUT = 30.0  # seconds without a byte
_DEADLINE = 120.0  # seconds for the whole
_CHUNK = 1 << 18


def is_url(text: str) -> bool:
    """Whether this is a URL and not a path."""
    return "://" in text


def fetch(url: str, max_bytes: int = MAX_BYTES, deadline: float = _DEADLINE) -> bytes:
    """Read a URL.

    Args:
        url: http, https, file, or a scheme that fsspec knows; credentials are looked for where fsspec looks.
        max_bytes: a larger file is refused.
        deadline: seconds after which it is given up, however steadily bytes come.

    Raises:
        ImageError: one line with the URL, its credentials hidden, and what is wrong.
        MissingExtra: fsspec, or what it needs for this scheme, is not installed.
    """
    started = time.monotonic()
    parts: list[bytes] = []
    size = 0
    try:
        with closing(open_url(url)) as file:
            while chunk := file.read(_CHUNK):
                parts.append(chunk)
                size += len(chunk)
                if size > max_bytes:
                    raise ImageError(f"{redact_uri(url)} is too large: over {max_bytes >> 20} MiB")
                if time.monotonic() - started > deadline:
                    raise ImageError(f"{redact_uri(url)} takes longer than {deadline:.0f} seconds")
    except (ImageError, MissingExtra):
        raise
    except Exception as error:  # each file system has errors of its own
        raise ImageError(f"{redact_uri(url)} cannot be read: {redact(str(error) or type(error).__name__)}") from error
    return b"".join(parts)


def open_url(url: str) -> IO[bytes]:
    """Open a URL to be read from its beginning to its end.

    Raises:
        MissingExtra: fsspec is not installed.
        Exception: whatever its file system raises.
    """
    scheme = urlsplit(url).scheme.lower()
    if scheme in ("http", "https"):
        request = urllib.request.Request(url, headers={"User-Agent": "attri"})
        try:
            file: IO[bytes] = urllib.request.urlopen(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()  # it holds the connection
            raise
        return file
    if scheme == "file":
        return Path(urllib.request.url2pathname(urlsplit(url).path)).open("rb")
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtra("fsspec") from error
    return fsspec.open(url, "rb").open()  # type: ignore[no-any-return]
