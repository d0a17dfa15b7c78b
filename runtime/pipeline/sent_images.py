"""Images that somebody sends while sources are classified: asked what the frames of a source are asked, one by one.

They do not go through the frame queue, where they would wait behind cameras that fill every batch, or cameras behind
them. The classifier is asked beside the thread that classifies frames, with no more images at once than a batch has.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from PIL import Image

from attri.runtime.classifier import Classifier
from attri.runtime.deliver.result import FrameResult
from attri.runtime.deliver.sink import SentImage
from attri.runtime.errors import ImageError
from attri.runtime.images import load_image
from attri.runtime.pipeline.task import TaskState
from attri.runtime.prediction import Prediction
from attri.runtime.prompt import Prompt

_PIXELS = 1 << 26  # of an image; 256 MB when it is decoded


def classify_sent(
    images: Sequence[SentImage],
    tasks: Sequence[tuple[TaskState, Classifier]],
    beside: Sequence[Prompt],
    batch: int,
) -> list[list[FrameResult] | ImageError]:
    """Classify images that are no frames of a source.

    Args:
        images: As they were sent.
        tasks: What is asked, with classifiers whose labels and prompts nobody changes meanwhile.
        beside: Prompts of other tasks, see `Classifier.classify_each`.
        batch: Images that are classified at once, at most.

    Returns:
        For each image the results of its tasks; of one that cannot be read, the error.

    Raises:
        EngineError: The engine failed.
    """
    found: list[list[FrameResult] | ImageError] = []
    for start in range(0, len(images), batch):
        decoded = [_decoded(each.data) for each in images[start : start + batch]]
        good = [each for each in decoded if not isinstance(each, ImageError)]
        asked = [[(classifier, None) for _, classifier in tasks]] * len(good)
        predictions = iter(tasks[0][1].classify_each(good, asked, beside) if good else [])
        for number, image in enumerate(decoded, start):
            if isinstance(image, ImageError):
                found.append(image)
                continue
            seen = next(predictions)
            if isinstance(seen, ImageError):
                found.append(seen)
                continue
            found.append(_results(images[number].name, number, image, [state for state, _ in tasks], seen))
    return found


def _decoded(data: bytes) -> Image.Image | ImageError:
    try:
        return load_image(data, _PIXELS)
    except ImageError as error:
        return error


def _results(
    name: str, number: int, image: Image.Image, tasks: Sequence[TaskState], predictions: Sequence[Prediction]
) -> list[FrameResult]:
    """The results of an image, one for each task."""
    now = time.time()
    results = []
    for task, prediction in zip(tasks, predictions, strict=True):
        decision = task.decide_alone(prediction)
        result = FrameResult(
            source=name,
            frame=number,
            time=now,
            raw_image=image,
            prediction=prediction,
            label=decision.label,
            score=decision.score,
            changed=decision.changed,
            age_ms=0.0,
            fps=0.0,
            dropped=0,
            clock=now,
            origin=name,
            kind="images",
            live=False,
            task=task.name,
            held=decision.held,
        )
        results.append(result)
    return results
