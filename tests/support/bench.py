"""A pipeline over scripted sources, and what scripts are made of."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from support.fakes import FakeClassifier, Step, make_frame, scripted, wait_for

from attri.runtime.capture import reader as reader_module
from attri.runtime.capture.retry import RetryPolicy
from attri.runtime.capture.spec import SourceSpec
from attri.runtime.decide.schedule import Schedule
from attri.runtime.decide.smoothing import DecisionRule
from attri.runtime.errors import SourceError
from attri.runtime.pipeline.live_labels import LabelsFile, LiveLabels
from attri.runtime.pipeline.pipeline import Pipeline
from attri.runtime.pipeline.task import TaskSetup

QUICK = RetryPolicy(max_retries=2, initial_delay=0.01, max_delay=0.02, freeze_timeout=0.0)


def camera(name: str = "camera0") -> SourceSpec:
    return SourceSpec(name, "v4l2", "/dev/video0")


def video(name: str = "v.mp4") -> SourceSpec:
    return SourceSpec(name, "video", name)


def at_rate(rate: float, seconds: float, first: int = 0) -> list[Step]:
    """A camera for so long."""
    count = int(rate * seconds)
    return [step for i in range(count) for step in (make_frame((first + i) % 256), 1 / rate)]


class Bench:
    """A pipeline over scripted sources."""

    pipeline: Pipeline

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.classifier = FakeClassifier()

    def make(self, scripts: Mapping[SourceSpec, Sequence[Any]], **options: Any) -> Pipeline:
        # One that is lost at its end stays lost.
        openers = {spec.name: scripted(script, script[-1:]) for spec, script in scripts.items()}
        self._patch.setattr(reader_module, "open_source", lambda spec, *rest: openers[spec.name](spec, *rest))
        file = options.pop("file", None)
        labels = LiveLabels(self.classifier, file and LabelsFile.read(file))
        rule = options.pop("rule", DecisionRule())
        schedule, patience = options.pop("schedule", Schedule()), options.pop("patience", QUICK)
        rest = (schedule, patience, options.pop("batch", 1))
        parts = sum(len(spec.rois) for spec in scripts)
        self.pipeline = Pipeline([*scripts], [[TaskSetup(labels, rule)]] * parts, *rest)
        return self.pipeline

    def signal(self, number: int, when: Callable[[], object]) -> Callable[[], None]:
        """A step that waits until `when` and then sends this process a signal."""

        def send() -> None:
            wait_for(when, 20)
            self.signalled = time.monotonic()
            os.kill(os.getpid(), number)

        return send


LOST = SourceError("lost")
