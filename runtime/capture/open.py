"""Open a source of any kind. What is slow to import (PyAV, OpenCV) is imported where it is needed."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager

from attri.runtime.capture.base import Capture
from attri.runtime.capture.frigate.capture import EventBroker, open_frigate
from attri.runtime.capture.image_files import open_images, open_watched_folder
from attri.runtime.capture.jpeg_stream import open_stdin
from attri.runtime.capture.spec import SourceSpec
from attri.runtime.errors import SourceError
from attri.runtime.images import MAX_PIXELS


def open_source(
    spec: SourceSpec, timeout: float, abandoned: threading.Event, broker: EventBroker | None = None
) -> AbstractContextManager[Capture]:
    """Open a source while a `with` block lasts.

    Args:
        spec: The source.
        timeout: Seconds without a frame after which a live source is to give up, where its library can.
        abandoned: Set when nobody waits for frames any more.
        broker: That Frigate publishes to, for sources of that kind.

    Raises:
        SourceError: It cannot be opened; also while frames are taken.
        MissingExtra: What opens it is not installed.
    """
    if spec.kind in ("stream", "video"):
        from attri.runtime.capture.pyav import open_stream, open_video

        return open_stream(spec, timeout) if spec.live else open_video(spec)
    if spec.kind == "frigate":
        if broker is None:
            raise SourceError(f"{spec.name} needs the broker that Frigate publishes to: attri-run --mqtt", final=True)
        return open_frigate(spec, broker, timeout, abandoned)
    if spec.live:
        from attri.runtime.capture.opencv import open_camera

        return open_camera(spec)
    max_pixels = MAX_PIXELS if spec.input.megapixels is None else round(spec.input.megapixels * 1e6)
    if spec.kind == "watch":
        return open_watched_folder(spec, max_pixels, abandoned)
    return open_stdin(max_pixels) if spec.kind == "stdin" else open_images(spec, max_pixels)
