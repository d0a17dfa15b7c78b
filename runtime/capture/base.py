"""Records that every kind of capture gives: a captured frame, an open source, and the state of a source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime.errors import ImageError

SourceState = Literal["opening", "live", "frozen", "retrying", "paused", "ended", "dead"]


class CapturedFrame(NamedTuple):
    """One frame as it was captured.

    Attributes:
        image: A PIL image, uint8 RGB [H, W, 3], or the ImageError that says why there is none.
        time: Seconds: the position in a video file, Unix time for everything else.
        source: The file as shown, where a source has several.
    """

    image: Image.Image | NDArray[np.uint8] | ImageError
    time: float
    source: str | None = None


@dataclass(frozen=True)
class Capture:
    """An open source.

    Attributes:
        description: What was negotiated: size, rate, pixel format.
        frames: As they come. None is a heartbeat: the source is still there, and has nothing new.
    """

    description: str
    frames: Iterator[CapturedFrame | None]
