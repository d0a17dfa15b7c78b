"""One look at a file that may change while it is looked at."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path


def read_file(file: Path) -> tuple[object, bytes | OSError]:
    """State and content of one and the same file, even while it is replaced; of a missing one, the error."""
    try:
        # Without waiting for the writer of a pipe that has taken its place.
        with open(file, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as opened:
            status = os.fstat(opened.fileno())
            data = opened.read() if stat.S_ISREG(status.st_mode) else b""
            return state_of(status, data), data
    except OSError as error:
        return error.errno, error


def state_of(status: os.stat_result, data: bytes) -> object:
    """Time, size and content (editors on some file systems leave the first two as they were); of a pipe, None."""
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_mtime_ns, status.st_size, hashlib.sha256(data).digest()
