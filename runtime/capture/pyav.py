"""Frames from network streams and video files by PyAV (FFmpeg)."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from attri.runtime.capture.base import Capture, CapturedFrame
from attri.runtime.capture.parse import ESCAPED, split_authority
from attri.runtime.capture.spec import SourceSpec
from attri.runtime.errors import MissingExtra, SourceError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

_OPENING = 10.0  # seconds that a server may take to answer
_ANALYSED = 500_000  # microseconds of a stream that FFmpeg looks at before it is open; its own 5 s are a long silence
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}  # FFmpeg's defaults
_GARBAGE = 100  # packets in a row that may give no image; one more is a fault


@contextmanager
def open_stream(spec: SourceSpec, timeout: float) -> Iterator[Capture]:
    """Open a network stream: rtsp, rtsps, or http with MJPEG.

    RTSP goes over TCP, unless `latency` is given: FFmpeg's buffer of late packets, whose length it is, exists over UDP
    alone.

    Args:
        spec: Of the kind "stream".
        timeout: Seconds without a packet after which FFmpeg gives up.

    Raises:
        SourceError: It cannot be opened, or breaks off.
        MissingExtra: PyAV is not installed.
    """
    av = _av()
    options = {"analyzeduration": str(_ANALYSED)}
    if spec.uri.startswith("rtsp"):
        latency = spec.input.latency
        options |= {"rtsp_transport": "tcp"} if latency is None else _over_udp(latency)
    began = False
    try:
        with av.open(spec.uri, timeout=(_OPENING, timeout), options=options, metadata_errors="replace") as container:
            stream = _video_stream(container, "the stream")
            began = True
            yield Capture(_description(container, stream), _live(av, container, stream))
    except av.FFmpegError as error:
        raise _fault(av, error, timeout) if began else _refusal(av, error, spec.uri) from error


@contextmanager
def open_video(spec: SourceSpec) -> Iterator[Capture]:
    """Open a video file, played again as often as `loop` says.

    Raises:
        SourceError: It cannot be read, is damaged, or cut off.
        MissingExtra: PyAV is not installed.
    """
    av, rounds = _av(), spec.input.loop or 0
    with _opened(av, spec.uri) as container:
        stream = _video_stream(container, spec.uri)
        stream.thread_type = "AUTO"
        yield _begun(container, stream, _rounds(av, container, stream, rounds))


def _begun(container: InputContainer, stream: VideoStream, frames: Iterator[CapturedFrame]) -> Capture:
    """Described by its first frame: only that tells whether the video is rotated, and so the size."""
    first = next(frames)
    return Capture(_description(container, stream, first), chain(iter([first]), frames))


def _rounds(av: Any, container: InputContainer, stream: VideoStream, again: int) -> Iterator[CapturedFrame]:
    yield from _file(av, container, stream)
    while again:
        container.seek(0)
        yield from _file(av, container, stream)
        again -= again > 0


@contextmanager
def _opened(av: Any, uri: str) -> Iterator[InputContainer]:
    try:
        # A playlist that is only named a video must not make FFmpeg open the network; new ones refuse it by themselves.
        container = av.open(uri, options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except av.FFmpegError as error:
        raise SourceError(f"{uri} is not a video that can be read: {error.strerror}", final=True) from error
    with container:
        yield container


def _file(av: Any, container: InputContainer, stream: VideoStream) -> Iterator[CapturedFrame]:
    number, cut = 0, False
    try:
        for packet in container.demux(stream):
            if packet.size:  # the one that ends the stream is empty
                cut = packet.is_corrupt
            for frame in packet.decode():
                yield CapturedFrame(_upright(frame), float(frame.time or 0.0))
                number += 1
    except av.FFmpegError as error:
        where = f"damaged after frame {number - 1}" if number else "not a video that can be read"
        raise SourceError(f"{container.name} is {where}: {error.strerror}", final=True) from error
    if number == 0:
        raise SourceError(f"{container.name} has no frames in it", final=True)
    if cut:  # decoders hide it: they make do with half a frame, or drop the last ones
        raise SourceError(f"{container.name} is cut off after frame {number - 1}: copy it again", final=True)


def _live(av: Any, container: InputContainer, stream: VideoStream) -> Iterator[CapturedFrame | None]:
    """Frames as they come. What is damaged is left out: its image did not come."""
    bad = 0
    for packet in container.demux(stream):
        try:
            frames = [] if packet.is_corrupt else packet.decode()
        except av.InvalidDataError:
            frames = []
        whole = [frame for frame in frames if not frame.is_corrupt]
        bad = 0 if whole else bad + 1
        if bad > _GARBAGE:
            raise SourceError("what it sends is no video")
        yield from (CapturedFrame(_upright(frame), time.time()) for frame in whole)
        if not whole:
            yield None
    raise SourceError("the stream ended")


def _refusal(av: Any, error: Any, uri: str) -> SourceError:
    """Why a stream did not begin, in words that hold neither its password nor what may be a part of it."""
    scheme, _, rest = uri.partition("://")
    account, host, port = split_authority(rest)
    hint = "" if account or "@" not in rest else f" ({ESCAPED})"  # then the host is a part of the user's name
    number = getattr(error, "errno", None)
    if number == errno.ECONNREFUSED:
        where = f"port {_PORTS[scheme]}, the default" if port is None else "that port"
        return SourceError(f"nothing listens on {where} (connection refused){hint}")
    if number in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return SourceError(f"no way to the host ({str(error.strerror).lower()}): is it on, and on this network?")
    if number == errno.EIO and not _resolves(host):  # FFmpeg has the same word for this and for a broken connection
        return SourceError(f"the name of its host does not resolve: is it spelt right, and is DNS there?{hint}")
    if number == errno.EIO and scheme in ("https", "rtsps"):
        return SourceError("no TLS connection came about: does the server speak it on that port?")
    return _answer(av, error, bool(account)) or _fault(av, error, _OPENING)


def _answer(av: Any, error: Any, account: bool) -> SourceError | None:
    """What the server said, where it said no. account: whether the URI has a user name."""
    if isinstance(error, av.error.HTTPUnauthorizedError):
        asks = "it asks for a user name and password (401): write USER:PASSWORD@ before HOST"
        refuses = "it refuses the user name or password (401): mend them in the URI"
        return SourceError(refuses if account else asks, final=True)
    if isinstance(error, av.error.HTTPForbiddenError):
        return SourceError("this user may not see it (403): mend the user name or the path in the URI", final=True)
    if isinstance(error, av.error.HTTPNotFoundError):
        return SourceError("the server knows no such stream (404)")
    if isinstance(error, av.error.HTTPServerError):
        return SourceError("the server failed (5xx): does it speak this protocol on that port?")
    return None


def _fault(av: Any, error: Any, waited: float) -> SourceError:
    """What went wrong with a stream, without the URI and so without its password."""
    if isinstance(error, av.error.ExitError):
        return SourceError(f"no answer for {waited:g} s")
    if isinstance(error, av.InvalidDataError):
        return SourceError("what it sends is no video")
    broken = isinstance(error, OSError) and error.errno == errno.EIO
    return SourceError("the connection broke off" if broken else str(error.strerror))


def _resolves(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(unquote(host), None, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError):  # UnicodeError: too long, or an empty part
        return False


def _over_udp(latency: int) -> dict[str, str]:
    return {"rtsp_transport": "udp", "max_delay": str(latency * 1000)}


def _video_stream(container: InputContainer, name: str) -> VideoStream:
    if not container.streams.video:
        raise SourceError(f"{name} has no video in it", final=True)
    return container.streams.video[0]


def _description(container: InputContainer, stream: VideoStream, first: CapturedFrame | None = None) -> str:
    codec = stream.codec_context
    height, width = codec.height, codec.width
    if first is not None and isinstance(first.image, np.ndarray):
        height, width = first.image.shape[:2]
    rate = f"{float(stream.average_rate):.4g} fps" if stream.average_rate else "rate unknown"
    return f"{width} x {height}, {rate}, {codec.name} {codec.pix_fmt} ({container.format.name})"


def _upright(frame: VideoFrame) -> NDArray[np.uint8]:
    """uint8 [H, W, 3], RGB. A telephone stores its videos lying, and beside them how far to turn them."""
    turns = round(frame.rotation / 90)  # counter-clockwise
    return np.rot90(frame.to_ndarray(format="rgb24"), turns)


def _av() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise MissingExtra("av") from error
    return av
