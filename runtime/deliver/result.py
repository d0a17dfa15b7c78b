"""What the pipeline tells its sinks, and what they may ask of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime.capture.orientation import as_rgb
from attri.runtime.classifier import Prediction

SinkFilter = Literal["due", "all", "events"]


@dataclass(frozen=True)
class FrameResult:
    """What is said of one frame."""

    source: str  # as shown: credentials redacted; of pictures the file
    frame: int  # 0-based number within this source
    time: float  # seconds: position in a file of the kind "video", Unix time for everything else
    picture: Image.Image | NDArray[np.uint8] = field(repr=False)  # the whole frame, as its source gave it
    prediction: Prediction  # of this frame alone
    label: str | None  # decided: after smoothing, threshold, minimum duration
    score: float  # that belongs to it
    changed: bool  # the decided label differs from the one before: an event
    age_ms: float  # from capture to this result
    fps: float  # results per second of this source, smoothed
    dropped: int  # frames of this source skipped so far
    clock: float  # seconds, to tell how far frames of this source are apart: `time` of a video, else monotonic
    origin: str  # the source itself, as its health names it: one for all files of a folder
    kind: str  # of the source: a key of source_uris.OPTIONS_OF
    live: bool  # whether the source is a camera or a stream

    @property
    def still(self) -> bool:
        """Whether it is an image of its own, in a file, rather than one of a sequence of frames."""
        return self.kind in ("pictures", "watch")

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """The whole frame, RGB [H, W, 3]; made when somebody looks, since for a large picture it takes a while."""
        return as_rgb(self.picture)


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
    waiting: int  # frames that wait for the model, or are in it; not those that a slow sink holds back


@dataclass(frozen=True)
class LabelsOrigin:
    """Where the labels that are used come from."""

    file: str | None  # that they can be written to; None: none, or several
    edited: bool  # whether they were changed since, and not in the file
    sources: tuple[str, ...]  # all that take their labels from the file


class Sink(Protocol):
    """Where results go. The pipeline calls one sink from one thread, in order."""

    name: str
    lossless: bool  # True: every frame of files is promised (back-pressure for files); False: newest wins
    takes: SinkFilter  # what --every and --on-change let through; every frame (a video, metrics); or changes alone

    def write(self, result: FrameResult) -> None:
        """Take one result; may block. Raises SinkError, which is counted and told once, and stops no other sink."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class SourceFollower(Protocol):
    """A sink that keeps something for each source, and lets go of it when the source has ended."""

    def source_ended(self, origin: str) -> None:
        """All results of this source were written, and no more come. Raises SinkError, as `Sink.write` does."""
        ...


class PipelineControl(Protocol):
    """What a sink may ask of the running command."""

    def labels(self, source: str | None = None) -> list[str]:
        """As lines of a labels file, prompts behind their label; of a source, or of all, each line once.

        Raises LabelsError: there is no such source.
        """
        ...

    def labels_text(self, source: str | None = None) -> str:
        """The labels file, comments included. Raises LabelsError: no such source, or all of them do not agree."""
        ...

    def labels_origin(self, source: str | None = None) -> LabelsOrigin:
        """Raises LabelsError: there is no such source."""
        ...

    def set_labels(self, text: str, source: str | None = None) -> None:
        """`text` as a labels file, for a source alone, or for all. Raises LabelsError and changes nothing."""
        ...

    def write_labels(self, source: str | None = None) -> None:
        """Write the labels that are used into the file that they came from.

        Raises LabelsError: there is not one such file, or it must not be written; FailedError: it cannot be.
        """
        ...

    def health(self) -> list[SourceHealth]: ...
