"""The snapshot sink: a JPEG file of the frame for every change of the label."""

from __future__ import annotations

import contextlib
import re
import time
from collections import deque
from pathlib import Path

from PIL import Image

from attri.runtime._util.atomic import replacing
from attri.runtime._util.wording import format_utc
from attri.runtime.deliver.format import file_name, json_line, label_text
from attri.runtime.deliver.result import FrameResult
from attri.runtime.deliver.sink import SinkFilter
from attri.runtime.errors import SinkError, UsageError

_SNAPSHOT = re.compile(r"\d{8}T\d{6}\.\d{3}Z_.+_.+_\d+\.jpg")
_PART = re.compile(rf"\.{_SNAPSHOT.pattern}(\.\w+)?\.part")
_STALE = 3600.0  # seconds after which no process can still be writing a .part file
_QUALITY = 90


def check_folder(folder: Path) -> None:
    """Check that a folder for snapshots is there or can be made, as far as can be told without making it.

    Raises:
        UsageError: Something else than a folder is in the way.
    """
    try:
        nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror or error}") from error
    if not nearest.is_dir():
        raise UsageError(f"{folder}: {nearest} is not a folder: name another")


class SnapshotSink:
    """Saves the whole frame of every event as a JPEG, with the event's JSON in the JPEG comment.

    When there are more than `keep`, the oldest are deleted. Several processes may share a folder; each counts the files
    that were there when it started and its own.

    Args:
        folder: Created if it does not exist. Other files in it are left alone.
        keep: Largest number of snapshots.
        topk: Labels in the JSON.

    Raises:
        UsageError: The folder cannot be used.
    """

    name = "snapshots"
    lossless = True
    takes: SinkFilter = "changes"

    def __init__(self, folder: Path, keep: int, topk: int) -> None:
        self._folder, self._keep, self._topk = folder, keep, topk
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(folder)
            self._files = deque(sorted(file for file in folder.iterdir() if _SNAPSHOT.fullmatch(file.name)))
        except OSError as error:
            raise UsageError(f"{folder}: {error.strerror or error}") from error

    def write(self, result: FrameResult) -> None:
        """Save a snapshot and delete the oldest ones.

        Raises:
            SinkError: The disk does not take it; nothing of it is left.
        """
        clock = time.time() if result.kind == "video" else result.time
        moment = re.sub("[-:]", "", format_utc(clock))
        names = [result.source, *([] if result.task is None else [result.task]), label_text(result, "")]
        name = f"{moment}_{'_'.join(map(file_name, names))}_{result.frame}.jpg"
        try:
            comment = json_line(result, self._topk).encode()
            with replacing(self._folder / name) as part:
                Image.fromarray(result.image).save(part, "JPEG", quality=_QUALITY, comment=comment[:65_000])
            self._files.append(self._folder / name)
            while len(self._files) > self._keep:
                self._files.popleft().unlink(missing_ok=True)
        except OSError as error:
            raise SinkError(f"{self._folder}: {error.strerror or error}") from error

    def close(self) -> None:
        """Nothing is open between snapshots."""


def _remove_leftovers(folder: Path) -> None:
    """Remove snapshots that a kill left unfinished, once they are too old to be another process's."""
    for part in filter(lambda file: _PART.fullmatch(file.name), folder.iterdir()):
        with contextlib.suppress(FileNotFoundError):  # another process has just finished or removed it
            if time.time() - part.stat().st_mtime > _STALE:
                part.unlink()
