"""Where frames come from: pictures, folders, globs and video files, each frame in its order."""

from __future__ import annotations

import glob
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime.errors import FailedError, ImageError, MissingExtra, UsageError
from attri.runtime.images import IMAGE_SUFFIXES, list_images, load_image

if TYPE_CHECKING:
    from av import VideoFrame

_SUFFIXES = "mp4 m4v mov mkv webm avi mpg mpeg ts wmv flv ogv"
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())


@dataclass(frozen=True)
class Frame:
    """One picture to classify.

    source  the file as it was named
    number  0-based, of this source
    time    seconds: position in a video file; Unix time for pictures
    image   what to classify, or the ImageError that says why there is nothing
    """

    source: str
    number: int
    time: float
    image: Image.Image | NDArray[np.uint8] | ImageError


def resolve(sources: tuple[str, ...]) -> list[Path]:
    """Files behind the sources, in order: a folder gives its pictures, a glob what it matches.

    Raises:
        UsageError: nothing there, or a kind of source that is not known.
    """
    files = []
    for source in sources:
        try:
            files += _files(source)
        except OSError as error:
            raise UsageError(f"{source} cannot be read: {error.strerror}") from error
    return files


def _files(source: str) -> list[Path]:
    path = Path(source)
    if "://" in source or source.startswith("/dev/") or re.fullmatch(r"camera\d+", source):
        shown = re.sub("//.*@", "//***@", source)  # no passwords on a screen
        raise UsageError(f"{shown}: cameras and streams are not supported in this version; give files or folders")
    if path.is_dir():
        files = list_images(path)
        if not files:
            raise UsageError(f"the folder {source} has no pictures")
        return files
    if path.exists():
        return [path]
    if glob.has_magic(source):
        matches = glob.glob(source, recursive=True)  # noqa: PTH207  # Path.glob takes no absolute pattern
        files = sorted(path for path in map(Path, matches) if path.is_file())
        if not files:
            raise UsageError(f"nothing matches {source}")
        return files
    raise UsageError(f"{source} does not exist")


def frames(file: Path) -> Iterator[Frame]:
    """The frames of one file. A picture that cannot be read is a frame with its error.

    Raises:
        FailedError: a video that cannot be read, or is damaged further on.
        MissingExtra: a video, without the extra that reads it.
    """
    if file.suffix.lower() in VIDEO_SUFFIXES:
        yield from _video(file)
        return
    if file.suffix.lower() not in IMAGE_SUFFIXES:
        message = f"{file} is of no kind that attri reads: a picture (.jpg, .png, ...) or a video (.mp4, .mkv, ...)"
        yield Frame(str(file), 0, time.time(), ImageError(message))
        return
    try:
        image: Image.Image | ImageError = load_image(file)
    except ImageError as error:
        image = error
    yield Frame(str(file), 0, time.time(), image)


def _video(file: Path) -> Iterator[Frame]:
    try:
        import av
    except ModuleNotFoundError as error:
        raise MissingExtra("av (for video files)", "camera") from error
    number, cut = 0, False
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise FailedError(f"{file} has no video in it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for packet in container.demux(stream):
                if packet.size:  # the one that ends the stream is empty
                    cut = packet.is_corrupt
                for frame in packet.decode():
                    yield Frame(str(file), number, float(frame.time or 0.0), _upright(frame))
                    number += 1
    except av.FFmpegError as error:
        where = f"damaged after frame {number - 1}" if number else "not a video that can be read"
        raise FailedError(f"{file} is {where}: {error.strerror}") from error
    if number == 0:
        raise FailedError(f"{file} has no frames in it")
    if cut:  # decoders hide it: they make do with half a frame, or drop the last ones
        raise FailedError(f"{file} is cut off after frame {number - 1}: copy it again")


def _upright(frame: VideoFrame) -> NDArray[np.uint8]:
    """uint8 [H, W, 3], RGB. A telephone stores its videos lying, and beside them how far to turn them."""
    turns = round(getattr(frame, "rotation", 0) / 90)  # counter-clockwise; PyAV has it from 14 on
    return np.rot90(frame.to_ndarray(format="rgb24"), turns)
