"""The result of one frame for one task, and the health of a source: what the pipeline hands to its sinks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime.capture.base import SourceState
from attri.runtime.capture.orientation import Region, as_rgb
from attri.runtime.capture.spec import SourceKind
from attri.runtime.prediction import Prediction


class ResultKey(NamedTuple):
    """What tells the results of one sequence of decisions from all others.

    Attributes:
        origin: Of `FrameResult`.
        task: Likewise.
    """

    origin: str
    task: str | None = None


@dataclass(frozen=True)
class FrameResult:
    """One classified frame with its decision; where a source has several tasks, one of each.

    Attributes:
        source: Name of the source, credentials redacted; of an image in a folder, a glob or --watch its file.
        frame: 0-based number of the frame within its source.
        time: Seconds: the position in a file of the kind "video", Unix time for everything else.
        raw_image: The whole frame as its source gave it: a PIL image of any mode, or RGB uint8 [H, W, 3].
        prediction: Of this frame alone.
        label: The decided label, after smoothing, threshold and minimum duration; None is none of the labels. Of
            independent labels it is the best of those that hold.
        score: Score of the decided label, 0 to 1.
        changed: Whether the decided label, or the set of those that hold, differs from the previous frame's: an event.
        age_ms: Milliseconds from capture to this result.
        fps: Frames classified per second of this source, smoothed.
        dropped: Frames of this source skipped so far.
        clock: Seconds on the clock that measures how far frames of a source are apart: `time` of a video, else
            monotonic.
        origin: Name of the source as its health reports it; all files of a folder share it.
        kind: Kind of the source, a key of `attri.runtime.capture.spec.KINDS`.
        live: Whether the source is a camera or a stream.
        task: Name of the task; None where the source has one without a name.
        unchanged: Whether the prediction is that of a frame before, because nothing has changed since (`--motion`).
        held: Of independent labels those that are decided to hold, with their scores, best first; None where labels
            compete.
        region: x, y, width and height of the region of interest, pixels of the source's frame; None where all of a
            frame is classified.
        raw_part: What was classified, of the kinds of `raw_image`; None where that is `raw_image`.
    """

    source: str
    frame: int
    time: float
    raw_image: Image.Image | NDArray[np.uint8] = field(repr=False)
    prediction: Prediction
    label: str | None
    score: float
    changed: bool
    age_ms: float
    fps: float
    dropped: int
    clock: float
    origin: str
    kind: SourceKind
    live: bool
    task: str | None = None
    unchanged: bool = False
    held: tuple[tuple[str, float], ...] | None = None
    region: Region | None = None
    raw_part: Image.Image | NDArray[np.uint8] | None = field(default=None, repr=False)

    @property
    def decided(self) -> tuple[str, ...]:
        """All decided labels, best first: none, one, or of independent labels several."""
        if self.held is not None:
            return tuple(label for label, _ in self.held)
        return () if self.label is None else (self.label,)

    @property
    def key(self) -> ResultKey:
        """Source and task."""
        return ResultKey(self.origin, self.task)

    @property
    def still(self) -> bool:
        """Whether the frame is an image file of its own and not one of a sequence of frames."""
        return self.kind in ("images", "watch", "frigate")

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """The whole frame as RGB uint8 [H, W, 3]; converted on first use, because large images take a while."""
        return as_rgb(self.raw_image)

    @property
    def part(self) -> NDArray[np.uint8]:
        """What was classified, the region of interest or the whole frame, as RGB uint8 [H, W, 3]."""
        return self.image if self.raw_part is None or self.raw_part is self.raw_image else as_rgb(self.raw_part)


@dataclass(frozen=True)
class SourceHealth:
    """State and counters of one source.

    Attributes:
        source: Name of the source, credentials redacted.
        state: What the source is doing.
        detail: Why it is in that state, or "".
        frames: Frames classified.
        dropped: Frames skipped for newer ones.
        restarts: Times that it was opened again.
        fps: Frames classified per second, smoothed.
        last_frame: Unix time of the last frame; None before the first.
        waiting: Frames that wait for the model or are in it, without those that a slow sink holds back.
        tasks: Names of its tasks; none where it has one without a name. Counts are of frames, whatever their number.
    """

    source: str
    state: SourceState
    detail: str
    frames: int
    dropped: int
    restarts: int
    fps: float
    last_frame: float | None
    waiting: int
    tasks: tuple[str, ...] = ()

    @property
    def keys(self) -> list[ResultKey]:
        """What its results are told apart by."""
        return [ResultKey(self.source, task) for task in self.tasks or (None,)]


@dataclass(frozen=True)
class Load:
    """What the classifier did so far; sums, so that the difference of two says what it did between them.

    Attributes:
        limit: Frames, or regions of frames, of a batch, at most.
        batches: Batches that it was given.
        frames: Frames, or regions, in these batches.
        seconds: By what they went into: "idle" (no frame waited), "preprocess", "vision", "text" and "deliver"
            (decisions, and results on their way to the sinks).
    """

    limit: int
    batches: int
    frames: int
    seconds: Mapping[str, float]

    @property
    def occupancy(self) -> float:
        """Mean share of a batch that was filled, 0 to 1."""
        return self.frames / max(1, self.batches * self.limit)
