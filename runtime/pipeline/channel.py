"""What the pipeline keeps of one source while it is classified: its labels, decisions and counts."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from attri.runtime.capture.frame_queue import Frame
from attri.runtime.capture.reader import Reader
from attri.runtime.decide.schedule import Schedule
from attri.runtime.decide.smoothing import DecisionRule, DecisionSmoother
from attri.runtime.deliver.result import FrameResult
from attri.runtime.pipeline.live_labels import LiveLabels
from attri.runtime.prediction import Prediction
from attri.runtime.text.hysteresis import RetrievalHysteresis


class Channel:
    """One source while it is classified.

    Args:
        reader: Reads the source.
        labels: May be replaced while it runs.
        rule: How predictions become decisions.
        schedule: Which results are due.

    Attributes:
        frames: Frames that were classified.
        busy: Frames that are being classified.
        unreadable: Images that the classifier refused; the reader's thread counts its own.
    """

    def __init__(self, reader: Reader, labels: LiveLabels, rule: DecisionRule, schedule: Schedule) -> None:
        self.reader = reader
        self.labels = labels
        self.frames = 0
        self.busy = 0
        self.unreadable = 0
        self._decide = DecisionSmoother(rule)
        self._schedule = schedule
        self._hysteresis = _hysteresis(reader.spec.input.retrieval_hysteresis, labels)
        self._interval = float("inf")  # seconds between results, smoothed
        self._last = float("-inf")  # when the last result was made, monotonic
        self._last_due = float("-inf")  # clock of the frame whose result was the last due

    @property
    def fps(self) -> float:
        """Results per second; it falls by itself when none come."""
        since = time.monotonic() - self._last
        return 1 / max(self._interval, since)

    def classify(self, frames: Sequence[Frame]) -> list[Prediction]:
        """Classify frames in one batch.

        Raises:
            ImageError: One of them cannot be read.
            EngineError: The graphs cannot be run.
        """
        if len(frames) == 1:  # without the threads that read a list ahead
            predictions = [self.labels.classifier(frames[0].part, self._hysteresis)]
        else:
            predictions = self.labels.classifier([frame.part for frame in frames], self._hysteresis)
        self._count(len(predictions))
        return predictions

    def result(self, frame: Frame, prediction: Prediction, dropped: int) -> tuple[FrameResult, bool]:
        """The result of a frame, and whether it is due."""
        clock = frame.time if self.reader.spec.kind == "video" else frame.captured  # Unix time jumps when it is set
        decision = self._decide(prediction, clock)
        result = FrameResult(
            source=frame.source,
            frame=frame.number,
            time=frame.time,
            raw_image=frame.image,
            prediction=prediction,
            label=decision.label,
            score=decision.score,
            changed=decision.changed,
            age_ms=1000 * (time.monotonic() - frame.captured),
            fps=self.fps,
            dropped=dropped,
            clock=clock,
            origin=self.reader.name,
            kind=self.reader.spec.kind,
            live=self.reader.spec.live,
        )
        return result, self._is_due(decision.changed, clock)

    def _count(self, frames: int) -> None:
        now = time.monotonic()
        step = (now - self._last) / frames  # those of a batch come at the same moment
        weight = 0.9**frames if math.isfinite(self._interval) else 0.0
        self._interval = weight * self._interval + (1 - weight) * step if weight else step
        self._last = now
        self.frames += frames

    def _is_due(self, changed: bool, clock: float) -> bool:
        due = self._schedule.is_due(changed, clock - self._last_due)
        if due:
            self._last_due = clock
        return due


def _hysteresis(margin: float | None, labels: LiveLabels) -> RetrievalHysteresis | None:
    if margin is None:
        return None
    return RetrievalHysteresis(margin, labels.classifier.bundle.manifest.retrieval["topk"])
