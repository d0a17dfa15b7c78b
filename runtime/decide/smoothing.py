"""From predictions to a decision that does not flicker: smoothing over time, then a minimum duration.

Exponential: with time constant tau the probabilities p of a frame, dt seconds after the one before, enter as

    m <- m + (1 - exp(-dt / tau)) (p - m)

so that the result depends on seconds and not on how many frames a camera or a busy device makes of them. Majority: the
label that most of the last N frames have. Both are our choice, and so is the order: a candidate from either becomes the
decision once it has held for `min_duration` seconds without a break.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attri.runtime.errors import UsageError
from attri.runtime.prediction import Prediction


@dataclass(frozen=True)
class DecisionRule:
    """How predictions of one source become decisions; the defaults take every frame at its word.

    smooth        time constant of the exponential average, seconds; 0 is none
    majority      frames that vote; 1 is none
    min_duration  seconds that a label must hold before it is decided
    threshold     averaged scores below it are none of the labels; None takes the prediction's
    """

    smooth: float = 0.0
    majority: int = 1
    min_duration: float = 0.0
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.smooth > 0 and self.majority > 1:
            raise UsageError("smooth and majority are two ways to one end: give one of them")


@dataclass(frozen=True)
class Decision:
    """What is decided.

    Attributes:
        label: Of independent labels the best of those that hold; None where nothing is decided.
        score: 0..1, of the label, or of the best one where it is None.
        changed: Whether the label, or the set of those that hold, differs from the one before: an event.
        held: Of independent labels those that hold, with their scores, best first; None where labels compete.
    """

    label: str | None
    score: float
    changed: bool
    held: tuple[tuple[str, float], ...] | None = None


class DecisionSmoother:
    """The state of one source. Call it with each prediction, in order."""

    def __init__(self, rule: DecisionRule) -> None:
        self.rule = rule
        self._labels: tuple[str, ...] = ()
        self._threshold: float | None = None
        self._time = -math.inf
        self._reset()
        self._decided: str | None = None
        self._candidate: str | None = None
        self._since = -math.inf  # when the candidate became one, seconds

    def __call__(self, prediction: Prediction, time: float) -> Decision:
        """`time` in seconds, of the frame. New labels, and time that runs backwards (a loop), start afresh."""
        if prediction.labels != self._labels or time < self._time:
            self._reset()
            self._since = time
        self._labels = prediction.labels
        self._threshold = prediction.threshold if self.rule.threshold is None else self.rule.threshold
        candidate, scores = self._vote(prediction) if self.rule.majority > 1 else self._average(prediction, time)
        self._time = time
        return self._hold(candidate, scores, time)

    def _reset(self) -> None:
        self._mean: NDArray[np.float32] | None = None
        self._votes: deque[tuple[str | None, NDArray[np.float32]]] = deque(maxlen=self.rule.majority)

    def _average(self, prediction: Prediction, time: float) -> tuple[str | None, NDArray[np.float32]]:
        if self._mean is None or self.rule.smooth == 0:
            self._mean = prediction.probabilities
        else:
            weight = np.float32(-math.expm1((self._time - time) / self.rule.smooth))
            self._mean = self._mean + weight * (prediction.probabilities - self._mean)
        return self._best(self._mean), self._mean

    def _vote(self, prediction: Prediction) -> tuple[str | None, NDArray[np.float32]]:
        """A tie goes to what was decided before, if it is among the first, and else to the newest of them."""
        self._votes.append((self._best(prediction.probabilities), prediction.probabilities))
        counts = Counter(label for label, _ in self._votes)
        most = max(counts.values())
        first = [label for label, _ in reversed(self._votes) if counts[label] == most]
        winner = self._decided if self._decided in first else first[0]
        voters = [probabilities for label, probabilities in self._votes if label == winner]
        return winner, np.mean(voters, axis=0)

    def _best(self, probabilities: NDArray[np.float32]) -> str | None:
        best = int(probabilities.argmax())
        rejected = self._threshold is not None and probabilities[best] < self._threshold
        return None if rejected else self._labels[best]

    def _hold(self, candidate: str | None, scores: NDArray[np.float32], time: float) -> Decision:
        if candidate != self._candidate:
            self._candidate, self._since = candidate, time
        before = self._decided
        if time - self._since >= self.rule.min_duration:
            self._decided = candidate
        elif before not in self._labels:  # it is no longer asked for
            self._decided = None
        score = scores.max() if self._decided is None else scores[self._labels.index(self._decided)]
        return Decision(self._decided, float(score), self._decided != before)
