"""The console sink: results on stdout as text lines, as JSON lines, or as rows of a terminal that are updated."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
import threading
import unicodedata
from typing import Any

from attri.runtime._util.printable import printable
from attri.runtime.deliver.format import json_line, label_text, text_line, title
from attri.runtime.deliver.result import FrameResult, ResultKey
from attri.runtime.deliver.sink import SinkFilter
from attri.runtime.errors import SinkError

_BLOCKS = " ▏▎▍▌▋▊▉█"  # a bar in eighths of a cell


def live_line(result: FrameResult, columns: int) -> str:
    """One row of a terminal, at most `columns` cells: source, task, label, score with a bar, frame rate, age, drops."""
    right = f"{result.score:6.1%} {_bar(result.score, 10)} {result.fps:5.1f} fps {result.age_ms:5.0f} ms"
    right += f"  {result.dropped} dropped" if result.dropped else ""
    left = max(0, columns - len(right) - 1)
    source = _cells(title(result), left // 2)
    label = _cells(label_text(result), left - cell_width(source) - 2)
    line = f"{source}  {label}"
    return _cells(f"{line}{' ' * max(1, left + 1 - cell_width(line))}{right}", columns)


class ConsoleSink:
    """Writes a line per result; on a terminal, each task of a video or live source has a row that is updated in place.

    A change of the label is also written as a line that scrolls up and stays, and so is the last row of a source that
    has ended. Log lines go above the rows. If there are more rows than fit on the terminal, the first ones are shown
    and the others counted.

    Args:
        style: "json" or "text".
        topk: Labels per result.
        why: Whether JSON says what is known of the retrieved pool entries, and the nearest training images.
        stream: Where to write; None is stdout. BrokenPipeError passes through: the reader has gone, and the command
            ends as it does for any `| head`.
        rows: Whether a terminal has rows that are updated.
    """

    name = "console"
    lossless = True
    takes: SinkFilter = "scheduled"

    def __init__(self, style: str, topk: int, stream: Any = None, *, rows: bool = True, why: bool = False) -> None:
        self._stream = stream or sys.stdout
        self._style, self._topk, self._why = style, topk, why
        self._rows: dict[ResultKey, str] = {}  # the last row of each task of each source
        self._drawn = 0
        self._has_rows = rows and style == "text" and self._stream.isatty()
        self._lock = threading.Lock()  # results and log lines come from different threads
        self._handlers = _terminal_handlers() if self._has_rows else []
        for handler in self._handlers:
            handler.setStream(_LogStream(self, handler.stream))

    def write(self, result: FrameResult) -> None:
        """Write a line, or update the row of the source.

        Raises:
            SinkError: It cannot be written.
        """
        as_json = self._style == "json"
        line = json_line(result, self._topk, self._why) if as_json else text_line(result, self._topk)
        with self._lock:
            if not self._has_rows:
                self._say(f"{line}\n")
            elif result.still:
                self._draw(line)
            else:
                columns = shutil.get_terminal_size().columns
                self._rows[result.key] = live_line(result, columns - 1)  # a full row would wrap
                self._draw(line if result.changed else None)

    def source_ended(self, origin: str) -> None:
        """Let the rows of the source scroll up with the lines that stay."""
        with self._lock:
            if rows := [self._rows.pop(key) for key in list(self._rows) if key.origin == origin]:
                self._draw("\n".join(rows))

    def log(self, text: str, stream: Any) -> None:
        """Write to `stream`, which is the same terminal, above the rows."""
        with self._lock:
            with contextlib.suppress(OSError, SinkError):
                self._erase()
            stream.write(text)
            stream.flush()
            with contextlib.suppress(OSError, SinkError):
                self._draw(None)

    def close(self) -> None:
        """Leave the last rows on the screen."""
        for handler in self._handlers:
            handler.setStream(handler.stream.stream)
        with self._lock:
            if self._drawn:
                self._say("\n")
                self._drawn = 0

    def _draw(self, event: str | None) -> None:
        above = f"{event}\n" if event else ""
        rows = self._visible()
        if above or rows or self._drawn:
            # The cursor stays at the start of the last row: other output to the terminal begins there.
            self._say(self._up() + above + "\n".join(rows) + "\r")
            self._drawn = len(rows)

    def _erase(self) -> None:
        if self._drawn:
            self._say(self._up())
            self._drawn = 0

    def _up(self) -> str:
        """Escape codes that move the cursor to the first row and clear from there."""
        return "\r" + (f"\x1b[{self._drawn - 1}A" if self._drawn > 1 else "") + "\x1b[J"

    def _visible(self) -> list[str]:
        """The rows that fit on the terminal beside a line that scrolls; the cursor can be moved up no further."""
        columns, lines = shutil.get_terminal_size()
        rows = [_cells(row, columns - 1) for row in self._rows.values()]  # the terminal may be narrower by now
        room = max(1, lines - 1)
        hidden = len(rows) - room + 1
        what = "rows" if any(key.task for key in self._rows) else "sources"
        return rows if hidden <= 1 else [*rows[: room - 1], f"… and {hidden} more {what}"]

    def _say(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise SinkError(f"stdout: {error.strerror or error}") from error


class _LogStream:
    """Replaces the stream of a log handler while there are rows on the terminal."""

    def __init__(self, console: ConsoleSink, stream: Any) -> None:
        self.stream, self._console = stream, console

    def write(self, text: str) -> None:
        self._console.log(text, self.stream)

    def flush(self) -> None:
        self.stream.flush()


def _terminal_handlers() -> list[Any]:
    """The log handlers that write to a terminal."""
    handlers = [each for each in logging.getLogger().handlers if isinstance(each, logging.StreamHandler)]
    return [each for each in handlers if hasattr(each.stream, "isatty") and each.stream.isatty()]


def _bar(share: float, cells: int) -> str:
    eighths = round(max(0.0, min(1.0, share)) * cells * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_BLOCKS[rest] if rest else "")).ljust(cells)


def cell_width(text: str) -> int:
    """Width of a text on a terminal in cells: East Asian characters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _cells(text: str, cells: int) -> str:
    """Make `text` safe to print and truncate it to this many cells, with an ellipsis if it was truncated."""
    text = printable(text)
    if cell_width(text) <= cells:
        return text
    while text and cell_width(text) > cells - 1:
        text = text[:-1]
    return f"{text}…" if cells > 0 else ""
