"""Decisions on independent labels against what a person would work out on paper."""

from __future__ import annotations

import numpy as np
import pytest

from attri.runtime.decide.independent import IndependentSmoother
from attri.runtime.decide.smoothing import DecisionRule
from attri.runtime.prediction import Prediction

LABELS = ("cat", "dog", "bird")


def seen(*scores: float, labels: tuple[str, ...] = LABELS, limits: tuple[float, ...] = (0.5, 0.5, 0.5)) -> Prediction:
    probabilities, thresholds = np.array(scores, np.float32), np.array(limits, np.float32)
    nothing = np.zeros((1, 1), np.int32)
    return Prediction(None, 0.0, probabilities, labels, nothing, "hit", {}, thresholds=thresholds)


def held(smoother: IndependentSmoother, *frames: tuple[float, Prediction]) -> list[str]:
    """The labels that hold after each frame, by their first letters."""
    return ["".join(label[0] for label, _ in smoother(each, time).held or ()) for time, each in frames]


BOTH, CAT, NONE = seen(0.9, 0.8, 0.1), seen(0.9, 0.2, 0.1), seen(0.1, 0.2, 0.1)


def test_several_labels_hold_at_once_each_with_its_own_threshold() -> None:
    decide = IndependentSmoother(DecisionRule())
    found = decide(seen(0.6, 0.8, 0.3, limits=(0.7, 0.5, 0.2)), 0)
    assert (found.label, found.changed) == ("dog", True)
    assert found.held == (("dog", pytest.approx(0.8)), ("bird", pytest.approx(0.3)))
    nothing = decide(NONE, 1)
    assert (nothing.label, nothing.held, nothing.changed) == (None, (), True)
    assert nothing.score == pytest.approx(0.2)  # of the best
    assert not decide(NONE, 2).changed


def test_an_event_is_a_label_that_comes_or_goes_and_not_another_order() -> None:
    decide = IndependentSmoother(DecisionRule())
    frames = [BOTH, seen(0.8, 0.9, 0.1), CAT, BOTH]
    assert [decide(each, time).changed for time, each in enumerate(frames)] == [True, False, True, True]


def test_a_threshold_that_is_given_is_that_of_all() -> None:
    decide = IndependentSmoother(DecisionRule(threshold=0.85))
    assert held(decide, (0, seen(0.9, 0.8, 0.86, limits=(1, 0, 1)))) == ["cb"]


def test_each_label_must_last() -> None:
    decide = IndependentSmoother(DecisionRule(min_duration=1))
    frames = [(0, CAT), (0.5, BOTH), (1, BOTH), (1.5, BOTH), (1.6, CAT), (2.5, BOTH), (3.6, NONE), (4.7, NONE)]
    # The cat since 0, the dog from 0.5 to 1.6, which counts from 1.5 on, and goes only after 1 s without it.
    assert held(decide, *frames) == ["", "", "c", "cd", "cd", "cd", "dc", ""]


def test_each_label_needs_a_majority() -> None:
    decide = IndependentSmoother(DecisionRule(majority=3))
    assert held(decide, *enumerate((BOTH, CAT, NONE, NONE))) == ["cd", "c", "c", ""]


def test_scores_are_smoothed_label_by_label() -> None:
    decide = IndependentSmoother(DecisionRule(smooth=1))
    decide(BOTH, 0)
    found = decide(CAT, np.log(2))  # half of the old remains
    assert found.held == (("cat", pytest.approx(0.9)), ("dog", pytest.approx(0.5)))


def test_new_labels_start_afresh_and_those_that_stay_hold() -> None:
    decide = IndependentSmoother(DecisionRule(min_duration=1))
    assert held(decide, (0, BOTH), (1, BOTH)) == ["", "cd"]
    others = ("rose", "dog")
    found = decide(seen(0.9, 0.9, labels=others, limits=(0.5, 0.5)), 1.5)
    assert ([label for label, _ in found.held or ()], found.changed) == (["dog"], True)  # nobody asks for cats
    assert held(decide, (2.5, seen(0.9, 0.8, labels=others, limits=(0.5, 0.5)))) == ["rd"]


def test_a_video_that_starts_again_starts_afresh() -> None:
    decide = IndependentSmoother(DecisionRule(smooth=10))
    held(decide, (100, BOTH))
    assert held(decide, (0, CAT)) == ["c"]
