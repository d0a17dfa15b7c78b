"""What the pipeline keeps of one source, or of a region of it, while it is classified: tasks, labels and counts."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from attri.runtime.capture.frame_queue import Frame
from attri.runtime.capture.orientation import Region, as_rgb
from attri.runtime.capture.reader import Reader
from attri.runtime.capture.spec import RegionSpec
from attri.runtime.classifier import Classifier
from attri.runtime.decide.motion import MAX_AGE, MotionGate
from attri.runtime.decide.schedule import Schedule
from attri.runtime.deliver.result import FrameResult
from attri.runtime.errors import ImageError
from attri.runtime.pipeline.task import TaskSetup, TaskState
from attri.runtime.prediction import Prediction
from attri.runtime.prompt import Prompt
from attri.runtime.text.hysteresis import RetrievalHysteresis


class Channel:
    """One source, or a region of it, while it is classified.

    Args:
        number: Of the source, in the order of the command line.
        reader: Reads the source; regions share it.
        region: The region; None is the only part of a source without named ones.
        roi: What is cut out of a frame; None is all of it.
        tasks: One or more; they share each run of the vision graph.
        schedule: Which results are due.

    Attributes:
        number: As given.
        region: As given.
        roi: As given.
        name: Of the source, or SOURCE/REGION.
        tasks: What is remembered of each task.
        labels: The labels of each task. They are replaced as a whole while it runs, so that no frame sees a mixture.
        beside: The prompts of all tasks of all sources, whose keys are one table.
        frames: Frames that were classified.
        busy: Frames that are being classified.
        held: Of these, those whose prediction was held, because nothing had changed.
        hits: Predictions whose text features were cached.
        unreadable: Images that the classifier refused; the reader's thread counts its own.
        gone: Whether the source was removed, so that nothing more is told of it.
    """

    def __init__(
        self,
        number: int,
        reader: Reader,
        region: RegionSpec | None,
        roi: Region | None,
        tasks: Sequence[TaskSetup],
        schedule: Schedule,
    ) -> None:
        self.number, self.reader, self.region, self.roi = number, reader, region, roi
        options = reader.spec.input
        self.name = self._named(reader.name)
        self.tasks = tuple(TaskState(task, schedule, options.retrieval_hysteresis) for task in tasks)
        self.labels = tuple(task.labels for task in tasks)
        self.beside: tuple[Prompt, ...] = ()
        self.frames = 0
        self.held = 0
        self.hits = 0
        self.busy = 0
        self.unreadable = 0
        self.gone = False
        motion, max_age = options.motion, options.motion_max_age
        if region is not None and region.motion is not None:
            motion = region.motion
        self._gate = None if motion is None else MotionGate(motion, MAX_AGE if max_age is None else max_age)
        self._known: list[Prediction] | ImageError = []  # of the frame that was classified last
        self._interval = float("inf")  # seconds between frames, smoothed
        self._last = float("-inf")  # when the last one was classified, monotonic

    @property
    def fps(self) -> float:
        """Frames classified per second; it falls by itself when none come."""
        since = time.monotonic() - self._last
        return 1 / max(self._interval, since)

    def is_due(self, frame: Frame) -> bool:
        """Whether a frame is to be classified; else its predictions are those of the one before."""
        if self._gate is None:
            return True
        asked = [
            (each.classifier.labels, each.text, each.classifier.prompt.digest, each.classifier.threshold)
            for each in self.labels
        ]
        return self._gate.is_due(as_rgb(frame.parts[self.roi]), self._clock(frame), asked)

    def note(self, found: list[Prediction] | ImageError) -> list[Prediction] | ImageError:
        """Keep what a frame shows that was classified."""
        self._known = found
        if not isinstance(found, ImageError):
            self.hits += sum(each.cache == "hit" for each in found)
        if self._gate is not None and isinstance(found, ImageError):
            self._gate.forget()
        return found

    def known(self) -> list[Prediction] | ImageError:
        """What the frame showed that was classified last, for one that shows the same; this took no time."""
        if isinstance(self._known, ImageError):
            return self._known
        self.held += 1
        return [replace(each, cache="hit", latency_ms=dict.fromkeys(each.latency_ms, 0.0)) for each in self._known]

    def setups(self) -> list[TaskSetup]:
        """The same tasks for another channel, with the labels and prompts that are in use."""
        tasks = zip(self.tasks, self.labels, strict=True)
        return [TaskSetup(labels, task.rule, task.name, task.prompt) for task, labels in tasks]

    def questions(self) -> list[tuple[Classifier, RetrievalHysteresis | None]]:
        """What is asked of its next frame: the classifier of each task, with the memory of its retrieval."""
        return [(labels.classifier, task.hysteresis) for labels, task in zip(self.labels, self.tasks, strict=True)]

    def count(self, frames: int) -> None:
        """Note that so many frames were classified, one or more."""
        now = time.monotonic()
        step = (now - self._last) / frames  # those of a batch come at the same moment
        weight = 0.9**frames if math.isfinite(self._interval) else 0.0
        self._interval = weight * self._interval + (1 - weight) * step if weight else step
        self._last = now
        self.frames += frames

    def results(
        self, frame: Frame, predictions: Sequence[Prediction], dropped: int, unchanged: bool = False
    ) -> Iterator[tuple[FrameResult, bool]]:
        """The results of a frame, one for each task, and whether each is due.

        Args:
            frame: As it came.
            predictions: Of each task.
            dropped: Frames of the source that were skipped so far.
            unchanged: Whether the predictions are those of a frame before.
        """
        clock, spec, part = self._clock(frame), self.reader.spec, frame.parts[self.roi]
        age_ms, fps = 1000 * (time.monotonic() - frame.captured), self.fps
        for task, prediction in zip(self.tasks, predictions, strict=True):
            decision, due = task.decide(prediction, clock)
            result = FrameResult(
                source=self._named(frame.source),
                frame=frame.number,
                time=frame.time,
                raw_image=frame.image if self.region is None else part,
                prediction=prediction,
                label=decision.label,
                score=decision.score,
                changed=decision.changed,
                age_ms=age_ms,
                fps=fps,
                dropped=dropped,
                clock=clock,
                origin=self.name,
                kind=spec.kind,
                live=spec.live,
                task=task.name,
                unchanged=unchanged,
                held=decision.held,
                region=self.roi,
                raw_part=part,
            )
            yield result, due

    def _clock(self, frame: Frame) -> float:
        return frame.time if self.reader.spec.kind == "video" else frame.captured  # Unix time jumps when it is set

    def _named(self, source: str) -> str:
        return source if self.region is None else f"{source}/{self.region.name}"
