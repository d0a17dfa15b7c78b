"""Decisions against what a person would work out on paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attri.runtime.decide.smoothing import DecisionRule, DecisionSmoother
from attri.runtime.errors import UsageError
from attri.runtime.prediction import Prediction

LABELS = ("cat", "dog", "bird")


def seen(*scores: float, labels: tuple[str, ...] = LABELS) -> Prediction:
    probabilities = np.array(scores, np.float32)
    best = int(probabilities.argmax())
    return Prediction(
        labels[best], float(probabilities[best]), probabilities, labels, np.zeros((1, 1), np.int32), "hit", {}
    )


CAT, DOG, NOTHING = seen(0.8, 0.1, 0.1), seen(0.2, 0.7, 0.1), seen(0.4, 0.3, 0.3)


def labels_of(rule: DecisionRule, *frames: tuple[float, Prediction]) -> list[str | None]:
    decide = DecisionSmoother(rule)
    return [decide(prediction, time).label for time, prediction in frames]


def test_every_frame_is_taken_at_its_word_unless_told_otherwise() -> None:
    decide = DecisionSmoother(DecisionRule())
    found = [decide(each, time) for time, each in enumerate((CAT, DOG, DOG, CAT))]
    assert [(each.label, each.changed) for each in found] == [
        ("cat", True),
        ("dog", True),
        ("dog", False),
        ("cat", True),
    ]
    assert [each.score for each in found] == pytest.approx([0.8, 0.7, 0.7, 0.8])


def test_below_the_threshold_nothing_is_decided() -> None:
    decide = DecisionSmoother(DecisionRule(threshold=0.5))
    found = [decide(each, time) for time, each in enumerate((NOTHING, CAT, NOTHING))]
    assert [(each.label, each.changed) for each in found] == [(None, False), ("cat", True), (None, True)]
    assert found[0].score == pytest.approx(0.4)


@given(st.lists(st.floats(0.001, 5), min_size=1, max_size=20), st.floats(0.1, 3), st.integers(0, 2**32 - 1))
def test_the_average_is_the_sum_over_the_past(steps: list[float], tau: float, seed: int) -> None:
    """The recursion against its closed form: frame i weighs (1 - exp(-dt_i / tau)) exp(-(t - t_i) / tau)."""
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(3), len(steps)).astype(np.float32)
    times = np.cumsum(steps)
    decide = DecisionSmoother(DecisionRule(smooth=tau))
    for time, row in zip(times, probabilities, strict=True):
        found = decide(seen(*row), time)
    weights = (1 - np.exp(-np.array(steps) / tau)) * np.exp(-(times[-1] - times) / tau)
    weights[0] = math.exp(-(times[-1] - times[0]) / tau)
    wanted = weights @ probabilities
    assert found.score == pytest.approx(wanted.max(), abs=1e-5)  # 20 float32 steps


def test_the_average_depends_on_seconds_and_not_on_frames() -> None:
    slow, fast = DecisionSmoother(DecisionRule(smooth=2)), DecisionSmoother(DecisionRule(smooth=2))
    slow(CAT, 0), fast(CAT, 0)
    for i in range(1, 101):
        many = fast(DOG, i / 50)
    assert many.score == pytest.approx(slow(DOG, 2).score, abs=1e-5)


def test_a_flicker_is_smoothed_away() -> None:
    flicker = [(i / 10, DOG if i % 5 == 4 else CAT) for i in range(50)]
    assert set(labels_of(DecisionRule(smooth=1), *flicker)) == {"cat"}
    assert set(labels_of(DecisionRule(majority=3), *flicker)) == {"cat"}
    assert set(labels_of(DecisionRule(), *flicker)) == {"cat", "dog"}


def test_a_majority_and_its_ties() -> None:
    frames = [(i, each) for i, each in enumerate((CAT, DOG, DOG, CAT, DOG, CAT))]
    # In turn: cat; a tie, where what was decided stays; dog; a tie, which stays dog; dog; a tie.
    assert labels_of(DecisionRule(majority=4), *frames) == ["cat", "cat", "dog", "dog", "dog", "dog"]


def test_the_score_of_a_majority_is_that_of_its_voters() -> None:
    decide = DecisionSmoother(DecisionRule(majority=3))
    decide(seen(0.6, 0.3, 0.1), 0)
    decide(DOG, 1)
    assert decide(seen(0.8, 0.1, 0.1), 2).score == pytest.approx(0.7)


def test_a_label_must_hold_to_be_decided() -> None:
    decide = DecisionSmoother(DecisionRule(min_duration=1))
    frames = [(0, CAT), (0.5, CAT), (1, CAT), (1.2, DOG), (2.1, DOG), (2.15, CAT), (2.2, DOG), (3.1, DOG), (3.2, DOG)]
    found = [decide(each, time) for time, each in frames]
    assert [each.label for each in found] == [None, None, "cat", "cat", "cat", "cat", "cat", "cat", "dog"]
    assert [each.changed for each in found] == [False, False, True, False, False, False, False, False, True]
    assert found[3].score == pytest.approx(0.2)  # of what is decided, not of what is seen


def test_new_labels_start_afresh() -> None:
    decide = DecisionSmoother(DecisionRule(smooth=100, min_duration=5))
    decide(CAT, 0)
    assert decide(CAT, 5).label == "cat"
    others = ("rose", "dog")
    first = decide(seen(0.9, 0.1, labels=others), 6)
    assert (first.label, first.changed) == (None, True)  # nobody asks for cats any more
    assert first.score == pytest.approx(0.9)  # nothing of the old average
    assert decide(seen(0.9, 0.1, labels=others), 11).label == "rose"


def test_a_video_that_starts_again_starts_afresh() -> None:
    decide = DecisionSmoother(DecisionRule(smooth=10))
    decide(CAT, 100)
    assert decide(DOG, 0).score == pytest.approx(0.7)


def test_two_ways_to_one_end_are_refused() -> None:
    with pytest.raises(UsageError, match="smooth and majority are two"):
        DecisionRule(smooth=1, majority=3)
