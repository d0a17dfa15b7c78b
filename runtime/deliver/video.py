"""The video sink: annotated MP4 files in fragments of a second, so that a killed run leaves a file that plays."""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import logging
import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from attri.runtime._util.transient import missing
from attri.runtime.capture.spec import VIDEO_SUFFIXES
from attri.runtime.deliver.annotate import annotate
from attri.runtime.deliver.format import file_name
from attri.runtime.deliver.result import FrameResult, ResultKey
from attri.runtime.deliver.sink import SinkFilter
from attri.runtime.errors import FailedError, MissingExtra, SinkError, UsageError
from attri.runtime.images import IMAGE_SUFFIXES

_LOGGER = logging.getLogger("attri")
SOURCE, TASK = "{source}", "{task}"
SUFFIXES = (".mp4", ".m4v", ".mov")
SLIDE = 0.5  # seconds that an image of its own is shown
RETRY = 10.0  # seconds until a new file is opened after a failure
_OPEN_FILES = 64
CODEC: Final = "libx264"
_TICKS = 1000  # per second
# The encoder holds no frame back (no look-ahead, no B-frames), so that a kill loses one fragment at most.
ENCODER = {"preset": "veryfast", "tune": "zerolatency", "crf": "23"}
_CONTAINER = {"movflags": "empty_moov+default_base_moof", "frag_duration": "1000000", "flush_packets": "1"}


class VideoSink:
    """Records annotated video with the timing of the source; a loop, or the next video, continues the recording.

    Args:
        path: out.mp4 for all sources, or 'out-{source}.mp4' for one file per source, closed when the source has ended.
            The images of a folder, a glob or --watch are one source. Where sources have tasks, 'out-{task}.mp4' or
            'out-{source}-{task}.mp4', since a frame shows the label of one. An existing file is never overwritten: the
            next one is out-2.mp4, and the log names it.
        tasks: Whether sources have tasks.

    Raises:
        UsageError: The suffix is not one of a video, the folder does not exist, or {task} is missing or not wanted.
        FailedError: FFmpeg has no encoder for H.264.
        MissingExtra: PyAV is not installed.
    """

    name = "video"
    lossless = True
    takes: SinkFilter = "every_frame"

    def __init__(self, path: Path, *, tasks: bool = False) -> None:
        check_recording(path, tasks=tasks)
        self._path = path
        self._files: dict[ResultKey, _Recording] = {}  # by source, or "" for all, and task
        self._again = 0.0  # monotonic time before which no file is opened

    def write(self, result: FrameResult) -> None:
        """Append a frame.

        Raises:
            SinkError: It cannot be written. After `RETRY` seconds another file is begun.
        """
        key = ResultKey(result.origin if SOURCE in self._path.name else "", result.task)
        if time.monotonic() < self._again:
            raise SinkError(f"{self._path}: waiting until it can be written again")
        if key not in self._files and len(self._files) == _OPEN_FILES:
            raise SinkError(f"{self._path}: more than {_OPEN_FILES} sources, one file for each")
        try:
            if key not in self._files:
                self._files[key] = _Recording(self._path, result)
            self._files[key].write(result)
        except _errors() as error:
            self._again = time.monotonic() + RETRY
            if failed := self._files.pop(key, None):
                failed.give_up()
            raise self._failure(error) from error

    def source_ended(self, origin: str) -> None:
        """Close the recordings of the source, if it has some of its own."""
        self._close_all([key for key in self._files if key.origin == origin])

    def close(self) -> None:
        """Close all recordings.

        Raises:
            SinkError: The end of one was lost; the others are closed all the same.
        """
        self._close_all(list(self._files))

    def _close_all(self, keys: Sequence[ResultKey]) -> None:
        failure = None
        for key in keys:
            recording = self._files.pop(key)
            try:
                recording.close()
            except _errors() as error:
                recording.give_up()
                failure = error
        if failure:
            raise self._failure(failure) from failure

    def _failure(self, error: Exception) -> SinkError:
        return SinkError(f"{self._path}: {getattr(error, 'strerror', None) or error}")


