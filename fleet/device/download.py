"""Downloads that go on where they stopped, never longer than announced, and that count only with the right sha256."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from pathlib import Path

from attri.fleet.device.transport import CHUNK, Transport, TransportError
from attri.fleet.release import Entry
from attri.runtime._util.backoff import backoff_delay
from attri.runtime.errors import TrustError

_LOGGER = logging.getLogger("attri")
TRIES = 4  # in a row without a byte
FIRST, LONGEST = 1.0, 20.0  # seconds between them


def download(transport: Transport, name: str, entry: Entry, path: Path) -> None:
    """Complete a file.

    Args:
        transport: where the repository is.
        name: of the file there.
        entry: what it has to be.
        path: what is there of it already; complete and on the disk when this returns.

    Raises:
        TrustError: it is another file; what was there of it is removed.
        TransportError: it breaks off again and again; the next call goes on.
        OSError: the disk is full.
    """
    tries = 0
    if _size(path) > entry.size:  # of another release, or of a fault of the disk
        path.unlink()
    while (had := _size(path)) < entry.size or not path.exists():
        try:
            _append(transport, name, entry, path)
            problem = TransportError(f"{name} ended after {_size(path)} of {entry.size} bytes")
        except TransportError as error:
            problem = error
        if _size(path) == entry.size:
            break
        tries = 0 if _size(path) > had else tries + 1
        if problem.missing or tries == TRIES:
            raise problem
        _LOGGER.info("%s; trying again", problem)
        time.sleep(backoff_delay(tries, FIRST, LONGEST) if tries else 0.0)
    if _sha256(path) != entry.sha256:
        path.unlink()
        raise TrustError(f"{name} is not the file that was signed (sha256 or size differs): it was removed")


def _append(transport: Transport, name: str, entry: Entry, path: Path) -> None:
    with path.open("r+b" if path.exists() else "wb") as file:
        file.seek(0, os.SEEK_END)
        for offset, chunk in transport.read(name, file.tell()):
            if offset + len(chunk) > entry.size:
                path.unlink()
                raise TrustError(f"{name} is longer than the {entry.size} bytes that were signed: it was removed")
            if offset != file.tell():  # the server has no ranges, and begins anew
                file.truncate(offset)
                file.seek(offset)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
