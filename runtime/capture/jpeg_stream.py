"""Frames from standard input: JPEGs one after the other, as `ffmpeg -f image2pipe` or a camera's tool writes them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from attri.runtime.capture.base import Capture, CapturedFrame
from attri.runtime.errors import ImageError, SourceError
from attri.runtime.images import load_image

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA  # start of image, end of image, start of scan
_STANDALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length: TEM and the restarts
_START = bytes((0xFF, _SOI, 0xFF))  # another marker always follows
_CHUNK = 1 << 16
_LARGEST = 1 << 28  # bytes, of any image that can be decoded; what has no end by then is given as it is


@contextmanager
def open_stdin(max_pixels: int) -> Iterator[Capture]:
    """Open standard input.

    Args:
        max_pixels: Of the largest image that is decoded.
    """
    # Without the buffer, whose lock a thread that waits for input would still hold when the process ends.
    yield Capture("JPEGs from standard input", _read(getattr(sys.stdin.buffer, "raw", sys.stdin.buffer), max_pixels))


def _read(stream: BinaryIO, max_pixels: int) -> Iterator[CapturedFrame]:
    data = None
    try:
        for data in split_jpegs(stream):
            yield _load(data, max_pixels)
    except OSError as error:
        raise SourceError(f"standard input cannot be read: {error.strerror or error}", final=True) from error
    if data is None:
        message = "standard input had no JPEG in it: - takes JPEGs one after the other; name other images as files"
        raise SourceError(message, final=True)


def _load(data: bytes, max_pixels: int) -> CapturedFrame:
    try:
        return CapturedFrame(load_image(data, max_pixels), time.time())
    except ImageError as error:
        return CapturedFrame(error, time.time())


def split_jpegs(stream: BinaryIO) -> Iterator[bytes]:
    """Split a stream of bytes into its JPEGs.

    The end of each is found by walking its segments (ITU T.81, annex B), because thumbnails inside hold the same end
    marker. Bytes between two are skipped, and one that breaks off is given as far as it goes.
    """
    data, walk = bytearray(), _SegmentWalk()
    read = getattr(stream, "read1", stream.read)  # what is there, rather than waiting for a whole chunk
    while chunk := read(_CHUNK):
        data += chunk
        while _starts(data) and (end := walk.end(data)):
            yield bytes(data[:end])
            del data[:end]
            walk = _SegmentWalk()
    while _starts(data):
        end = walk.end(data) or walk.torn(data) or len(data)
        yield bytes(data[:end])
        del data[:end]
        walk = _SegmentWalk()


def _starts(data: bytearray) -> bool:
    """Drop what comes before the next start marker; whether there is one."""
    start = data.find(_START)
    del data[: start if start >= 0 else max(0, len(data) - 2)]
    return start >= 0


class _SegmentWalk:
    """How far the segments of the JPEG at the start of the data have been followed."""

    def __init__(self) -> None:
        self.at = self.segment = 2
        self.scanning = False  # among compressed data, where 0xFF is followed by 0 or a restart

    def end(self, data: bytearray) -> int | None:
        """Position after the end marker, or None where that is yet to come."""
        while self.at + 2 <= len(data) < _LARGEST:
            if self.scanning:
                found = data.find(0xFF, self.at)
                self.at = found if found >= 0 else len(data)
            if self.at + 2 > len(data):
                break
            prefix, marker = data[self.at], data[self.at + 1]
            if prefix == 0xFF and marker == _EOI:
                return self.at + 2
            if marker == _SOI:  # broken off: here is the next JPEG
                return self.at
            if prefix != 0xFF or (marker == 0 and not self.scanning):  # here is something else
                return self.torn(data) or self.at
            if marker in _STANDALONE or (self.scanning and marker == 0):
                self.at += 2
            elif marker == 0xFF:  # fill
                self.at += 1
            elif self.at + 4 > len(data):
                break
            else:
                self.segment = self.at
                self.at += 2 + int.from_bytes(data[self.at + 2 : self.at + 4], "big")
                self.scanning = marker == _SOS
        return len(data) if len(data) >= _LARGEST else None

    def torn(self, data: bytearray) -> int | None:
        """Position of another JPEG inside the last segment, because that was cut."""
        found = -1 if self.scanning else data.find(_START, self.segment, self.at)
        return found if found >= 0 else None
