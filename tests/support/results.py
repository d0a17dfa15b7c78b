"""Frame results and a fake pipeline control, for tests of sinks."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from support.random_prompt import make_prompt

from attri.runtime.capture.base import SourceState
from attri.runtime.capture.spec import LIVE
from attri.runtime.deliver.result import FrameResult, Load, SourceHealth
from attri.runtime.deliver.sink import FileOrigin, RegionsAbout, SentImage, SourceAbout
from attri.runtime.deliver.updates.exchange import TaskSettings
from attri.runtime.errors import BundleError, ImageError, LabelsError, UsageError
from attri.runtime.explain.explanation import Explanation
from attri.runtime.images import load_image
from attri.runtime.prediction import Prediction
from attri.runtime.prompt import Prompt
from attri.runtime.prompt_file.training_images import TrainingImages

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
    feature: Sequence[float] | np.ndarray | None = None,
    attracts: Sequence[Sequence[Sequence[str]]] | None = None,
    training_images: TrainingImages | None = None,
    **others: Any,
) -> FrameResult:
    """The result of a frame, of a camera by default; `score` is that of its best label, the others share the rest.

    `feature` is the direction of its image feature; of its prompt, `attracts` is what its entries attract, and
    `training_images` those that its file keeps.
    """
    best = LABELS.index(label) if label in LABELS else 0
    probabilities = np.full(len(LABELS), (1 - score) / (len(LABELS) - 1), np.float32)
    probabilities[best] = score
    retrieved = np.array([[0, 3], [1, 1]], np.int32)
    latency = {"preprocess": 1.0, "vision": 20.0, "text": 2.0, "total": 23.0}
    unit = None if feature is None else np.asarray(feature, np.float32) / np.float32(np.linalg.norm(feature))
    cosines = np.array([[[0.5, 0.1, 0.2, 0.4], [0.3, 0.2, 0.1, 0.6]], [[0.1, 0.8, 0.3, 0.2]] * 2], np.float32)
    prediction = Prediction(
        *(label, score, probabilities, LABELS, retrieved, "hit", latency),
        image_feature=unit,
        key_cosines=cosines,
        attracts=attracts,
        training_images=training_images,
    )
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
        self.tasks, self.of_independent = tasks, set[str]()
        self.states = dict.fromkeys(sources or ("camera0",), state)
        keys = [f"{source} {task}" if task else source for source in self.states for task in tasks or ("",)]
        self.lines = {key: list(LABELS) for key in keys}
        self.written = {key: list(lines) for key, lines in self.lines.items()}  # in a file of that name
        first = make_prompt()
        self.base, self.prompt = first.facts.base, dict.fromkeys(self.lines, first)
        self.written_prompt = dict(self.prompt)
        self.rois: dict[str, dict[str, Any]] = {}
        self.written_rois: dict[str, dict[str, Any]] = {}
        self.frame: np.ndarray | None = np.zeros((48, 64, 3), np.uint8)

    def independent(self, source: str | None = None, task: str | None = None) -> bool:
        return not self.of_independent.isdisjoint(self._named(source, task))

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

    def settings(self, source: str) -> list[TaskSettings]:
        return [TaskSettings(task, labels=self.labels_text(source, task)) for task in self.tasks or (None,)]

    def labels_origin(self, source: str | None = None, task: str | None = None) -> FileOrigin:
        names = self._named(source, task)
        edited = any(self.lines[name] != self.written[name] for name in names)
        return FileOrigin(f"{names[0]}.txt" if len(names) == 1 else None, edited, tuple(names))

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

    def prompt_origin(self, source: str | None = None, task: str | None = None) -> FileOrigin:
        names = self._named(source, task)
        edited = any(self.prompt[name] is not self.written_prompt[name] for name in names)
        return FileOrigin(f"{names[0]}.attri" if len(names) == 1 else None, edited, tuple(names))

    def write_prompt(self, source: str | None = None, task: str | None = None) -> None:
        for name in self._named(source, task):
            self.written_prompt[name] = self.prompt[name]

    def _named(self, source: str | None, task: str | None) -> list[str]:
        if source is not None and source not in self.states:
            raise LabelsError(f"there is no source {source}")
        if task is not None and task not in self.tasks:
            raise LabelsError(f"there is no task {task}")
        found = [
            [each, f"{each} {name}" if name else each, name] for each in self.states for name in self.tasks or ("",)
        ]
        return [key for each, key, name in found if source in (None, each) and task in (None, name)]

    def classify(
        self, images: Sequence[SentImage], source: str | None = None, task: str | None = None
    ) -> list[list[FrameResult] | ImageError]:
        self._named(source, task)
        return [self._result(number, each) for number, each in enumerate(images)]

    def _result(self, number: int, image: SentImage) -> list[FrameResult] | ImageError:
        try:
            decoded = load_image(image.data)
        except ImageError as error:
            return error
        return [
            make_result(image.name, number, kind="images", image=decoded, task=task) for task in self.tasks or (None,)
        ]

    def explain(self, result: FrameResult, labels: Sequence[str]) -> Explanation:
        self._named(result.origin if result.origin in self.states else None, result.task)
        height, width = result.part.shape[:2]
        patches = np.array([[[0.05, -0.01], [0.0, 0.01]], [[0.0, 0.02], [0.01, 0.0]]], np.float32)[: len(labels)]
        return Explanation(tuple(labels), patches, np.full(len(labels), 0.1, np.float32), (0, 0, width, height))

    def sources(self) -> list[SourceAbout]:
        return [SourceAbout(name, _kind(name), state == "paused") for name, state in self.states.items()]

    def change_sources(self, tables: Mapping[str, Any]) -> None:
        for name, table in tables.items():
            if table is None and name not in self.states:
                raise UsageError(f"there is no source {name}")
        for name, table in tables.items():
            if table is None:
                del self.states[name]
            else:
                self.states[name] = "paused" if table.get("paused") else "live"
                self.lines.setdefault(name, list(LABELS))
                self.prompt.setdefault(name, make_prompt())

    def regions(self, source: str) -> RegionsAbout:
        self._named(source, None)
        return RegionsAbout(self.rois.get(source, {}), None, self.frame)

    def set_regions(self, source: str, rois: Mapping[str, Any]) -> None:
        self._named(source, None)
        if "bad" in rois:
            raise UsageError("bad: the region is not inside a frame of 64 x 48")
        self.rois[source] = dict(rois)

    def regions_origin(self, source: str) -> FileOrigin:
        self._named(source, None)
        return FileOrigin("sources.toml", self.rois.get(source) != self.written_rois.get(source), (source,))

    def write_regions(self, source: str) -> None:
        self._named(source, None)
        self.written_rois[source] = self.rois[source]

    def load(self) -> Load:
        seconds = {"idle": 2.0, "preprocess": 1.0, "vision": 6.0, "text": 0.5, "deliver": 0.5}
        return Load(limit=4, batches=30, frames=90, seconds=seconds)

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
