"""A task: what is asked of images by one prompt, one set of labels and one threshold. Tasks share a vision pass."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attri.runtime.engines.vision import VisionGraph, VisionOutputs
from attri.runtime.errors import UsageError
from attri.runtime.image_batches import Decoded
from attri.runtime.prediction import Prediction
from attri.runtime.prompt import IndependentScores, Prompt
from attri.runtime.text.active_labels import ActiveLabels
from attri.runtime.text.encoder import TextEncoder
from attri.runtime.text.hysteresis import RetrievalHysteresis
from attri.runtime.text.label_set import LabelSet

_NAME = re.compile(r"\w(?:[\w-]*\w)?")  # the characters of one level of an MQTT topic, and of file names
_LONGEST_NAME = 40
_TAKEN = ("state",)  # SOURCE/state is the topic of a source's state


def check_task_name(name: object, kind: str = "task") -> None:
    """Check that a task, or a region, can be called so: topics, file names and metrics have it in them.

    Raises:
        UsageError: It cannot.
    """
    fits = isinstance(name, str) and _NAME.fullmatch(name) is not None and len(name) <= _LONGEST_NAME
    if not fits or name in _TAKEN:
        raise UsageError(
            f"a {kind} cannot be called {name!r:.60}: letters, digits, _ and - within, at most {_LONGEST_NAME},"
            f" and not {', '.join(_TAKEN)}"
        )


class Snapshot(NamedTuple):
    """What a task asks at one moment.

    Attributes:
        labels: With their prompt.
        threshold: That belongs to them, where they compete.
        independent: How each is scored by itself; None where they compete.
        thresholds: float32 [C], the score from which on each holds, where they are independent.
    """

    labels: LabelSet
    threshold: float | None
    independent: IndependentScores | None = None
    thresholds: NDArray[np.float32] | None = None


class Question(NamedTuple):
    """What is asked of one image.

    Attributes:
        task: Asks it.
        memory: Of the retrieval of the video whose next frame the image is; None is exact retrieval.
    """

    task: Task
    memory: RetrievalHysteresis | None = None


class Task:
    """What is asked of images after the vision graph has run.

    Args:
        text: Encodes labels; may be shared.
        active: Prompt, labels and threshold, which may change at any time.
        logit_scale: Of the bundle.
        inherent: How the model was trained to score each label by itself (SigLIP); None where it was not.

    Attributes:
        text: As given.
        active: As given.
    """

    def __init__(
        self, text: TextEncoder, active: ActiveLabels, logit_scale: float, inherent: IndependentScores | None = None
    ) -> None:
        self.text, self.active, self._logit_scale, self._inherent = text, active, logit_scale, inherent

    def fork(self) -> Task:
        """Return a task with the same engine and text cache, whose prompt, labels and threshold are its own."""
        fork = copy.copy(self)
        fork.active = self.active.fork()
        return fork

    def snapshot(self) -> Snapshot:
        """Return what it asks now."""
        labels = self.active.get()
        if self.active.independent:
            given, thresholds = self.active.given_threshold, labels.thresholds
            if given is not None:
                thresholds = np.full(len(labels.labels), given, np.float32)
            return Snapshot(labels, None, self.independent_scores(labels.prompt), thresholds)
        return Snapshot(labels, self.active.threshold_of(labels))  # of these labels, also where others come meanwhile

    def independent_scores(self, prompt: Prompt) -> IndependentScores:
        """Return how labels are scored by themselves with this prompt.

        Raises:
            UsageError: Nobody knows: neither was the model trained for it, nor the prompt calibrated.
        """
        scores = prompt.facts.independent or self._inherent
        if scores is None:
            raise UsageError(
                "`independent` scores need a scale and thresholds, which this prompt has not: export it again with"
                " validation images (--validation-data), or take a SigLIP model"
            )
        return scores

    def predictions(
        self,
        asked: Snapshot,
        seen: VisionOutputs,
        memories: Sequence[RetrievalHysteresis | None],
        spent: Sequence[dict[str, float]],
    ) -> list[Prediction]:
        """Say what B images show.

        Args:
            asked: What was asked when they went through the vision graph.
            seen: What the vision graph says of them to the prompt of `asked`.
            memories: Of each image, that of the video whose next frame it is.
            spent: Milliseconds by stage that each image has taken so far.
        """
        labels = asked.labels
        started = time.perf_counter()
        retrieved = seen.retrieved
        if labels.prompt.retrieves and any(memories):
            rows = zip(memories, seen.scores, retrieved, strict=True)
            digest = labels.prompt.digest
            retrieved = np.stack(
                [exact if memory is None else memory(scores, digest) for memory, scores, exact in rows]
            )
        cosines, known = self.text.cosines(labels, seen.features, retrieved)
        best = [labels.best_of_each(cosine) for cosine in cosines]
        if (scores := asked.independent) is None:
            scale = np.float32(self._logit_scale / labels.prompt.facts.temperature)
            results = [_softmax(scale * each) for each in best]
        else:
            results = [_sigmoid(np.float32(scores.scale) * each + np.float32(scores.bias)) for each in best]
        text = 1000 * (time.perf_counter() - started) / len(spent)
        predictions = []
        seen = seen._replace(retrieved=retrieved)
        for row, (result, hit, before) in enumerate(zip(results, known, spent, strict=True)):
            parts = {**before, "text": text}
            latency = {name: round(ms, 3) for name, ms in (parts | {"total": sum(parts.values())}).items()}
            predictions.append(_prediction(asked, result, seen, row, hit, latency))
        return predictions


def classify(
    vision: VisionGraph,
    images: Sequence[Decoded],
    asked: Sequence[Sequence[Question]],
    beside: Sequence[Prompt] = (),
) -> list[list[Prediction]]:
    """Run the vision graph once for a batch of images, and each task once for all images of which it asks something.

    Where the prompts of all images have more pool entries together than the engine takes, it is a run for each part of
    the batch whose prompts it does take.

    Args:
        vision: The vision graph.
        images: Of the batch.
        asked: Of each image, one question or more.
        beside: Prompts of all tasks of all sources, as of `VisionGraph.run`.

    Returns:
        For each image its predictions, in the order of its questions.

    Raises:
        EngineError: An engine failed.
    """
    snapshots = {question.task: question.task.snapshot() for questions in asked for question in questions}
    prompts = [[snapshots[question.task].labels.prompt for question in questions] for questions in asked]
    found: list[list[Prediction]] = []
    for first, end in vision.parts(prompts):
        found += _classify_part(vision, images[first:end], asked[first:end], snapshots, beside)
    return found


def _classify_part(
    vision: VisionGraph,
    images: Sequence[Decoded],
    asked: Sequence[Sequence[Question]],
    snapshots: Mapping[Task, Snapshot],
    beside: Sequence[Prompt],
) -> list[list[Prediction]]:
    """`classify` with one run of the vision graph."""
    rows: dict[Task, list[tuple[int, int]]] = {}  # numbers of image and question
    for row, questions in enumerate(asked):
        for number, question in enumerate(questions):
            rows.setdefault(question.task, []).append((row, number))
    started = time.perf_counter()
    pixels = np.stack([pixels for pixels, _ in images])  # [B, 3, S, S]
    every = vision.run(pixels, [snapshots[task].labels.prompt for task in rows], beside)
    share = 1000 * (time.perf_counter() - started) / len(images)
    parts = [{"preprocess": 1000 * reading, "vision": share} for _, reading in images]
    spent = [{stage: ms / len(asked[row]) for stage, ms in each.items()} for row, each in enumerate(parts)]
    found: dict[tuple[int, int], Prediction] = {}
    for (task, places), seen in zip(rows.items(), every, strict=True):
        chosen = [row for row, _ in places]
        memories = [asked[row][number].memory for row, number in places]
        predictions = task.predictions(snapshots[task], seen.take(chosen), memories, [spent[row] for row in chosen])
        found.update(zip(places, predictions, strict=True))
    return [[found[row, number] for number in range(len(questions))] for row, questions in enumerate(asked)]


def _prediction(
    asked: Snapshot,
    probabilities: NDArray[np.float32],
    seen: VisionOutputs,
    row: int,
    hit: bool,
    latency: dict[str, float],
) -> Prediction:
    """Of the image in a row of what the vision graph said."""
    labels, threshold, thresholds = asked.labels.labels, asked.threshold, asked.thresholds
    if thresholds is None:
        best = int(probabilities.argmax())
        label = None if threshold is not None and float(probabilities[best]) < threshold else labels[best]
    else:
        holds = probabilities >= thresholds
        best = int(np.where(holds, probabilities, -1).argmax() if holds.any() else probabilities.argmax())
        label = labels[best] if holds[best] else None
    cache: Literal["hit", "miss"] = "hit" if hit else "miss"
    score, prompt = float(probabilities[best]), asked.labels.prompt
    return Prediction(
        *(label, score, probabilities, labels, seen.retrieved[row], cache, latency, threshold, thresholds),
        image_feature=seen.features[row],
        prompt=prompt.digest,
        key_cosines=seen.scores[row] if prompt.retrieves else None,
        attracts=prompt.facts.attracts if prompt.retrieves else None,
        training_images=prompt.training_images,
    )


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    exponent: NDArray[Any] = np.exp(logits - logits.max())
    result: NDArray[np.float32] = (exponent / exponent.sum()).astype(np.float32)
    return result


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = (0.5 * (1 + np.tanh(logits / 2))).astype(np.float32)
    return result
