"""Where frames come from: every kind of source behind one small interface, and the files among them.

`open_source` gives a Capture while its `with` lasts; what is slow to import (PyAV, OpenCV) is only where it is needed.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

from attri.runtime._util.printable import as_text
from attri.runtime._util.wording import plural
from attri.runtime.capture.base import Capture, CapturedFrame
from attri.runtime.capture.jpeg_stream import split_jpegs
from attri.runtime.capture.spec import SourceSpec
from attri.runtime.errors import ImageError, SourceError
from attri.runtime.images import IMAGE_SUFFIXES, MAX_PIXELS, list_images, load_image

_POLL = 0.3  # seconds between two looks at a watched folder
_QUIET = 34  # looks, ten seconds, without a change after which a file that cannot be decoded is given up


def open_source(spec: SourceSpec, patience: float, left: threading.Event) -> AbstractContextManager[Capture]:
    """Open what `spec` names.

    Args:
        patience: seconds without a frame after which a live source is to give up, where its library can.
        left: set when nobody waits for frames any more.

    Raises: SourceError, MissingExtra; from opening, and while shots are taken.
    """
    if spec.kind in ("stream", "video"):
        from attri.runtime.capture.pyav import open_stream, open_video

        return open_stream(spec, patience) if spec.live else open_video(spec)
    if spec.live:
        from attri.runtime.capture.opencv import open_camera

        return open_camera(spec)
    if spec.kind == "watch":
        return _watch(Path(spec.uri), _max_pixels(spec), left)
    return _stdin(_max_pixels(spec)) if spec.kind == "stdin" else _pictures(spec)


def _max_pixels(spec: SourceSpec) -> int:
    return MAX_PIXELS if spec.input.megapixels is None else round(spec.input.megapixels * 1e6)


@contextmanager
def _pictures(spec: SourceSpec) -> Iterator[Capture]:
    rounds = _rounds(spec.files, spec.input.loop or 0, _max_pixels(spec))
    yield Capture(plural(len(spec.files), "picture"), rounds)


def _rounds(files: Sequence[Path], again: int, max_pixels: int) -> Iterator[CapturedFrame]:
    """All pictures, and as often again (-1 for ever) those that could be read."""
    while files:
        good = []
        for path in files:
            shot = _picture(path, max_pixels)
            good += [] if isinstance(shot.image, ImageError) else [path]
            yield shot
        if not again:
            return
        again -= again > 0
        files = good


def _picture(path: Path, max_pixels: int) -> CapturedFrame:
    name = as_text(str(path))
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        message = f"{name} is of no kind that attri reads: a picture (.jpg, .png, ...) or a video (.mp4, .mkv, ...)"
        return CapturedFrame(ImageError(message), time.time(), name)
    try:
        return CapturedFrame(load_image(path, max_pixels), time.time(), name)
    except ImageError as error:
        return CapturedFrame(error, time.time(), name)


@contextmanager
def _watch(folder: Path, max_pixels: int, left: threading.Event) -> Iterator[Capture]:
    known = _states(folder)
    there = "1 picture already there is" if len(known) == 1 else f"{len(known)} pictures already there are"
    yield Capture(f"watched, {there} left out", _arrivals(folder, known, max_pixels, left))


def _arrivals(
    folder: Path, known: dict[Path, tuple[int, int]], max_pixels: int, left: threading.Event
) -> Iterator[CapturedFrame | None]:
    """Images that are new or written anew, each once it has stayed the same between two looks.

    One that cannot be decoded then may have a writer that pauses: the error is given once the file has been quiet for
    ten seconds and still cannot be decoded.
    """
    before, quiet = known, dict.fromkeys(known, 0)
    while not left.wait(_POLL):
        now = _states(folder)
        quiet = {path: quiet.get(path, 0) + 1 if before.get(path) == state else 0 for path, state in now.items()}
        for path, state in now.items():
            if known.get(path) == state or quiet[path] not in (1, _QUIET):
                continue
            shot = _picture(path, max_pixels)
            if quiet[path] == _QUIET or not isinstance(shot.image, ImageError):
                known[path] = state
                yield shot
        known = {path: state for path, state in known.items() if path in now}
        before = now
        yield None


def _states(folder: Path) -> dict[Path, tuple[int, int]]:
    """Time of the last change, ns, and size of each picture."""
    try:
        paths = list_images(folder)
    except (ImageError, OSError) as error:
        raise SourceError(f"{as_text(str(folder))} can no longer be read: {as_text(str(error))}") from error
    result = {}
    for path in paths:
        try:
            status = path.stat()
        except OSError:  # it was there a moment ago
            continue
        result[path] = (status.st_mtime_ns, status.st_size)
    return result


@contextmanager
def _stdin(max_pixels: int) -> Iterator[Capture]:
    # Without the buffer, whose lock a thread that waits for input would still hold when the process ends.
    yield Capture("JPEGs from standard input", _piped(getattr(sys.stdin.buffer, "raw", sys.stdin.buffer), max_pixels))


def _piped(stream: BinaryIO, max_pixels: int) -> Iterator[CapturedFrame]:
    data = None
    try:
        for data in split_jpegs(stream):
            yield _from_bytes(data, max_pixels)
    except OSError as error:
        raise SourceError(f"standard input cannot be read: {error.strerror or error}", final=True) from error
    if data is None:
        message = "standard input had no JPEG in it: - takes JPEGs one after the other; name other images as files"
        raise SourceError(message, final=True)


def _from_bytes(data: bytes, max_pixels: int) -> CapturedFrame:
    try:
        return CapturedFrame(load_image(data, max_pixels), time.time())
    except ImageError as error:
        return CapturedFrame(error, time.time())
