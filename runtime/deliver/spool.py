"""Events that wait for delivery: a bounded queue on the disk, which a kill does not empty."""

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
# Quick_check does not look at values: whatever a damaged file holds, each comes as the type that it should have.
_MESSAGES = "SELECT id, CAST(born AS REAL), CAST(topic AS BLOB), CAST(body AS BLOB) FROM messages"
_INSERT = "INSERT INTO messages (born, topic, body) VALUES (?, ?, ?)"
_DAMAGE = (sqlite3.DatabaseError, UnicodeDecodeError)  # the latter is of an error that quotes a damaged schema
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
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

    It also remembers which topics hold a retained message of ours, across runs.

    Raises:
        UsageError: another process has it open, or the folder cannot be used.
        SinkError: the disk is full, or fails.
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
        """Raises SinkError: the disk does not take it; what waited already is safe."""
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
        """The next messages behind the one with this id, oldest first; none once it is closed, or while the disk does
        not give them: that is said once, and who asks again later may get them."""
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
        """This one and all before it were delivered, or are given up."""
        with self._lock:
            self._done = max(self._done, message)
            if self._closed:
                return
            # Where even this finds no room on the disk, the next call removes them too.
            with contextlib.suppress(sqlite3.Error), self._base:
                self._count -= self._base.execute("DELETE FROM messages WHERE id <= ?", (self._done,)).rowcount

    def retain(self, topics: Sequence[str]) -> list[str]:
        """Note that these topics are to hold a retained message, before the first of them is sent.

        Returns:
            Topics of earlier runs that are none of these, to be cleared; each stays noted until `forget`.

        Raises:
            SinkError: the disk does not take it.
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
        """The broker has cleared this topic."""
        # Where the disk does not take it, or it was closed, the next run clears the topic again.
        with self._lock, contextlib.suppress(sqlite3.Error), self._base:
            self._base.execute("DELETE FROM retained WHERE topic = ?", (topic,))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._base.close()

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except _DAMAGE as error:
            # The others are of the disk, the folder or another process, and not of what is in the file.
            if isinstance(error, sqlite3.OperationalError) and "file format" not in str(error):
                raise
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
                for table in _TABLES:
                    base.execute(table)
                base.execute("DELETE FROM messages WHERE id < 0")  # takes the lock, which is kept
            (found,) = base.execute("PRAGMA quick_check(1)").fetchone()  # a torn page shows when it is read, not before
            if found != "ok":
                raise sqlite3.DatabaseError(found)
            base.execute(f"{_MESSAGES} LIMIT 0")  # another program's table has other columns
            (self._count,) = base.execute("SELECT count(*) FROM messages").fetchone()
        except _DAMAGE:
            base.close()
            raise
        return base


def _refusal(path: Path, error: OSError | sqlite3.Error) -> AttriError:
    """Why a spool cannot be opened: a full disk may have room later, everything else needs another command."""
    if isinstance(error, OSError):
        no_room, words, place = error.errno in _NO_ROOM, error.strerror or str(error), path.parent
    else:
        no_room, words, place = bool(re.search("full|I/O", str(error))), str(error), path
    if "locked" in words:
        return UsageError(f"{path} is in use by another attri-run: give this one its own --spool")
    if no_room:
        return SinkError(f"{place}: {words}: make room for events, or name another folder with --spool")
    return UsageError(f"{place}: {words}: name another folder with --spool")


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def spool_path(folder: Path | None, kind: str, target: str) -> Path:
    """Where messages for this URL wait: in `folder`, else in systemd's or the user's folder for state."""
    if folder is None:
        state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
        folder = Path(state) if state else state_folder()
    host = re.sub(r"[^a-z0-9.]+", "-", urlsplit(target).hostname or "")[:60]  # no more: paths of webhooks are secrets
    return folder / f"{kind}-{host}-{hashlib.sha256(target.encode()).hexdigest()[:8]}.sqlite"
