"""Independent scores against a slow search, and thresholds of labels where images tell them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from attri.calibration import independent
from attri.calibration.independent import MIN_POSITIVES, balanced_accuracy
from attri.runtime.prompt import IndependentScores


def fit_independent(*arguments: Any, **options: Any) -> tuple[IndependentScores, dict[str, Any]]:
    found = independent.fit_independent(*arguments, **options)
    assert found is not None
    return found


def images_of(
    counts: list[int], shift: list[float], seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
    """Cosines about as CLIP has them: 0.30 of what an image shows and 0.22 of other labels; some labels are shifted."""
    random = np.random.default_rng(seed)
    targets = random.permutation(np.repeat(np.arange(len(counts)), counts))
    cosines = random.normal(0.22, 0.02, (len(targets), len(counts)))
    cosines[np.arange(len(targets)), targets] += 0.08
    return cosines + np.array(shift), targets, [f"label {i}" for i in range(len(counts))]


def slow_loss(cosines: NDArray[np.float64], targets: NDArray[np.int64], scale: float, bias: float) -> float:
    """Mean loss of images that show a label, and of those that do not, one at a time."""
    yes, no = [], []
    for row, target in zip(cosines, targets, strict=True):
        for label, cosine in enumerate(row):
            logit = scale * cosine + bias
            (yes if label == target else no).append(math.log1p(math.exp(-logit if label == target else logit)))
    return (sum(yes) / len(yes) + sum(no) / len(no)) / 2


def test_scale_and_bias_are_the_best_of_a_slow_search() -> None:
    cosines, targets, labels = images_of([15, 15, 15], [0, 0, 0])
    scores, _ = fit_independent(cosines, targets, labels)
    best = slow_loss(cosines, targets, scores.scale, scores.bias)
    for by, move in itertools.product((0.7, 0.9, 1.0, 1.1, 1.4), (-0.6, -0.2, 0.0, 0.2, 0.6)):
        centre = -scores.bias / scores.scale  # the cosine that scores 0.5
        other = slow_loss(cosines, targets, by * scores.scale, -by * scores.scale * centre + move)
        assert best <= other + 2e-3  # the ridge costs that much
    assert 0.24 < -scores.bias / scores.scale < 0.28


def f1(holds: NDArray[np.bool_], shown: NDArray[np.bool_]) -> float:
    precision, recall = shown[holds].mean(), holds[shown].mean()
    return float(2 * precision * recall / (precision + recall))


def test_the_threshold_has_the_best_f1() -> None:
    cosines, targets, labels = images_of([12, 12, 12, 12], [0, 0, 0, 0])
    cosines += np.random.default_rng(1).normal(0, 0.03, cosines.shape)
    scores, figures = fit_independent(cosines, targets, labels)
    found, shown = 1 / (1 + np.exp(-(scores.scale * cosines + scores.bias))), np.arange(4) == targets[:, None]
    assert scores.thresholds == {}
    best = f1(found >= scores.threshold, shown)
    assert best == max(f1(found >= each, shown) for each in found.ravel())
    precision, recall = figures["precision"], figures["recall"]
    assert best == pytest.approx(2 * precision * recall / (precision + recall))


def test_labels_with_enough_images_have_thresholds_of_their_own() -> None:
    cosines, targets, labels = images_of([40, 40, 40, MIN_POSITIVES - 1], [0.0, 0.05, -0.05, 0.05])
    scores, figures = fit_independent(cosines, targets, labels)
    assert set(scores.thresholds) == set(labels[:3])
    assert scores.thresholds["label 2"] < scores.threshold < scores.thresholds["label 1"]
    assert figures["own"] == 3
    assert figures["balanced_accuracy_own"] > figures["balanced_accuracy"]
    fresh, shown, _ = images_of([40, 40, 40, 0], [0.0, 0.05, -0.05, 0.05], seed=1)
    logits = scores.scale * fresh + scores.bias
    limits = [scores.thresholds.get(label, scores.threshold) for label in labels]
    own, common = (np.array([math.log(t / (1 - t)) for t in each]) for each in (limits, [scores.threshold] * 4))
    is_shown = np.arange(4) == shown[:, None]
    assert f1(logits >= own, is_shown) > f1(logits >= common, is_shown) + 0.05


def test_thresholds_that_are_chance_are_not_kept() -> None:
    cosines, targets, labels = images_of([MIN_POSITIVES] * 5, [0.0] * 5, seed=3)
    cosines += np.random.default_rng(4).normal(0, 0.05, cosines.shape)
    scores, figures = fit_independent(cosines, targets, labels)
    assert (scores.thresholds, figures["own"]) == ({}, 0)


def test_what_the_model_was_trained_with_stays() -> None:
    cosines, targets, labels = images_of([20, 20], [0, 0])
    scores, _ = fit_independent(cosines, targets, labels, fixed=(100.0, -26.0))
    assert (scores.scale, scores.bias) == (100.0, -26.0)


def test_labels_that_are_never_confused_give_numbers() -> None:
    targets = np.arange(30) % 2
    cosines = np.full((30, 2), 0.2)
    cosines[np.arange(30), targets] += 0.5
    scores, figures = fit_independent(cosines, targets, ["a", "b"])
    assert np.isfinite([scores.scale, scores.bias]).all()
    assert figures["balanced_accuracy"] == 1


@pytest.mark.parametrize("gap", [0.0, -0.5])
def test_labels_that_say_nothing_about_images_are_not_fitted(gap: float) -> None:
    targets = np.arange(30) % 2
    cosines = np.full((30, 2), 0.2)
    cosines[np.arange(30), targets] += gap
    assert independent.fit_independent(cosines, targets, ["a", "b"]) is None


def test_balanced_accuracy_counts_each_side_the_same() -> None:
    logits = np.array([[1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, -1.0]])
    shown = np.array([[True, False], [True, False], [False, True], [False, True]])
    assert balanced_accuracy(logits, shown) == pytest.approx(np.mean([1.0, 0.5, 0.5, 1.0]))
