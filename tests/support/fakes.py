"""Stand-ins for the pipeline's ends: sources that do what a script says, and a model that takes the time it is told."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import EllipsisType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from support.random_prompt import make_prompt

from attri.runtime.capture.base import Capture, CapturedFrame
from attri.runtime.deliver.result import FrameResult
from attri.runtime.errors import ImageError, LabelsError, SinkError
from attri.runtime.prediction import Prediction

if TYPE_CHECKING:
    StandIn = Any  # passes wherever what it stands for is asked for
else:
    StandIn = object


class FakeClassifier(StandIn):
    """Says the label whose number is the red of the first pixel; takes `seconds` for it."""

    prompt, independent = make_prompt(), False

    def __init__(self, *labels: str, seconds: float = 0.0) -> None:
        self.labels = labels or ("cat", "dog")
        self.threshold, self.threshold_not_applied, self.seconds = None, False, seconds
        self.cache = SimpleNamespace(hits=0)
        self.tasks: dict[str, FakeClassifier] = {}
        self.seen: list[int] = []  # red of the first pixel, of every image
        self.batches: list[int] = []  # sizes, of more than one image

    def fork(self) -> FakeClassifier:
        return copy.copy(self)

    def set_labels(self, labels: list[str], *_: object) -> None:
        if "unusable" in labels:
            raise LabelsError("unusable")
        self.labels = tuple(labels)

    def classify_each(
        self, images: Sequence[np.ndarray], asked: Sequence[Sequence[tuple[FakeClassifier, Any]]], beside: object
    ) -> Any:
        if len(images) > 1:
            self.batches.append(len(images))
        return [self._predictions(image, forks) for image, forks in zip(images, asked, strict=True)]

    def _predictions(self, image: np.ndarray, forks: Sequence[tuple[FakeClassifier, Any]]) -> Any:
        try:
            return [fork(image) for fork, _ in forks]
        except ImageError as error:
            return error

    def __call__(self, image: np.ndarray) -> Any:
        time.sleep(self.seconds)
        red = int(np.asarray(image).reshape(-1)[0])
        self.seen.append(red)
        labels = self.labels
        scores = np.full(len(labels), 0.1 / len(labels), np.float32)
        scores[red % len(labels)] += 0.9
        best = int(scores.argmax())
        return Prediction(labels[best], float(scores[best]), scores, labels, np.zeros((1, 1), np.int32), "hit", {})


class FakeSink(StandIn):
    """Keeps what it is given; slow, full or lossy as told."""

    def __init__(self, *, lossless: bool = True, takes: str = "scheduled", seconds: float = 0.0) -> None:
        self.name, self.lossless, self.takes, self.seconds = "fake", lossless, takes, seconds
        self.results: list[FrameResult] = []
        self.full = self.closed = False
        self.refused = 0  # results that found it full
        self.thread: threading.Thread | None = None

    def write(self, result: FrameResult) -> object:
        assert not self.closed
        assert self.thread in (None, threading.current_thread())
        self.thread = threading.current_thread()
        time.sleep(self.seconds)
        if self.full:
            self.refused += 1
            raise SinkError("the disk is full")
        self.results.append(result)
        return None

    def close(self) -> None:
        self.closed = True


def make_frame(number: int, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    """uint8 [H, W, 3], another one for each of 0..255"""
    return np.full((*size, 3), number, np.uint8)


Step = np.ndarray | None | Exception | float | Callable[[], object] | EllipsisType


def scripted(*rounds: Sequence[Step]) -> Callable[..., object]:
    """An `open_source`: each opening plays one round, the last one again and again.

    A round's steps: an image; None for a heartbeat; seconds to wait; an error to raise (the first one: when opening);
    a function to call (an ImageError that it returns is what a file holds; a generator has more steps); ... to be
    silent until nobody waits any more. A round that is over has ended as a file does.
    """
    waiting = [*rounds]

    @contextmanager
    def opened(spec: object, patience: float, left: threading.Event) -> Iterator[Capture]:
        steps = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if steps and isinstance(steps[0], Exception):
            raise steps[0]
        yield Capture("scripted", _play(steps, left))

    return opened


def _play(steps: Iterable[Step], left: threading.Event) -> Iterator[CapturedFrame | None]:
    for step in steps:
        if isinstance(step, Exception):
            raise step
        if isinstance(step, float):
            time.sleep(step)
        elif step is ...:
            left.wait(20)
        elif callable(step):
            found = step()
            if isinstance(found, ImageError):
                yield CapturedFrame(found, time.time())
            elif isinstance(found, Generator):
                yield from _play(found, left)
        else:
            yield None if step is None else CapturedFrame(step, time.time())


def frames_until(what: Callable[[], object], rate: float = 30, seconds: float = 20.0) -> Callable[[], object]:
    """A step: images, each another than the one before, until something is so."""

    def steps() -> Generator[Step, None, None]:
        end, number = time.monotonic() + seconds, 0
        while not what():
            assert time.monotonic() < end, "waited in vain"
            yield make_frame(number % 256)
            yield 1 / rate
            number += 1

    return steps


def wait_for(what: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
