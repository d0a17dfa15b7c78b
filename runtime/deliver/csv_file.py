"""The CSV sink: one table row per result, in a file that survives kills and full disks."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import stat
from pathlib import Path

from attri.runtime._util.printable import as_text
from attri.runtime._util.transient import missing
from attri.runtime._util.wording import format_utc
from attri.runtime.deliver.result import FrameResult
from attri.runtime.deliver.sink import SinkFilter
from attri.runtime.errors import SinkError, UsageError

COLUMNS = ("source", "frame", "time", "label", "score", "changed", "age_ms", "dropped")
TASK_COLUMNS = ("source", "task", *COLUMNS[1:])  # where sources have tasks


def check_csv(path: Path, *, tasks: bool = False) -> None:
    """Check that a table can be begun or continued there, as far as can be told without writing.

    Args:
        path: The file.
        tasks: Whether it has a column for tasks.

    Raises:
        UsageError: The folder does not exist, or the file holds another table or cannot be read.
    """
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist") from missing(path.parent)
    if not path.is_file():
        return
    try:
        with path.open("rb") as file:
            header = _header(tasks)
            _check_header(path, header, file.read(len(header)))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error


class CsvSink:
    """Writes a table row per result.

    Each row is with the operating system when `write` returns: a kill loses none, a power cut those of the last
    seconds. An existing table is continued. A row or header that was written in part is removed.

    Args:
        path: The file, or a device or pipe, of which nothing is read.
        tasks: Whether it has a column for tasks.

    Raises:
        UsageError: The file cannot be opened, or holds something else.
    """

    name = "csv"
    lossless = True
    takes: SinkFilter = "scheduled"

    def __init__(self, path: Path, *, tasks: bool = False) -> None:
        self._path, self._tasks = path, tasks
        with contextlib.ExitStack() as undo:
            try:
                self._file = undo.enter_context(io.FileIO(path, "a+"))
                self._is_regular = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
                self._begin()
            except OSError as error:
                raise UsageError(f"{path}: {error.strerror or error}") from error
            undo.pop_all()

    def write(self, result: FrameResult) -> None:
        """Append a row.

        Raises:
            SinkError: The row could not be written, and none of it is in the file.
        """
        moment = f"{result.time:.3f}" if result.kind == "video" else format_utc(result.time)
        scores = (f"{result.score:.6f}", int(result.changed), f"{result.age_ms:.1f}", result.dropped)
        names = (result.source, result.task or "") if self._tasks else (result.source,)
        try:
            self._append(_row(*names, result.frame, moment, "; ".join(result.decided), *scores))
        except OSError as error:
            raise SinkError(f"{self._path}: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _begin(self) -> None:
        """Remove what was written in part, and write the header of a new table."""
        size, header = 0, _header(self._tasks)
        if self._is_regular:
            self._file.seek(0)
            _check_header(self._path, header, self._file.read(len(header)))
            size = _whole_rows(self._file, self._file.seek(0, os.SEEK_END))
            self._file.truncate(size)
        if size == 0:
            self._append(header)

    def _append(self, row: bytes) -> None:
        end = self._file.seek(0, os.SEEK_END) if self._is_regular else 0
        try:
            if self._file.write(row) != len(row):
                raise OSError("the disk is full")
        except OSError:
            if self._is_regular:
                self._file.truncate(end)
            raise


def _header(tasks: bool) -> bytes:
    return _row(*(TASK_COLUMNS if tasks else COLUMNS))


def _check_header(path: Path, header: bytes, start: bytes) -> None:
    """Raises UsageError: The first bytes of a file are not those of the header."""
    if not header.startswith(start):
        raise UsageError(f"{path} holds another table: name a new file")


def _row(*values: object) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return as_text(text.getvalue()).encode()


def _whole_rows(file: io.FileIO, size: int) -> int:
    """Size in bytes of the header and the rows that end with a line feed."""
    tail = min(size, 1 << 16)
    file.seek(size - tail)
    return size - tail + file.read(tail).rfind(b"\n") + 1
