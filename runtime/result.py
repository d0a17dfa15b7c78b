"""What the pipeline tells its sinks, and what they may ask of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from attri.runtime.classifier import Prediction

Takes = Literal["due", "all", "events"]


@dataclass(frozen=True)
class Result:
    """What is said of one frame."""

    source: str  # as shown: credentials redacted
    frame: int  # 0-based number within this source
    time: float  # seconds: position in a file, Unix time for live sources and pictures
    image: NDArray[np.uint8] = field(repr=False)  # RGB [H, W, 3], the whole frame
    prediction: Prediction  # of this frame alone
    label: str | None  # decided: after smoothing, threshold, minimum duration
    score: float  # that belongs to it
    changed: bool  # the decided label differs from the one before: an event
    age_ms: float  # from capture to this result
    fps: float  # results per second of this source, smoothed
    dropped: int  # frames of this source skipped so far


@dataclass(frozen=True)
class SourceHealth:
    """How a source is doing."""

    source: str
    state: str  # "opening" | "live" | "frozen" | "retrying" | "ended" | "dead"
    detail: str
    frames: int
    dropped: int
    restarts: int
    fps: float
    last_frame: float | None  # Unix time


class Sink(Protocol):
    """Where results go. The pipeline calls one sink from one thread, in order."""

    name: str
    lossless: bool  # True: every frame of files is promised (back-pressure for files); False: newest wins
    takes: Takes  # what --every and --on-change let through; every frame (a video, metrics); or changes alone

    def write(self, result: Result) -> None:
        """Take one result; may block. Raises SinkError, which is counted and told once, and stops no other sink."""
        ...

    def close(self) -> None: ...


class Control(Protocol):
    """What a sink may ask of the running command."""

    def labels(self, source: str | None = None) -> list[str]:
        """As lines of a labels file, prompts behind their label; of a source that has labels of its own, or of all."""
        ...

    def set_labels(self, text: str, source: str | None = None) -> None:
        """`text` as a labels file. Raises LabelsError and changes nothing."""
        ...

    def health(self) -> list[SourceHealth]: ...
