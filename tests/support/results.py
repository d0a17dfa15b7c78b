"""Frame results and a fake pipeline control, for tests of sinks."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from support.random_prompt import make_prompt

from attri.runtime.capture.base import SourceState
from attri.runtime.capture.spec import LIVE
from attri.runtime.deliver.result import FrameResult, SourceHealth
from attri.runtime.deliver.sink import LabelsOrigin
from attri.runtime.errors import BundleError, LabelsError
from attri.runtime.prediction import Prediction
from attri.runtime.prompt import Prompt

LABELS = ("red apple", "かりんご", "bird")
NOW = 1_790_000_000.25  # 2026-09-21T14:13:20.250Z


def make_result(
    source: str = "camera0",
    frame: int = 0,
    *,
    label: str | None = "red apple",
    score: float = 0.75,
    time: float | None = None,
    image: np.ndarray | Image.Image | Path | None = None,
    changed: bool = False,
    **others: Any,
) -> FrameResult:
    """The result of a frame, of a camera by default; `score` is that of its best label, the others share the rest."""
    best = LABELS.index(label) if label in LABELS else 0
    probabilities = np.full(len(LABELS), (1 - score) / (len(LABELS) - 1), np.float32)
    probabilities[best] = score
    retrieved = np.array([[0, 3], [1, 1]], np.int32)
    latency = {"preprocess": 1.0, "vision": 20.0, "text": 2.0, "total": 23.0}
    prediction = Prediction(label, score, probabilities, LABELS, retrieved, "hit", latency)
    if image is None:
        image = np.full((48, 64, 3), 40 + 5 * (frame % 40), np.uint8)
    elif isinstance(image, Path):
        image = np.asarray(Image.open(image).convert("RGB"))
    moment = NOW + frame / 10 if time is None else time
    kind = str(others.pop("kind", None) or _kind(source))
    values: dict[str, Any] = {"age_ms": 41.0, "fps": 29.7, "dropped": 0, "clock": moment, "origin": source} | others
    values |= {"kind": kind, "live": kind in LIVE}
    return FrameResult(source, frame, moment, image, prediction, label, score, changed, **values)


def _kind(source: str) -> str:
    """The kind of source that a test means by this name, if it does not say."""
    return {".png": "images", ".jpg": "images", ".mp4": "video"}.get(Path(source).suffix, "v4l2")


class FakeControl:
    """A `PipelineControl` that keeps labels in memory and reports the state that it is told.

    Labels are kept by the names of sources; with tasks by source and task, with a blank between.
    """

    def __init__(self, *sources: str, state: SourceState = "live", tasks: tuple[str, ...] = ()) -> None:
        self.tasks = tasks
        self.states = dict.fromkeys(sources or ("camera0",), state)
        keys = [f"{source} {task}" if task else source for source in self.states for task in tasks or ("",)]
        self.lines = {key: list(LABELS) for key in keys}
        self.written = {key: list(lines) for key, lines in self.lines.items()}  # in a file of that name
        first = make_prompt()
        self.base, self.prompt = first.facts.base, dict.fromkeys(self.lines, first)

    def labels(self, source: str | None = None, task: str | None = None) -> list[str]:
        return list(dict.fromkeys(line for name in self._named(source, task) for line in self.lines[name]))

    def set_labels(self, text: str, source: str | None = None, task: str | None = None) -> None:
        words = text.split("\n")
        if not any(words):
            raise LabelsError("no labels: write one label a line")
        for name in self._named(source, task):
            self.lines[name] = [word for word in words if word]

    def labels_text(self, source: str | None = None, task: str | None = None) -> str:
        return "".join(f"{line}\n" for line in self.labels(source, task))

    def labels_origin(self, source: str | None = None, task: str | None = None) -> LabelsOrigin:
        names = self._named(source, task)
        edited = any(self.lines[name] != self.written[name] for name in names)
        return LabelsOrigin(f"{names[0]}.txt" if len(names) == 1 else None, edited, tuple(names))

    def write_labels(self, source: str | None = None, task: str | None = None) -> None:
        for name in self._named(source, task):
            self.written[name] = self.lines[name]

    def prompts(self, source: str | None = None, task: str | None = None) -> list[Prompt]:
        return list({id(self.prompt[name]): self.prompt[name] for name in self._named(source, task)}.values())

    def set_prompt(self, prompt: Prompt, source: str | None = None, task: str | None = None) -> None:
        if prompt.facts.base != self.base:
            raise BundleError("the prompt was made for another bundle")
        for name in self._named(source, task):
            self.prompt[name] = prompt

    def _named(self, source: str | None, task: str | None) -> list[str]:
        if source is not None and source not in self.states:
            raise LabelsError(f"there is no source {source}")
        if task is not None and task not in self.tasks:
            raise LabelsError(f"there is no task {task}")
        found = [
            [each, f"{each} {name}" if name else each, name] for each in self.states for name in self.tasks or ("",)
        ]
        return [key for each, key, name in found if source in (None, each) and task in (None, name)]

    def health(self) -> list[SourceHealth]:
        counts: dict[str, Any] = {"frames": 120, "dropped": 3, "restarts": 1, "fps": 29.7, "last_frame": NOW}
        return [
            SourceHealth(source, state, "", **counts, waiting=0, tasks=self.tasks)
            for source, state in self.states.items()
        ]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size`: to a writer it is a full disk (EFBIG in place of ENOSPC)."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