def check_recording(path: Path, *, tasks: bool = False) -> None:
    """Check that a recording can be made there, as far as can be told before the first frame.

    Args:
        path: As of VideoSink.
        tasks: Likewise.

    Raises:
        UsageError: The suffix is not one of a video, the folder does not exist, or {task} is missing or not wanted.
        FailedError: FFmpeg has no encoder for H.264.
        MissingExtra: PyAV is not installed.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise MissingExtra("av") from error
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: name a file that ends in {', '.join(SUFFIXES)}")
    if tasks and TASK not in path.name:
        raise UsageError(f"{path}: a recording shows one task: put {TASK} into its name")
    if not tasks and TASK in path.name:
        raise UsageError(f"{path}: there are no tasks: leave out {TASK}")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist") from missing(path.parent)
    try:
        av.Codec(CODEC, "w")
    except ValueError as error:  # av.codec.codec.UnknownCodecError
        raise FailedError(
            f"{path}: the FFmpeg of this PyAV has no encoder {CODEC} (H.264): "
            "pip install --force-reinstall --only-binary av av brings one that has"
        ) from error


def _errors() -> tuple[type[Exception], ...]:
    """Exceptions that writing a recording may raise; not all errors of FFmpeg are OSErrors."""
    import av

    return OSError, av.FFmpegError, av.codec.codec.UnknownCodecError


class _Recording:
    """One open video file, in the size of its first frame."""

    def __init__(self, path: Path, first: FrameResult) -> None:
        height, width = first.image.shape[:2]
        self._size = (max(2, width & ~1), max(2, height & ~1))  # 4:2:0 wants even sides
        what = first.origin if SOURCE in path.name else "all sources"
        name = path.name.replace(SOURCE, _source_name(first)).replace(TASK, first.task or "none")
        self._file = _create(path.with_name(name), what if first.task is None else f"{first.task} of {what}")
        try:
            self._open()
        except BaseException:
            self._file.close()
            Path(self._file.name).unlink(missing_ok=True)
            raise
        self._last = -1  # tick of the last frame
        self._end = 0.0  # seconds: where the next source or image begins
        self._starts: dict[str, tuple[float, float]] = {}  # by source: its clock at the start of this file, and now
        self._header = self._whole = 0  # bytes up to the first fragment, and up to the end of the last complete one

    def _open(self) -> None:
        import av

        self._container = av.open(self._file, "w", format="mp4", container_options=_CONTAINER)
        self._stream: Any = self._container.add_stream(CODEC, rate=30, options=ENCODER)
        self._stream.width, self._stream.height = self._size
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = Fraction(1, _TICKS)
        self._stream.codec_context.gop_size = 60

    def write(self, result: FrameResult) -> None:
        import av

        self._last = max(self._last + 1, round(self._position(result) * _TICKS))
        frame = av.VideoFrame.from_ndarray(self._fit(annotate(result)), "rgb24")
        frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
        self._container.mux(self._stream.encode(frame))
        self._whole = self._file.tell()
        self._header = self._header or self._whole  # the first frame waits for the rest of its fragment

    def _position(self, result: FrameResult) -> float:
        """Position of the frame in this file, seconds."""
        position, lasts = self._end, SLIDE
        if not result.still:
            start, before = self._starts.get(result.source, (0.0, math.inf))
            again = result.clock < before  # or for the first time
            start = result.clock - self._end if again else start
            position, lasts = result.clock - start, 0.0 if again else min(result.clock - before, SLIDE)
            self._starts[result.source] = start, result.clock
        self._end = position + lasts
        return position

    def close(self) -> None:
        """Write what the encoder holds and close the file; may raise the exceptions of `_errors`."""
        self._container.mux(self._stream.encode())
        self._container.close()
        self._file.close()

    def give_up(self) -> None:
        """Close the file after a failed write, without its incomplete fragment, which some players cannot play.

        A file without a complete fragment is deleted.
        """
        with contextlib.suppress(OSError), self._file:
            with contextlib.suppress(*_errors()):
                self._container.close()
            self._file.truncate(self._whole)
            if self._whole == self._header:
                Path(self._file.name).unlink()

    def _fit(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Fit a frame, uint8 [H, W, 3], to the size of the file: crop an odd row or column, else add black borders."""
        width, height = self._size
        if 0 <= image.shape[0] - height <= 1 and 0 <= image.shape[1] - width <= 1:
            return np.ascontiguousarray(image[:height, :width])
        return np.asarray(ImageOps.pad(Image.fromarray(image), self._size, Image.Resampling.BILINEAR))


class _File(io.FileIO):
    """A file whose `write` is complete or raises: PyAV does not look at how many bytes were written."""

    def write(self, data: Any) -> int:
        if (taken := super().write(data)) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return taken


def _source_name(result: FrameResult) -> str:
    """The source as part of a file name; of a file or folder its last component without the suffix."""
    suffixes = IMAGE_SUFFIXES if result.still else VIDEO_SUFFIXES if result.kind in ("video", "stream") else ()
    name = result.origin
    if result.kind in ("video", "images", "watch") and not glob.has_magic(name):
        name = Path(name).absolute().name
    found = re.search(r"\.\w+(?=( \(\d+\))?$)", name)  # a file that was named twice has a number after it
    if found and found[0].lower() in suffixes:
        name = name[: found.start()] + name[found.end() :]
    return file_name(name)


def _create(path: Path, what: str) -> io.FileIO:
    """Create the first of out.mp4, out-2.mp4, out-3.mp4, ... that does not exist, and log its name for `what`."""
    for candidate in _names(path):
        try:
            file = _File(candidate, "x+")
        except FileExistsError:
            continue
        kept = "" if candidate == path else f" ({path.name} is already there and is kept)"
        _LOGGER.info("recording %s to %s%s", what, candidate, kept)
        return file
    raise FileExistsError(f"{path} has 100,000 successors already")


def _names(path: Path) -> Iterator[Path]:
    yield path
    yield from (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(2, 100_000))
