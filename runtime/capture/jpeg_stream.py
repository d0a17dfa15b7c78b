"""JPEGs one after the other in a stream of bytes, as `ffmpeg -f image2pipe` or a camera's tool writes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA  # start of image, end of image, start of scan
_STANDALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a length: TEM and the restarts
_START = bytes((0xFF, _SOI, 0xFF))  # another marker always follows
_CHUNK = 1 << 16
_LARGEST = 1 << 28  # bytes, of any image that can be decoded; what has no end by then is given as it is


def split_jpegs(stream: BinaryIO) -> Iterator[bytes]:
    """Each JPEG; bytes between two are passed over, and one that breaks off is given as far as it goes.

    The end is found by walking the segments (ITU T.81, annex B), because thumbnails inside hold the same end marker.
    """
    data, walk = bytearray(), _Walk()
    read = getattr(stream, "read1", stream.read)  # what is there, rather than waiting for a whole chunk
    while chunk := read(_CHUNK):
        data += chunk
        while _starts(data) and (end := walk.end(data)):
            yield bytes(data[:end])
            del data[:end]
            walk = _Walk()
    while _starts(data):
        end = walk.end(data) or walk.torn(data) or len(data)
        yield bytes(data[:end])
        del data[:end]
        walk = _Walk()


def _starts(data: bytearray) -> bool:
    """Drop what stands before the next start; whether there is one."""
    start = data.find(_START)
    del data[: start if start >= 0 else max(0, len(data) - 2)]
    return start >= 0


class _Walk:
    """How far one picture, at the start of the data, has been followed."""

    def __init__(self) -> None:
        self.at = self.segment = 2
        self.scanning = False  # among compressed data, where 0xFF is followed by 0 or a restart

    def end(self, data: bytearray) -> int | None:
        """Where it ends, or None where that is yet to come."""
        while self.at + 2 <= len(data) < _LARGEST:
            if self.scanning:
                found = data.find(0xFF, self.at)
                self.at = found if found >= 0 else len(data)
            if self.at + 2 > len(data):
                break
            prefix, marker = data[self.at], data[self.at + 1]
            if prefix == 0xFF and marker == _EOI:
                return self.at + 2
            if marker == _SOI:  # broken off: here is the next picture
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
        """Where another starts inside the last segment, because that was cut."""
        found = -1 if self.scanning else data.find(_START, self.segment, self.at)
        return found if found >= 0 else None
