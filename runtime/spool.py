"""Events that wait for delivery: a bounded queue on the disk, which a kill does not empty."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import sqlite3
import threading
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from attri.runtime.errors import SinkError, UsageError

_LOGGER = logging.getLogger("attri")
_TABLE = "CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY AUTOINCREMENT, born REAL, topic TEXT, body BLOB)"
LIMIT = 10_000  # messages


class Message(NamedTuple):
    id: int  # ascending, never used again
    born: float  # Unix time
    topic: str
    body: bytes


class Spool:
    """First in, first out, in an SQLite file that belongs to this process alone; safe to use from several threads.

    What `add` took is there after a kill of the process. A power cut may cost the last moments (SQLite's
    synchronous=NORMAL: a flash card does not live long with a flush per event). When it is full the oldest go,
    counted in `dropped`.

    Raises:
        UsageError: another process has it open, or it cannot be written.
    """

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        self.path, self.dropped = path, 0
        self._done, self._count = 0, 0
        self._closed = self._unreadable = False
        self._limit, self._lock = limit, threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = self._open()
        except OSError as error:
            raise UsageError(f"{path.parent}: {error.strerror}: name a folder with --spool") from error

    def __len__(self) -> int:
        return self._count

    def add(self, topic: str, body: bytes) -> None:
        """Raises SinkError: the disk does not take it; what waited already is safe."""
        with self._lock:
            full = self._count >= self._limit
            try:
                with self._base:
                    if full:
                        self._base.execute("DELETE FROM messages WHERE id = (SELECT min(id) FROM messages)")
                    self._base.execute("INSERT INTO messages VALUES (NULL, ?, ?, ?)", (time.time(), topic, body))
            except sqlite3.Error as error:
                raise SinkError(f"{self.path}: {error}") from error
            self._count += not full
            self.dropped += full
        if full and self.dropped == 1:
            _LOGGER.warning("%s is full (%d messages): the oldest are dropped", self.path, self._limit)

    def after(self, last: int, count: int) -> list[Message]:
        """The next messages behind the one with this id, oldest first; none once it is closed, or while the disk does
        not give them: that is said once, and who asks again later may get them."""
        with self._lock:
            if self._closed:
                return []
            query = "SELECT * FROM messages WHERE id > ? ORDER BY id LIMIT ?"
            try:
                found = [Message(*row) for row in self._base.execute(query, (max(last, self._done), count))]
            except sqlite3.Error as error:
                if not self._unreadable:
                    _LOGGER.error("error: %s cannot be read: %s; its events wait", self.path, error)
                self._unreadable = True
                return []
            self._unreadable = False
            return found

    def done(self, message: int) -> None:
        """This one and all before it were delivered, or are given up."""
        with self._lock:
            self._done = max(self._done, message)
            if self._closed:
                return
            # Where even this finds no room on the disk, the next call removes them too.
            with contextlib.suppress(sqlite3.Error), self._base:
                self._count -= self._base.execute("DELETE FROM messages WHERE id <= ?", (self._done,)).rowcount

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._base.close()

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise UsageError(
                    f"{self.path} is in use by another attri-run: give this one its own --spool"
                ) from error
            raise UsageError(f"{self.path}: {error}: name another folder with --spool") from error
        except sqlite3.DatabaseError:
            broken = self.path.with_suffix(".broken")
            for part in ("", "-wal", "-shm"):  # a journal left behind would be played into the new one
                with contextlib.suppress(FileNotFoundError):
                    Path(f"{self.path}{part}").replace(f"{broken}{part}")
            _LOGGER.warning("%s was damaged: it is now %s, and a new one begins", self.path, broken)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        base = sqlite3.connect(self.path, timeout=0, check_same_thread=False)
        try:
            base.execute("PRAGMA locking_mode=EXCLUSIVE")
            base.execute("PRAGMA journal_mode=WAL")
            base.execute("PRAGMA synchronous=NORMAL")
            with base:
                base.execute(_TABLE)
                base.execute("DELETE FROM messages WHERE id < 0")  # takes the lock, which is kept
            (found,) = base.execute("PRAGMA quick_check(1)").fetchone()  # a torn page shows when it is read, not before
            if found != "ok":
                raise sqlite3.DatabaseError(found)
            (self._count,) = base.execute("SELECT count(*) FROM messages").fetchone()
        except sqlite3.Error:
            base.close()
            raise
        return base


def spool_path(folder: Path | None, kind: str, target: str) -> Path:
    """Where messages for this URL wait: in `folder`, else in systemd's or the user's folder for state."""
    if folder is None:
        state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
        home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        folder = Path(state) if state else Path(home) / "attri"
    host = re.sub(r"[^a-z0-9.]+", "-", urlsplit(target).hostname or "")[:60]  # no more: paths of webhooks are secrets
    return folder / f"{kind}-{host}-{hashlib.sha256(target.encode()).hexdigest()[:8]}.sqlite"
