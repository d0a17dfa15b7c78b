"""Decisions on independent labels: each holds or not by itself, and several may hold at once.

Smoothing is that of `attri.runtime.decide.smoothing`, label by label: the exponential average of its score is compared
with its threshold, or more than half of the last N frames have it. What comes of that counts once it has been so for
`min_duration` seconds without a break, whether the label appears or goes.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from attri.runtime.decide.smoothing import Decision, DecisionRule
from attri.runtime.prediction import Prediction


class IndependentSmoother:
    """The state of one source. Call it with each prediction, which has `thresholds`, in order."""

    # Of each label: whether it is decided, what it last was before a minimum duration, and since when.
    _decided: NDArray[np.bool_]
    _last: NDArray[np.bool_]
    _since: NDArray[np.float64]

    def __init__(self, rule: DecisionRule) -> None:
        self.rule = rule
        self._labels: tuple[str, ...] = ()
        self._held: tuple[str, ...] = ()
        self._time = -math.inf
        self._start(-math.inf)

    def __call__(self, prediction: Prediction, time: float) -> Decision:
        """`time` in seconds, of the frame. New labels, and time that runs backwards (a loop), start afresh."""
        if prediction.labels != self._labels or time < self._time:
            self._labels = prediction.labels
            self._start(time)
        candidates, scores = self._candidates(prediction, time)
        self._since[candidates != self._last] = time
        self._last, self._time = candidates, time
        ready = time - self._since >= self.rule.min_duration
        self._decided[ready] = candidates[ready]
        order = np.argsort(-scores, kind="stable")
        held = tuple((self._labels[i], float(scores[i])) for i in order if self._decided[i])
        before, self._held = self._held, tuple(label for label, _ in held)
        label, score = held[0] if held else (None, float(scores.max()))
        return Decision(label, score, set(before) != set(self._held), held)

    def _start(self, time: float) -> None:
        self._mean: NDArray[np.float32] | None = None
        self._votes: deque[tuple[NDArray[np.bool_], NDArray[np.float32]]] = deque(maxlen=self.rule.majority)
        self._decided = np.array([label in self._held for label in self._labels], bool)  # those still asked for stay
        self._last, self._since = self._decided.copy(), np.full(len(self._labels), float(time))

    def _candidates(self, prediction: Prediction, time: float) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Which labels hold before a minimum duration, and their smoothed scores [C]."""
        assert prediction.thresholds is not None
        limit = prediction.thresholds if self.rule.threshold is None else np.float32(self.rule.threshold)
        if self.rule.majority > 1:
            self._votes.append((prediction.probabilities >= limit, prediction.probabilities))
            votes, scores = (np.stack(each) for each in zip(*self._votes, strict=True))
            return votes.mean(0) > 0.5, scores.mean(0)
        if self._mean is None or self.rule.smooth == 0:
            self._mean = prediction.probabilities
        else:
            weight = np.float32(-math.expm1((self._time - time) / self.rule.smooth))
            self._mean = self._mean + weight * (prediction.probabilities - self._mean)
        return self._mean >= limit, self._mean
