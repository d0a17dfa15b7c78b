"""A file that may change while it is looked at: one look, and what has changed between looks."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from attri.runtime._util.atomic import rewrite_file
from attri.runtime.errors import FailedError, UsageError


class WatchedFile:
    """A file whose new content counts when two looks in a row agree, so that one half written is left alone.

    Args:
        path: Of the file.
        taken: The state (`state_of`) of the content that is in use; None takes what is there for new.
    """

    def __init__(self, path: Path, taken: object = None) -> None:
        self.path = path
        self._taken = self._seen = taken

    def look(self) -> bytes | OSError | None:
        """New content that keeps still, once; of a file that cannot be read, the error. None is nothing new."""
        state, found = read_file(self.path)
        if state in (None, self._taken) or state != self._seen:
            self._seen = state
            return None
        self._taken = state
        return found

    def write(self, data: bytes) -> None:
        """Give it new content, whole or not at all, which then counts as taken; its mode, owner and links stay.

        Raises:
            UsageError: It is read-only, or has changed and was not taken yet.
            FailedError: It cannot be written; it is as it was.
        """
        if read_file(self.path)[0] != self._taken:
            raise UsageError(f"{self.path} was changed by somebody else just now: look at what it holds first")
        try:
            if self.path.exists() and not (self.path.stat().st_mode & 0o222 and os.access(self.path, os.W_OK)):
                raise UsageError(f"{self.path} is read-only: chmod u+w it, or replace it by hand")
            rewrite_file(self.path, data)
        except OSError as error:
            raise FailedError(f"{self.path} cannot be written: {error.strerror or error}; it is as it was") from error
        self._taken = self._seen = read_file(self.path)[0]


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
