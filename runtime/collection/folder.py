"""The folder of collected images: one that several processes write to, and that outlives kills and power cuts.

NAME.jpg           what was classified: the frame, or the region of it
NAME.json          what is known of it, see `Item`; written last: an image without it does not count
NAME.answer.json   what a person says that it is, once somebody has

Nothing else is kept: what is there is counted by looking, so that whoever takes files away makes room for new ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime._util.atomic import write_file, write_files
from attri.runtime._util.filelock import unlock, wait_for_lock
from attri.runtime._util.printable import CONTROLS, json_text
from attri.runtime._util.wording import format_utc
from attri.runtime.collection.item import Item
from attri.runtime.errors import UsageError

_LOGGER = logging.getLogger("attri")
IMAGE, RECORD, ANSWER = ".jpg", ".json", ".answer.json"
LONGEST_LABEL = 200  # characters
_NAME = re.compile(r"(\d{8}T\d{6}\.\d{3})Z_[\w.-]+")
_PART = re.compile(rf"\.({_NAME.pattern})\.\w+\.part")
_STALE = 3600.0  # seconds after which no process can still be writing a .part file
_QUALITY = 90


class Answer(NamedTuple):
    """What a person says of an image.

    Attributes:
        label: In words; None is none of the labels.
        time: When, Unix time.
    """

    label: str | None
    time: float


@dataclass(frozen=True)
class Content:
    """What lies in the folder.

    Attributes:
        names: Of images with a record, oldest first.
        answered: Of those that have an answer too.
        nbytes: Of all files, whosever they are.
    """

    names: list[str]
    answered: frozenset[str]
    nbytes: int


class _File(NamedTuple):
    """A file of the folder.

    Attributes:
        name: Of the image that it belongs to; "" if it is somebody else's.
        ending: What it is of that image: IMAGE, RECORD or ANSWER, or "".
        nbytes: Its size; 0 if it was taken away just now.
    """

    name: str
    ending: str
    nbytes: int

    @classmethod
    def of(cls, entry: os.DirEntry[str]) -> _File:
        nbytes = 0
        with contextlib.suppress(FileNotFoundError):
            nbytes = entry.stat(follow_symlinks=False).st_size
        for ending in (ANSWER, RECORD, IMAGE):  # the longest first
            name = entry.name.removesuffix(ending)
            if name != entry.name and _NAME.fullmatch(name):
                return cls(name, ending, nbytes)
        return cls("", "", nbytes)


class Collection:
    """A folder of collected images.

    Args:
        path: The folder; it need not exist before something is added.

    Attributes:
        path: As given.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._complained: set[str] = set()
        self._seen: dict[str, _File] = {}  # by file name: images and records, which never change

    def content(self) -> Content:
        """Look what is there.

        Raises:
            OSError: The folder cannot be read.
        """
        found: dict[str, set[str]] = {ANSWER: set(), RECORD: set(), IMAGE: set()}
        before, after = self._seen, {}
        nbytes = 0
        with os.scandir(self.path) as entries:
            for entry in entries:
                file = before.get(entry.name) or _File.of(entry)
                nbytes += file.nbytes
                if file.ending in found:
                    found[file.ending].add(file.name)
                if file.ending in (IMAGE, RECORD):
                    after[entry.name] = file
        self._seen = after
        names = found[IMAGE] & found[RECORD]
        return Content(sorted(names), frozenset(names & found[ANSWER]), nbytes)

    def has(self, name: str) -> bool:
        """Whether there is an image of this name; any text may be asked for."""
        return bool(_NAME.fullmatch(name)) and self._file(name, IMAGE).is_file() and self._file(name, RECORD).is_file()

    def item(self, name: str) -> Item | None:
        """What is known of an image; None, with one warning, where its record is gone or damaged."""
        try:
            return Item.parse(name, self._file(name, RECORD).read_bytes())
        except (OSError, ValueError) as error:
            if name not in self._complained:
                self._complained.add(name)
                _LOGGER.warning("%s is left out: %s", self._file(name, RECORD), error)
            return None

    def items(self) -> Iterator[Item]:
        """Every image, oldest first.

        Raises:
            OSError: The folder cannot be read.
        """
        return filter(None, map(self.item, self.content().names))

    def image(self, name: str) -> Path:
        """The JPEG of an image."""
        return self._file(name, IMAGE)

    def answer(self, name: str) -> Answer | None:
        """What a person says of it; None where nobody does."""
        try:
            values = json.loads(self._file(name, ANSWER).read_bytes())
            label, moment = values["label"], float(values["time"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            if name not in self._complained:
                self._complained.add(name)
                _LOGGER.warning("%s does not count: %s", self._file(name, ANSWER), error)
            return None
        return Answer(None if label is None else str(label), moment)

    def set_answers(self, labels: Mapping[str, str | None]) -> None:
        """Keep what a person says of images, by name; each file is replaced whole or not at all.

        Raises:
            OSError: One cannot be written; those before it are.
        """
        now = time.time()
        for name, label in labels.items():
            write_file(self._file(name, ANSWER), f"{json_text({'label': label, 'time': round(now, 3)})}\n".encode())

    def remove_answer(self, name: str) -> None:
        """Forget what was said of an image.

        Raises:
            OSError: It cannot be.
        """
        self._file(name, ANSWER).unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from adding images meanwhile.

        Raises:
            OSError: The folder cannot be written to.
        """
        path = self.path / ".lock"
        lock = wait_for_lock(path)
        try:
            yield
        finally:
            unlock(path, lock)

    def add(self, item: Item, jpeg: bytes) -> None:
        """Add an image and its record; call it while `locked`.

        Raises:
            OSError: The disk does not take it; nothing of it counts.
        """
        write_files({self._file(item.name, IMAGE): jpeg, self._file(item.name, RECORD): item.to_json()})

    def free_name(self, moment: float, words: str) -> str:
        """A name that no image has, for one that is collected now; call it while `locked`.

        Args:
            moment: Unix time.
            words: What else is to be in the name, of the characters of file names.
        """
        first = f"{re.sub('[-:]', '', format_utc(moment))}_{words}"
        name, number = first, 1
        while self._file(name, IMAGE).exists():
            number += 1
            name = f"{first}-{number}"
        return name

    def remove_leftovers(self) -> None:
        """Remove files that a kill left unfinished, once they are too old to be another process's.

        Raises:
            OSError: The folder cannot be read or written to.
        """
        now = time.time()
        for part in filter(lambda file: _PART.fullmatch(file.name), self.path.iterdir()):
            with contextlib.suppress(FileNotFoundError):  # another process has just finished or removed it
                if now - part.stat().st_mtime > _STALE:
                    part.unlink()

    def _file(self, name: str, ending: str) -> Path:
        return self.path / f"{name}{ending}"


def collected_at(name: str) -> float:
    """Unix time that the name of an image says.

    Raises:
        ValueError: It is no such name.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"{name!r} is not the name of a collected image")
    return datetime.strptime(found[1], "%Y%m%dT%H%M%S.%f").replace(tzinfo=timezone.utc).timestamp()


def checked_label(label: object) -> str | None:
    """A label as it is kept: without blanks around it; None is none of the labels.

    Raises:
        UsageError: It is no text, or none that a labels file could have.
    """
    if label is None:
        return None
    text = label.strip() if isinstance(label, str) else ""
    if not text or len(text) > LONGEST_LABEL or CONTROLS.search(text):
        raise UsageError(f"a label is text of 1 to {LONGEST_LABEL} characters on one line, and not {label!r:.60}")
    return text


def encode(image: NDArray[np.uint8]) -> bytes:
    """A JPEG file of an image, RGB [H, W, 3]."""
    data = io.BytesIO()
    Image.fromarray(image).save(data, "JPEG", quality=_QUALITY)
    return data.getvalue()


def sha256(data: bytes) -> str:
    """Of a file's content, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
