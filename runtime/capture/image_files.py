"""Frames from image files, and from a watched folder as they arrive."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attri.runtime._util.printable import as_text
from attri.runtime._util.wording import plural
from attri.runtime.capture.base import Capture, CapturedFrame
from attri.runtime.capture.spec import SourceSpec
from attri.runtime.errors import ImageError, SourceError
from attri.runtime.images import IMAGE_SUFFIXES, list_images, load_image

_POLL = 0.3  # seconds between two looks at a watched folder
_QUIET = 34  # looks, ten seconds, without a change after which a file that cannot be decoded is given up


@contextmanager
def open_images(spec: SourceSpec, max_pixels: int) -> Iterator[Capture]:
    """Open image files, in order, and again as often as `loop` says. One that cannot be read is a frame with its error.

    Args:
        spec: Of the kind "images".
        max_pixels: Of the largest image that is decoded.
    """
    rounds = _rounds(spec.files, spec.input.loop or 0, max_pixels)
    yield Capture(plural(len(spec.files), "image"), rounds)


def _rounds(files: Sequence[Path], again: int, max_pixels: int) -> Iterator[CapturedFrame]:
    """All images, and `again` times more (-1 for ever) those that could be read."""
    while files:
        good = []
        for path in files:
            frame = _load(path, max_pixels)
            good += [] if isinstance(frame.image, ImageError) else [path]
            yield frame
        if not again:
            return
        again -= again > 0
        files = good


def _load(path: Path, max_pixels: int) -> CapturedFrame:
    name = as_text(str(path))
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        message = f"{name} is of no kind that attri reads: an image (.jpg, .png, ...) or a video (.mp4, .mkv, ...)"
        return CapturedFrame(ImageError(message), time.time(), name)
    try:
        return CapturedFrame(load_image(path, max_pixels), time.time(), name)
    except ImageError as error:
        return CapturedFrame(error, time.time(), name)


@contextmanager
def open_watched_folder(spec: SourceSpec, max_pixels: int, abandoned: threading.Event) -> Iterator[Capture]:
    """Open a folder whose images are read as they arrive; those that are there already are left out.

    Args:
        spec: Of the kind "watch".
        max_pixels: Of the largest image that is decoded.
        abandoned: Set when nobody waits for frames any more.
    """
    folder = Path(spec.uri)
    known = _states(folder)
    there = "1 image already there is" if len(known) == 1 else f"{len(known)} images already there are"
    yield Capture(f"watched, {there} left out", _arrivals(folder, known, max_pixels, abandoned))


def _arrivals(
    folder: Path, known: dict[Path, tuple[int, int]], max_pixels: int, abandoned: threading.Event
) -> Iterator[CapturedFrame | None]:
    """Images that are new or written anew, each once it has stayed the same between two looks.

    One that cannot be decoded then may have a writer that pauses: the error is given once the file has been quiet for
    ten seconds and still cannot be decoded.
    """
    before, quiet = known, dict.fromkeys(known, 0)
    while not abandoned.wait(_POLL):
        now = _states(folder)
        quiet = {path: quiet.get(path, 0) + 1 if before.get(path) == state else 0 for path, state in now.items()}
        for path, state in now.items():
            if known.get(path) == state or quiet[path] not in (1, _QUIET):
                continue
            frame = _load(path, max_pixels)
            if quiet[path] == _QUIET or not isinstance(frame.image, ImageError):
                known[path] = state
                yield frame
        known = {path: state for path, state in known.items() if path in now}
        before = now
        yield None


def _states(folder: Path) -> dict[Path, tuple[int, int]]:
    """Time of the last change, ns, and size of each image."""
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
