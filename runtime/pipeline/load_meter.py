"""What the thread that classifies spends its time on, and how full its batches are."""

from __future__ import annotations

import time
from collections.abc import Sequence

from attri.runtime.deliver.result import Load
from attri.runtime.errors import ImageError
from attri.runtime.prediction import Prediction

STAGES = ("idle", "preprocess", "vision", "text", "deliver")


class LoadMeter:
    """Sums of one thread, which others may read at any time.

    Args:
        limit: Frames of a batch, at most.
    """

    def __init__(self, limit: int) -> None:
        self._load = Load(limit, 0, 0, dict.fromkeys(STAGES, 0.0))
        self._since = time.perf_counter()

    @property
    def load(self) -> Load:
        """The sums so far."""
        return self._load

    def idle(self) -> None:
        """Note that a batch has come, or the end: until now there was none."""
        self._spend({"idle": self._lap()})

    def classified(self, found: Sequence[list[Prediction] | ImageError]) -> None:
        """Note a batch that went through the graphs; what the predictions do not name was preprocessing."""
        whole = self._lap()
        predictions = [each for frame in found if not isinstance(frame, ImageError) for each in frame]
        vision, text = (
            sum(each.latency_ms.get(name, 0.0) for each in predictions) / 1000 for name in ("vision", "text")
        )
        self._spend({"preprocess": max(0.0, whole - vision - text), "vision": vision, "text": text})

    def delivered(self, frames: int) -> None:
        """Note that the results of a batch are on their way."""
        self._spend({"deliver": self._lap()}, frames)

    def _lap(self) -> float:
        before, self._since = self._since, time.perf_counter()
        return self._since - before

    def _spend(self, seconds: dict[str, float], frames: int = 0) -> None:
        old = self._load
        spent = {stage: old.seconds[stage] + seconds.get(stage, 0.0) for stage in STAGES}
        self._load = Load(old.limit, old.batches + (frames > 0), old.frames + frames, spent)
