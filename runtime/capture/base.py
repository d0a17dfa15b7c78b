"""The records that every kind of capture gives: a captured frame, and an open source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime.errors import ImageError

SourceState = Literal["opening", "live", "frozen", "retrying", "ended", "dead"]


class CapturedFrame(NamedTuple):
    """One picture as it was captured.

    image   what to classify, arrays RGB, or the ImageError that says why there is nothing
    time    seconds: position in a video file; Unix time for everything else
    source  the file as shown, where a source has several
    """

    image: Image.Image | NDArray[np.uint8] | ImageError
    time: float
    source: str | None = None


@dataclass(frozen=True)
class Capture:
    """An open source. None among the shots says: still there, and nothing to show."""

    description: str  # what was negotiated: size, rate, pixel format
    shots: Iterator[CapturedFrame | None]
