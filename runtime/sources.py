"""Where frames come from: every kind of source behind one small interface, and the files among them.

`open_source` gives a Capture while its `with` lasts; what is slow to import (PyAV, OpenCV) is only where it is needed.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime.errors import ImageError, SourceError
from attri.runtime.images import IMAGE_SUFFIXES, list_images, load_image
from attri.runtime.jpegs import split_jpegs
from attri.runtime.source_uris import SourceSpec

_POLL = 0.3  # seconds between two looks at a watched folder


class Shot(NamedTuple):
    """One picture as it was captured.

    image   what to classify, arrays RGB, or the ImageError that says why there is nothing
    time    seconds: position in a video file; Unix time for everything else
    source  the file, where a source has several
    """

    image: Image.Image | NDArray[np.uint8] | ImageError
    time: float
    source: str | None = None


@dataclass(frozen=True)
class Capture:
    """An open source. None among the shots says: still there, and nothing to show."""

    description: str  # what was negotiated: size, rate, pixel format
    shots: Iterator[Shot | None]


def open_source(spec: SourceSpec, patience: float, left: threading.Event) -> AbstractContextManager[Capture]:
    """Open what `spec` names.

    Args:
        patience: seconds without a frame after which a live source is to give up, where its library can.
        left: set when nobody waits for frames any more.

    Raises: SourceError, MissingExtra; from opening, and while shots are taken.
    """
    if spec.kind in ("stream", "video"):
        from attri.runtime.capture_av import open_stream, open_video

        return open_stream(spec, patience) if spec.live else open_video(spec)
    if spec.live:
        from attri.runtime.capture_cv import open_camera

        return open_camera(spec)
    if spec.kind == "watch":
        return _watch(Path(spec.uri), left)
    return _stdin() if spec.kind == "stdin" else _pictures(spec)


@contextmanager
def _pictures(spec: SourceSpec) -> Iterator[Capture]:
    yield Capture(f"{len(spec.files)} pictures", _rounds(spec.files, spec.input.loop or 0))


def _rounds(files: Sequence[Path], again: int) -> Iterator[Shot]:
    """All pictures, and as often again (-1 for ever) those that could be read."""
    while files:
        good = []
        for path in files:
            shot = _picture(path)
            good += [] if isinstance(shot.image, ImageError) else [path]
            yield shot
        if not again:
            return
        again -= again > 0
        files = good


def _picture(path: Path) -> Shot:
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        message = f"{path} is of no kind that attri reads: a picture (.jpg, .png, ...) or a video (.mp4, .mkv, ...)"
        return Shot(ImageError(message), time.time(), str(path))
    try:
        return Shot(load_image(path), time.time(), str(path))
    except ImageError as error:
        return Shot(error, time.time(), str(path))


@contextmanager
def _watch(folder: Path, left: threading.Event) -> Iterator[Capture]:
    known = _states(folder)
    yield Capture(f"watched, {len(known)} pictures already there are left out", _arrivals(folder, known, left))


def _arrivals(folder: Path, known: dict[Path, tuple[int, int]], left: threading.Event) -> Iterator[Shot | None]:
    """Pictures that are new or written anew, each once it has stayed the same between two looks."""
    before = known
    while not left.wait(_POLL):
        now = _states(folder)
        for path, state in now.items():
            if known.get(path) != state and before.get(path) == state:
                known[path] = state
                yield _picture(path)
        known = {path: state for path, state in known.items() if path in now}
        before = now
        yield None


def _states(folder: Path) -> dict[Path, tuple[int, int]]:
    """Time of the last change, ns, and size of each picture."""
    try:
        paths = list_images(folder)
    except (ImageError, OSError) as error:
        raise SourceError(f"{folder} can no longer be read: {error}") from error
    result = {}
    for path in paths:
        try:
            status = path.stat()
        except OSError:  # it was there a moment ago
            continue
        result[path] = (status.st_mtime_ns, status.st_size)
    return result


@contextmanager
def _stdin() -> Iterator[Capture]:
    # Without the buffer, whose lock a thread that waits for input would still hold when the process ends.
    stream = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
    yield Capture("JPEGs from standard input", map(_from_bytes, split_jpegs(stream)))


def _from_bytes(data: bytes) -> Shot:
    try:
        return Shot(load_image(data), time.time())
    except ImageError as error:
        return Shot(error, time.time())
