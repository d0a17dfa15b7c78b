"""What the pipeline keeps of one source while it is classified: its tasks with their labels, and its counts."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

from attri.runtime.capture.frame_queue import Frame
from attri.runtime.capture.reader import Reader
from attri.runtime.classifier import classify_together, require_room
from attri.runtime.decide.schedule import Schedule
from attri.runtime.deliver.result import FrameResult
from attri.runtime.pipeline.task import TaskSetup, TaskState
from attri.runtime.prediction import Prediction


class Channel:
    """One source while it is classified.

    Args:
        reader: Reads the source.
        tasks: One or more; they share each run of the vision graph.
        schedule: Which results are due.

    Attributes:
        tasks: What is remembered of each task.
        labels: The labels of each task. They are replaced as a whole while it runs, so that no frame sees a mixture.
        frames: Frames that were classified.
        busy: Frames that are being classified.
        unreadable: Images that the classifier refused; the reader's thread counts its own.

    Raises:
        EngineError: The prompts have more pool entries together than the engine takes.
    """

    def __init__(self, reader: Reader, tasks: Sequence[TaskSetup], schedule: Schedule) -> None:
        self.reader = reader
        hysteresis = reader.spec.input.retrieval_hysteresis
        self.tasks = tuple(TaskState(task, schedule, hysteresis) for task in tasks)
        self.labels = tuple(task.labels for task in tasks)
        require_room([labels.classifier for labels in self.labels])
        self.frames = 0
        self.busy = 0
        self.unreadable = 0
        self._interval = float("inf")  # seconds between frames, smoothed
        self._last = float("-inf")  # when the last one was classified, monotonic

    @property
    def name(self) -> str:
        """Name of the source."""
        return self.reader.spec.name

    @property
    def fps(self) -> float:
        """Frames classified per second; it falls by itself when none come."""
        since = time.monotonic() - self._last
        return 1 / max(self._interval, since)

    def classify(self, frames: Sequence[Frame]) -> list[list[Prediction]]:
        """Classify frames in one batch: for each the predictions of all tasks.

        Raises:
            ImageError: One of them cannot be read.
            EngineError: The graphs cannot be run.
        """
        classifiers = [labels.classifier for labels in self.labels]
        memories, parts = [task.hysteresis for task in self.tasks], [frame.part for frame in frames]
        if len(classifiers) > 1:
            images = parts[0] if len(parts) == 1 else parts  # one image goes without the threads that read a list ahead
            found = classify_together(classifiers, images, memories)
        elif len(parts) == 1:
            found = [[classifiers[0](parts[0], memories[0])]]
        else:
            found = [[each] for each in classifiers[0](parts, memories[0])]
        self._count(len(frames))
        return found

    def results(
        self, frame: Frame, predictions: Sequence[Prediction], dropped: int
    ) -> Iterator[tuple[FrameResult, bool]]:
        """The results of a frame, one for each task, and whether each is due."""
        clock = frame.time if self.reader.spec.kind == "video" else frame.captured  # Unix time jumps when it is set
        age_ms, fps = 1000 * (time.monotonic() - frame.captured), self.fps
        for task, prediction in zip(self.tasks, predictions, strict=True):
            decision, due = task.decide(prediction, clock)
            result = FrameResult(
                source=frame.source,
                frame=frame.number,
                time=frame.time,
                raw_image=frame.image,
                prediction=prediction,
                label=decision.label,
                score=decision.score,
                changed=decision.changed,
                age_ms=age_ms,
                fps=fps,
                dropped=dropped,
                clock=clock,
                origin=self.reader.name,
                kind=self.reader.spec.kind,
                live=self.reader.spec.live,
                task=task.name,
            )
            yield result, due

    def _count(self, frames: int) -> None:
        now = time.monotonic()
        step = (now - self._last) / frames  # those of a batch come at the same moment
        weight = 0.9**frames if math.isfinite(self._interval) else 0.0
        self._interval = weight * self._interval + (1 - weight) * step if weight else step
        self._last = now
        self.frames += frames
