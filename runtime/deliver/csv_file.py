"""The CSV sink: one table row per result, in a file that survives kills and full disks."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import stat
from pathlib import Path

from attri.runtime._util.printable import as_text
from attri.runtime._util.wording import format_utc
from attri.runtime.deliver.result import FrameResult
from attri.runtime.deliver.sink import SinkFilter
from attri.runtime.errors import SinkError, UsageError

COLUMNS = ("source", "frame", "time", "label", "score", "changed", "age_ms", "dropped")


class CsvSink:
    """A row per frame, handed to the system when `write` returns: a kill loses none, a power cut the last seconds'.

    An existing table is continued; a torn row or header never stays.

    Raises:
        UsageError: the file cannot be opened, or holds something else.
    """

    name = "csv"
    lossless = True
    takes: SinkFilter = "scheduled"

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


def _row(*values: object) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return as_text(text.getvalue()).encode()


def _whole_rows(file: io.FileIO, size: int) -> int:
    """Bytes up to the last row that ended: what a kill or a full disk tore goes."""
    tail = min(size, 1 << 16)
    file.seek(size - tail)
    return size - tail + file.read(tail).rfind(b"\n") + 1
