"""Exclusive locks between processes, held on files."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO


def try_lock(path: Path) -> IO[str] | None:
    """Lock the file at `path`, which is made where it is missing, without waiting.

    The lock ends with `unlock`, or with the process.

    Returns:
        The open file that holds the lock, or None if another process holds it.

    Raises:
        OSError: the file cannot be made or opened.
    """
    try:
        return _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None


def wait_for_lock(path: Path) -> IO[str]:
    """Lock the file at `path`, which is made where it is missing, and wait for as long as another process holds it.

    The lock ends with `unlock`, or with the process.

    Raises:
        OSError: the file cannot be made or opened.
    """
    return _lock(path, fcntl.LOCK_EX)


def _lock(path: Path, how: int) -> IO[str]:
    while True:
        lock = path.open("a")
        try:
            fcntl.flock(lock, how)
            # The last holder removes the file. If it did so after the file was opened here, then this lock is on a file
            # without a name, which keeps nobody out.
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
        except FileNotFoundError:
            pass
        except BaseException:
            lock.close()
            raise
        lock.close()


def unlock(path: Path, lock: IO[str]) -> None:
    """Remove the file and release its lock, in this order: a name without a lock never stays behind."""
    path.unlink(missing_ok=True)
    lock.close()
