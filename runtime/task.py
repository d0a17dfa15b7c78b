"""A task: what is asked of images by one prompt, one set of labels and one threshold. Tasks share a vision pass."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attri.runtime.engines.vision import VisionGraph, VisionOutputs
from attri.runtime.errors import UsageError
from attri.runtime.image_batches import Decoded
from attri.runtime.prediction import Prediction
from attri.runtime.text.active_labels import ActiveLabels
from attri.runtime.text.encoder import TextEncoder
from attri.runtime.text.hysteresis import RetrievalHysteresis
from attri.runtime.text.label_set import LabelSet

_NAME = re.compile(r"\w(?:[\w-]*\w)?")  # the characters of one level of an MQTT topic, and of file names
_LONGEST_NAME = 40
_TAKEN = ("state",)  # SOURCE/state is the topic of a source's state


def check_task_name(name: object) -> None:
    """Check that a task can be called so: topics, file names and metrics have it in them.

    Raises:
        UsageError: It cannot.
    """
    fits = isinstance(name, str) and _NAME.fullmatch(name) is not None and len(name) <= _LONGEST_NAME
    if not fits or name in _TAKEN:
        raise UsageError(
            f"a task cannot be called {name!r:.60}: letters, digits, _ and - within, at most {_LONGEST_NAME},"
            f" and not {', '.join(_TAKEN)}"
        )


class Snapshot(NamedTuple):
    """What a task asks at one moment: labels with their prompt, and the threshold that belongs to them."""

    labels: LabelSet
    threshold: float | None


class Task:
    """What is asked of images after the vision graph has run.

    Args:
        text: Encodes labels; may be shared.
        active: Prompt, labels and threshold, which may change at any time.
        logit_scale: Of the bundle.

    Attributes:
        text: As given.
        active: As given.
    """

    def __init__(self, text: TextEncoder, active: ActiveLabels, logit_scale: float) -> None:
        self.text, self.active, self._logit_scale = text, active, logit_scale

    def fork(self) -> Task:
        """Return a task with the same engine and text cache, whose prompt, labels and threshold are its own."""
        fork = copy.copy(self)
        fork.active = self.active.fork()
        return fork

    def snapshot(self) -> Snapshot:
        """Return what it asks now."""
        labels = self.active.get()
        return Snapshot(labels, self.active.threshold_of(labels))  # of these labels, also where others come meanwhile

    def predictions(
        self,
        asked: Snapshot,
        seen: VisionOutputs,
        hysteresis: RetrievalHysteresis | None,
        spent: Sequence[dict[str, float]],
    ) -> list[Prediction]:
        """Say what B images show.

        Args:
            asked: What was asked when they went through the vision graph.
            seen: What the vision graph says of them to the prompt of `asked`.
            hysteresis: The memory of the video whose next frames they are.
            spent: Milliseconds by stage that each image has taken so far.
        """
        labels, threshold = asked
        started = time.perf_counter()
        retrieved = seen.retrieved
        if hysteresis is not None and labels.prompt.retrieves:
            retrieved = np.stack([hysteresis(of_image, labels.prompt.digest) for of_image in seen.scores])
        cosines, known = self.text.cosines(labels, seen.features, retrieved)
        scale = np.float32(self._logit_scale / labels.prompt.facts.temperature)
        results = [_softmax(scale * labels.best_of_each(cosine)) for cosine in cosines]
        text = 1000 * (time.perf_counter() - started) / len(spent)
        predictions = []
        for result, entries, hit, before in zip(results, retrieved, known, spent, strict=True):
            parts = {**before, "text": text}
            latency = {name: round(ms, 3) for name, ms in (parts | {"total": sum(parts.values())}).items()}
            predictions.append(_prediction(labels.labels, threshold, result, entries, hit, latency))
        return predictions


def classify(
    vision: VisionGraph,
    tasks: Sequence[Task],
    images: Sequence[Decoded],
    hysteresis: Sequence[RetrievalHysteresis | None],
) -> list[list[Prediction]]:
    """Run the vision graph once for a batch of images, and each task on what it says.

    Args:
        vision: The vision graph.
        tasks: One or more.
        images: Of the batch.
        hysteresis: Of each task.

    Returns:
        The predictions of each task.

    Raises:
        EngineError: An engine failed.
    """
    asked = [task.snapshot() for task in tasks]
    started = time.perf_counter()
    pixels = np.stack([pixels for pixels, _ in images])  # [B, 3, S, S]
    seen = vision.run(pixels, [each.labels.prompt for each in asked])
    share = 1000 * (time.perf_counter() - started) / len(images) / len(tasks)
    spent = [{"preprocess": 1000 * reading / len(tasks), "vision": share} for _, reading in images]
    every = zip(tasks, asked, seen, hysteresis, strict=True)
    return [task.predictions(each, outputs, memory, spent) for task, each, outputs, memory in every]


def _prediction(
    labels: tuple[str, ...],
    threshold: float | None,
    probabilities: NDArray[np.float32],
    retrieved: NDArray[np.int32],
    hit: bool,
    latency: dict[str, float],
) -> Prediction:
    best = int(probabilities.argmax())
    score = float(probabilities[best])
    label = None if threshold is not None and score < threshold else labels[best]
    cache: Literal["hit", "miss"] = "hit" if hit else "miss"
    return Prediction(label, score, probabilities, labels, retrieved, cache, latency, threshold)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    exponent: NDArray[Any] = np.exp(logits - logits.max())
    result: NDArray[np.float32] = (exponent / exponent.sum()).astype(np.float32)
    return result
