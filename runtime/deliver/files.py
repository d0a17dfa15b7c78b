"""Results as files: a CSV table, and snapshots of events."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import stat
import time
import uuid
from collections import deque
from pathlib import Path

from PIL import Image

from attri.runtime._util.printable import as_text
from attri.runtime._util.timefmt import format_utc
from attri.runtime.deliver.console import json_line
from attri.runtime.deliver.result import FrameResult, SinkFilter
from attri.runtime.errors import SinkError, UsageError

COLUMNS = ("source", "frame", "time", "label", "score", "changed", "age_ms", "dropped")
_SNAPSHOT = re.compile(r"\d{8}T\d{6}\.\d{3}Z_.+_.+_\d+\.jpg")
_PART = re.compile(rf"\.{_SNAPSHOT.pattern}(\.\w+)?\.part")
_STALE = 3600.0  # seconds after which nobody still writes a snapshot
_QUALITY = 90


def file_name(text: str) -> str:
    """`text` as part of a file's name: letters and digits of any script, everything else a dash.

    The last 80 bytes at most: long paths differ at their ends.
    """
    plain = re.sub(r"[^\w.-]+", "-", text.encode(errors="replace").decode()).strip("-.")
    return plain.encode()[-80:].decode(errors="ignore").strip("-.") or "none"


class CsvSink:
    """A row per frame, handed to the system when `write` returns: a kill loses none, a power cut the last seconds'.

    An existing table is continued; a torn row or header never stays.

    Raises:
        UsageError: the file cannot be opened, or holds something else.
    """

    name = "csv"
    lossless = True
    takes: SinkFilter = "due"

    def __init__(self, path: Path) -> None:
        self._path = path
        with contextlib.ExitStack() as undo:
            try:
                self._file = undo.enter_context(io.FileIO(path, "a+"))
                self._plain = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
                self._begin()
            except OSError as error:
                raise UsageError(f"--csv {path}: {error.strerror or error}") from error
            undo.pop_all()

    def write(self, result: FrameResult) -> None:
        moment = f"{result.time:.3f}" if result.kind == "video" else format_utc(result.time)
        label = "" if result.label is None else result.label
        scores = (f"{result.score:.6f}", int(result.changed), f"{result.age_ms:.1f}", result.dropped)
        try:
            self._append(_row(result.source, result.frame, moment, label, *scores))
        except OSError as error:
            raise SinkError(f"--csv {self._path}: {error.strerror or error}") from error

    def close(self) -> None:
        self._file.close()

    def _begin(self) -> None:
        header, size = _row(*COLUMNS), 0
        if self._plain:
            self._file.seek(0)
            start = self._file.read(len(header))
            if not header.startswith(start):
                raise UsageError(f"--csv {self._path} holds another table: name a new file")
            size = _whole_rows(self._file, self._file.seek(0, os.SEEK_END))
            self._file.truncate(size)
        if size == 0:
            self._append(header)

    def _append(self, row: bytes) -> None:
        end = self._file.seek(0, os.SEEK_END) if self._plain else 0
        try:
            if self._file.write(row) != len(row):
                raise OSError("the disk is full")
        except OSError:
            if self._plain:
                self._file.truncate(end)
            raise


class SnapshotSink:
    """The whole frame of every event as a JPEG, its JSON in the JPEG's comment; the oldest go when there are too many.

    Several processes may share a folder; each counts what was there when it began and its own.

    Args:
        folder: is made where it is not there. Files of others in it stay.
        keep: how many at most.
        topk: labels in the JSON.
    """

    name = "snapshots"
    lossless = True
    takes: SinkFilter = "events"

    def __init__(self, folder: Path, keep: int, topk: int) -> None:
        self._folder, self._keep, self._topk = folder, keep, topk
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_torn(folder)
            self._files = deque(sorted(file for file in folder.iterdir() if _SNAPSHOT.fullmatch(file.name)))
        except OSError as error:
            raise UsageError(f"--snapshots {folder}: {error.strerror or error}") from error

    def write(self, result: FrameResult) -> None:
        clock = time.time() if result.kind == "video" else result.time
        moment = re.sub("[-:]", "", format_utc(clock))
        name = f"{moment}_{file_name(result.source)}_{file_name(result.label or '')}_{result.frame}.jpg"
        part = self._folder / f".{name}.{uuid.uuid4().hex[:8]}.part"
        try:
            comment = json_line(result, self._topk).encode()
            with part.open("xb") as file:
                Image.fromarray(result.image).save(file, "JPEG", quality=_QUALITY, comment=comment[:65_000])
                file.flush()
                os.fsync(file.fileno())  # or after a power cut the new name may stand for an empty file
            part.replace(self._folder / name)
            self._files.append(self._folder / name)
            while len(self._files) > self._keep:
                self._files.popleft().unlink(missing_ok=True)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise SinkError(f"--snapshots {self._folder}: {error.strerror or error}") from error

    def close(self) -> None:
        pass


def _remove_torn(folder: Path) -> None:
    """What a kill left of a snapshot goes, once it is so old that no other process can still be writing it."""
    for part in filter(lambda file: _PART.fullmatch(file.name), folder.iterdir()):
        with contextlib.suppress(FileNotFoundError):  # another process has just finished or removed it
            if time.time() - part.stat().st_mtime > _STALE:
                part.unlink()


def _row(*values: object) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return as_text(text.getvalue()).encode()


def _whole_rows(file: io.FileIO, size: int) -> int:
    """Bytes up to the last row that ended: what a kill or a full disk tore goes."""
    tail = min(size, 1 << 16)
    file.seek(size - tail)
    return size - tail + file.read(tail).rfind(b"\n") + 1
