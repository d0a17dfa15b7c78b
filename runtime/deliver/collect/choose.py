"""Which results are worth a look by a person, each region and task for itself. Decides, and knows no files.

| reason | the result |
|---|---|
| unsure | the best label is hardly ahead of the second (of independent labels: a score is near its threshold) |
| unknown | is none of the labels; of independent labels that is usual, and no reason |
| flip | the decision changed, and changed back within seconds: the first frame between the two changes |
| novel | the image is far from all that were collected, by the cosine of unit image features |
| control | is one of N at random, whatever it shows, so that accuracy can be measured without the bias of the others |

What is very near to an image that was collected of the same region and task is a repeat, whatever the reasons but the
last. All of it is our choice.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attri.runtime.collection.item import Reason
from attri.runtime.deliver.collect.seen import SeenImages
from attri.runtime.deliver.result import FrameResult, ResultKey
from attri.runtime.prediction import Prediction

# Cosine distance. Measured with the pocket backbone: a still scene with a sensor's noise up to 0.0003, moved by a tenth
# of the frame 0.004 to 0.04, another thing of its class 0.66 in the median.
_REPEAT = 0.02


@dataclass(frozen=True)
class ChoiceRule:
    """What makes a result worth a look; 0 turns a reason off.

    Attributes:
        margin: The best score is ahead of the second by less than this.
        flip: Seconds within which the decision changes back.
        novelty: Cosine distance from the nearest collected image, more than this.
        control: One of so many results is taken at random.
    """

    margin: float = 0.2
    flip: float = 3.0
    novelty: float = 0.3
    control: int = 10_000


@dataclass(frozen=True)
class Choice:
    """A result that is worth a look.

    Attributes:
        result: The result.
        reasons: Why, one or more.
        margin: Of `margin`.
    """

    result: FrameResult
    reasons: tuple[Reason, ...]
    margin: float


@dataclass
class _Decision:
    """What was last decided of one region and task.

    Attributes:
        labels: Those that hold.
        before: What held before that; None at the start, and once a change back would come too late.
        first: The first result with `labels`, for as long as `before` is not None.
    """

    labels: frozenset[str]
    before: frozenset[str] | None = None
    first: FrameResult | None = None


class Chooser:
    """Chooses from the results of all sources, in the order in which they come.

    Args:
        rule: What makes a result worth a look.
        seen: The images that were collected; whoever collects one adds it there.
        draw: Draws the control.
    """

    def __init__(self, rule: ChoiceRule, seen: SeenImages, draw: random.Random | None = None) -> None:
        self._rule, self._seen, self._draw = rule, seen, draw or random.Random()
        self._decisions: dict[ResultKey, _Decision] = {}

    def __call__(self, result: FrameResult) -> Iterator[Choice]:
        """What is worth a look now that this result has come: an earlier result, this one, both or none."""
        flipped = self._flipped(result)
        if flipped is not None:
            yield Choice(flipped, ("flip",), margin(flipped.prediction))
        ahead = margin(result.prediction)
        if reasons := self._reasons(result, ahead):
            yield Choice(result, tuple(reasons), ahead)

    def is_repeat(self, choice: Choice) -> bool:
        """Whether an image like it was collected of the same region and task; the control repeats nothing."""
        result = choice.result
        near = self._seen.distance(result.prediction.image_feature, result.key) < _REPEAT
        return near and "control" not in choice.reasons

    def forget(self, origin: str) -> None:
        """Forget the decisions of a source that has ended."""
        self._decisions = {key: each for key, each in self._decisions.items() if key.origin != origin}

    def _reasons(self, result: FrameResult, ahead: float) -> list[Reason]:
        rule, prediction = self._rule, result.prediction
        reasons: list[Reason] = []
        if not result.unchanged:  # else it is the prediction of a frame before, which was looked at
            if ahead < rule.margin:
                reasons.append("unsure")
            if result.held is None and None in (result.label, prediction.label):
                reasons.append("unknown")
            if rule.novelty and self._seen.distance(prediction.image_feature) > rule.novelty:
                reasons.append("novel")
        if rule.control and self._draw.randrange(rule.control) == 0:
            reasons.append("control")
        return reasons

    def _flipped(self, result: FrameResult) -> FrameResult | None:
        """The first result of a decision that did not last, once it has changed back."""
        if not self._rule.flip or result.still:
            return None
        labels = frozenset(result.decided)
        last = self._decisions.setdefault(result.key, _Decision(labels))
        if last.first is not None and not 0 <= result.clock - last.first.clock <= self._rule.flip:
            last.before = last.first = None  # it has lasted, or time runs backwards (a loop); its frame is let go
        if labels == last.labels:
            return None
        flipped = last.first if labels == last.before else None
        self._decisions[result.key] = _Decision(labels, last.labels, result)
        return flipped


def margin(prediction: Prediction) -> float:
    """How far a prediction is from another one: the best score minus the second, 1 where there is one label alone.

    Of independent labels the least distance of a score to its threshold.
    """
    scores: NDArray[np.float32] = prediction.probabilities
    if prediction.thresholds is not None:
        return float(np.abs(scores - prediction.thresholds).min())
    if len(scores) < 2:
        return 1.0
    second, best = np.partition(scores, -2)[-2:]
    return float(best - second)
