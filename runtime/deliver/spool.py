"""The spool: a bounded queue on the disk for events that wait for delivery; it survives a kill."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from attri.runtime._util.system import state_folder
from attri.runtime.errors import AttriError, SinkError, UsageError

_LOGGER = logging.getLogger("attri")
_TABLES = (
    "CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY AUTOINCREMENT, born REAL, topic TEXT, body BLOB)",
    "CREATE TABLE IF NOT EXISTS retained (topic TEXT PRIMARY KEY)",
)
# quick_check does not look at values: the casts give each value of a damaged file the type that it should have.
_MESSAGES = "SELECT id, CAST(born AS REAL), CAST(topic AS BLOB), CAST(body AS BLOB) FROM messages"
_INSERT = "INSERT INTO messages (born, topic, body) VALUES (?, ?, ?)"
_DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)  # the latter: SQLite quotes a damaged schema in its error
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
LIMIT = 10_000  # messages


class Message(NamedTuple):
    """An event that waits.

    Attributes:
        id: Ascending and never used again.
        born: Unix time at which it was added.
        topic: MQTT topic, or "".
        body: The event as JSON.
    """

    id: int
    born: float
    topic: str
    body: bytes


class Spool:
    """A first-in, first-out queue in an SQLite file that this process locks; safe to use from several threads.

    Messages survive a kill of the process. A power cut may lose those of the last moments (SQLite's synchronous=NORMAL:
    a flush per event would wear out flash cards). When the queue is full, the oldest messages are dropped. The file
    also keeps which MQTT topics hold a retained message of ours, across runs.

    Args:
        path: The file; its folder is created.
        limit: Largest number of messages.

    Attributes:
        path: The file.
        dropped: Messages that were dropped because the queue was full.

    Raises:
        UsageError: Another process has the file open, or the folder cannot be used.
        SinkError: The disk is full or fails.
    """

    def __init__(self, path: Path, limit: int = LIMIT) -> None:
        self.path, self.dropped = path, 0
        self._done, self._count = 0, 0
        self._closed = self._unreadable = False
        self._limit, self._lock = limit, threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = self._open()
        except (OSError, sqlite3.Error) as error:
            raise _refusal(path, error) from error

    def __len__(self) -> int:
        return self._count

    def add(self, topic: str, body: bytes) -> None:
        """Append a message.

        Raises:
            SinkError: The disk does not take it; messages added before are safe.
        """
        with self._lock:
            full = self._count >= self._limit
            try:
                with self._base:
                    if full:
                        self._base.execute("DELETE FROM messages WHERE id = (SELECT min(id) FROM messages)")
                    self._base.execute(_INSERT, (time.time(), topic, body))
            except sqlite3.Error as error:
                raise SinkError(f"{self.path}: {error}") from error
            self._count += not full
            self.dropped += full
        if full and self.dropped == 1:
            _LOGGER.warning("%s is full (%d messages): the oldest are dropped", self.path, self._limit)

    def after(self, last: int, count: int) -> list[Message]:
        """Up to `count` messages after the one with the id `last`, oldest first.

        None once the spool is closed or while the disk cannot be read; the latter is logged once and may pass.
        """
        with self._lock:
            if self._closed:
                return []
            try:
                rows = self._base.execute(
                    f"{_MESSAGES} WHERE id > ? ORDER BY id LIMIT ?", (max(last, self._done), count)
                ).fetchall()
            except sqlite3.Error as error:
                if not self._unreadable:
                    _LOGGER.error("error: %s cannot be read: %s; its events wait", self.path, error)
                self._unreadable = True
                return []
            self._unreadable = False
            return [Message(id, born or 0.0, _text(topic), body or b"") for id, born, topic, body in rows]

    def done(self, message: int) -> None:
        """Remove this message and all before it: they were delivered or given up."""
        with self._lock:
            self._done = max(self._done, message)
            if self._closed:
                return
            # If the disk is too full even for this, the next call removes them too.
            with contextlib.suppress(sqlite3.Error), self._base:
                self._count -= self._base.execute("DELETE FROM messages WHERE id <= ?", (self._done,)).rowcount

    def retain(self, topics: Sequence[str]) -> list[str]:
        """Note that these topics will hold a retained message, before the first one is sent.

        Returns:
            Other topics, of earlier runs, which are to be cleared. Each stays noted until `forget`.

        Raises:
            SinkError: The disk does not take it.
        """
        with self._lock:
            try:
                with self._base:
                    self._base.executemany("INSERT OR IGNORE INTO retained VALUES (?)", [(topic,) for topic in topics])
                noted = self._base.execute("SELECT CAST(topic AS BLOB) FROM retained ORDER BY rowid").fetchall()
            except sqlite3.Error as error:
                raise SinkError(f"{self.path}: {error}") from error
        return [topic for topic in (_text(topic) for (topic,) in noted) if topic not in topics]

    def forget(self, topic: str) -> None:
        """Remove the note about a topic that the broker has cleared."""
        # If the disk does not take it, or the spool is closed, the next run clears the topic again.
        with self._lock, contextlib.suppress(sqlite3.Error), self._base:
            self._base.execute("DELETE FROM retained WHERE topic = ?", (topic,))

    def close(self) -> None:
        """Close the file and release its lock."""
        with self._lock:
            self._closed = True
            self._base.close()

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except _DAMAGE as error:
            # Other errors come from the disk, the folder or another process, not from the content of the file.
            if isinstance(error, sqlite3.OperationalError) and "file format" not in str(error):
                raise
            broken = self.path.with_suffix(".broken")
            for part in ("", "-wal", "-shm"):  # a journal left behind would be replayed into the new file
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
                for table in _TABLES:
                    base.execute(table)
                base.execute("DELETE FROM messages WHERE id < 0")  # takes the lock and keeps it
            (found,) = base.execute(
                "PRAGMA quick_check(1)"
            ).fetchone()  # a damaged page would only show when it is read
            if found != "ok":
                raise sqlite3.DatabaseError(found)
            base.execute(f"{_MESSAGES} LIMIT 0")  # another program's table has other columns
            (self._count,) = base.execute("SELECT count(*) FROM messages").fetchone()
        except _DAMAGE:
            base.close()
            raise
        return base


def _refusal(path: Path, error: OSError | sqlite3.Error) -> AttriError:
    """The error for a spool that cannot be opened: SinkError for a full disk, which may pass, else UsageError."""
    if isinstance(error, OSError):
        no_room, words, place = error.errno in _NO_ROOM, error.strerror or str(error), path.parent
    else:
        no_room, words, place = bool(re.search("full|I/O", str(error))), str(error), path
    if "locked" in words:
        return UsageError(f"{path} is in use by another attri-run: give this one a spool folder of its own")
    if no_room:
        return SinkError(f"{place}: {words}: make room for events, or choose another spool folder")
    return UsageError(f"{place}: {words}: choose another spool folder")


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def spool_path(folder: Path | None, kind: str, target: str) -> Path:
    """File of the spool for a target.

    Args:
        folder: None is systemd's or the user's folder for state.
        kind: Kind of sink, the first part of the name.
        target: URL that the messages go to.
    """
    if folder is None:
        state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
        folder = Path(state) if state else state_folder()
    host = re.sub(r"[^a-z0-9.]+", "-", urlsplit(target).hostname or "")[
        :60
    ]  # without the path, which is often a secret of webhooks
    return folder / f"{kind}-{host}-{hashlib.sha256(target.encode()).hexdigest()[:8]}.sqlite"
