"""Temperature, calibration error, AUROC and thresholds, each against a slow and obvious way to the same number."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attri.calibration import confidence as c
from attri.runtime import Classifier

SCORES = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 0.9, 1.0]), min_size=1, max_size=30).map(np.array)


def drawn(seed, images=300, classes=5, sharpness=1.0):
    """Logits, and targets that really follow their softmax; then the logits are made too sharp or too flat."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(images, classes)) * 2
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    targets = np.array([rng.choice(classes, p=p) for p in chances])
    return logits * sharpness, targets


def slow_nll(logits, targets, temperature):
    total = 0.0
    for row, target in zip(logits / temperature, targets, strict=True):
        total -= math.log(math.exp(row[target]) / sum(math.exp(value) for value in row))
    return total / len(targets)


def test_the_likelihood_is_that_of_the_definition():
    logits, targets = drawn(0, images=40)
    for temperature in (0.3, 1.0, 4.0):
        assert c.negative_log_likelihood(logits, targets, temperature) == pytest.approx(
            slow_nll(logits, targets, temperature)
        )
    assert c.negative_log_likelihood(logits * 1e4, targets) < math.inf  # no overflow


@pytest.mark.stress
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), sharpness=st.sampled_from([0.1, 0.5, 1.0, 3.0, 12.0]))
def test_the_fitted_temperature_is_the_best_of_a_grid(seed, sharpness):
    logits, targets = drawn(seed, sharpness=sharpness)
    fitted = c.fit_temperature(logits, targets)
    grid = np.geomspace(c.MIN_TEMPERATURE, c.MAX_TEMPERATURE, 2001)
    likelihoods = [c.negative_log_likelihood(logits, targets, t) for t in grid]
    assert c.negative_log_likelihood(logits, targets, fitted) <= min(likelihoods) + 1e-12
    assert fitted == pytest.approx(grid[int(np.argmin(likelihoods))], rel=0.004)  # half a step of the grid


def test_a_temperature_that_is_known_is_found_again():
    logits, targets = drawn(1, images=20_000, sharpness=3.0)
    assert c.fit_temperature(logits, targets) == pytest.approx(3.0, rel=0.05)


@pytest.mark.parametrize("targets", [[0, 0, 0], [1, 1, 1]], ids=["all right", "all wrong"])
def test_where_all_are_right_or_wrong_there_is_no_best_temperature(targets):
    logits = np.array([[2.0, 0.0], [3.0, 1.0], [9.0, 0.0]])
    assert c.fit_temperature(logits, np.array(targets)) is None
    assert c.fit_temperature(np.zeros((0, 2)), np.zeros(0, int)) is None


@settings(max_examples=50, deadline=None)
@given(
    logits=arrays(np.float64, (6, 4), elements=st.floats(-50, 50).map(lambda x: round(x, 3))),
    temperature=st.floats(c.MIN_TEMPERATURE, c.MAX_TEMPERATURE),
)
def test_a_temperature_moves_no_image_to_another_class(logits, temperature):
    best = c.probabilities(logits, temperature).max(1)
    of_the_best = c.probabilities(logits, temperature)[np.arange(6), logits.argmax(1)]
    assert (best == of_the_best).all()


def slow_error(scores, right, bins):
    total = 0.0
    for number in range(bins):
        inside = [
            i
            for i, s in enumerate(scores)
            if number / bins <= s < (number + 1) / bins or (number == bins - 1 and s == 1)
        ]
        if inside:
            gap = sum(right[i] for i in inside) / len(inside) - sum(scores[i] for i in inside) / len(inside)
            total += abs(gap) * len(inside) / len(scores)
    return total


def test_the_calibration_error_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    scores, right = rng.random(500), rng.random(500) < 0.6
    scores[:3] = 0.0, 1.0, 0.5
    for bins in (1, 7, 10):
        assert c.calibration_error(scores, right, bins) == pytest.approx(slow_error(scores, right, bins))
    assert c.calibration_error(np.array([0.75] * 4), np.array([1, 1, 1, 0])) == 0
    assert sum(b.images for b in c.reliability(scores, right)) == 500


def test_a_fitted_temperature_lowers_the_error_of_sharp_scores():
    logits, targets = drawn(2, images=2000, sharpness=4.0)
    found = c.summary(logits, targets, c.fit_temperature(logits, targets))
    assert found["before"]["ece"] > 0.15
    assert found["after"]["ece"] < 0.04  # the noise of 2000 images in 15 bins
    assert found["after"]["nll"] < found["before"]["nll"]
    assert found["accuracy"] == (logits.argmax(1) == targets).mean()


def test_the_held_out_error_is_that_of_temperatures_of_the_others():
    logits, targets = drawn(3, images=43, sharpness=3.0)
    scores = []
    for i in range(43):
        others = [j for j in range(43) if j % 5 != i % 5]
        t = c.fit_temperature(logits[others], targets[others])
        scores.append(c.probabilities(logits[[i]], t).max())
    right = logits.argmax(1) == targets
    assert c.held_out_error(logits, targets) == pytest.approx(c.calibration_error(np.array(scores), right))


def test_the_held_out_gain_is_that_of_temperatures_of_the_others():
    logits, targets = drawn(3, images=43, sharpness=3.0)
    gains = []
    for i in range(43):
        others = [j for j in range(43) if j % 5 != i % 5]
        t = c.fit_temperature(logits[others], targets[others])
        of_one = (logits[[i]], targets[[i]])
        gains.append(c.negative_log_likelihood(*of_one) - c.negative_log_likelihood(*of_one, t))
    mean, error = c.held_out_gain(logits, targets)
    assert mean == pytest.approx(np.mean(gains))
    assert error == pytest.approx(np.std(gains, ddof=1) / np.sqrt(43))


def slow_auroc(known, unknown):
    wins = sum((k > u) + 0.5 * (k == u) for k in known for u in unknown)
    return wins / (len(known) * len(unknown))


@given(known=SCORES, unknown=SCORES)
def test_auroc_counts_pairs(known, unknown):
    assert c.auroc(known, unknown) == pytest.approx(slow_auroc(known, unknown))


@given(unknown=SCORES, share=st.sampled_from([0.0, 0.05, 1 / 3, 0.5, 0.99, 1.0]))
def test_a_threshold_lets_no_more_negatives_pass_than_wanted(unknown, share):
    threshold = c.threshold_accepting(unknown, share)
    assert (unknown >= threshold).mean() <= share + 1e-9
    lower = [s for s in [0.0, *unknown] if s < threshold - 1e-5]  # the next lower score would let too many pass
    assert not lower or (unknown >= max(lower)).mean() > share or max(lower) == 0
    assert (unknown.astype(np.float32) >= threshold).mean() <= share + 1e-9  # as the runtime rounds them


@given(known=SCORES, share=st.sampled_from([0.0, 0.05, 1 / 3, 0.5, 0.99, 1.0]))
def test_a_threshold_rejects_no_more_known_than_wanted(known, share):
    threshold = c.threshold_rejecting(known, share)
    assert (known < threshold).mean() <= share + 1e-9
    assert (known.astype(np.float32) < threshold).mean() <= share + 1e-9
    if share < 1:
        assert (known < threshold + 1e-5).mean() > share  # any higher would reject more
    assert threshold <= known.max()


def test_logits_are_those_that_the_classifier_makes_its_scores_of(bundle, image_files, tmp_path, caplog):
    (tmp_path / "broken.png").write_bytes(b"not an image")
    classifier = Classifier.load(bundle, device="cpu")
    files = [*image_files[:17], tmp_path / "broken.png", *image_files[17:20]]  # more than a batch
    logits, rows = c.logits_of(classifier, files)
    assert rows == [i for i in range(21) if i != 17]
    assert "broken.png is not a" in caplog.text
    assert "1 of 21 images for the scores cannot be read" in caplog.text
    expected = np.stack([p.probabilities for p in classifier([files[row] for row in rows])])
    assert np.abs(c.probabilities(logits) - expected).max() < 1e-5  # float32 softmax against float64
    nothing, rows = c.logits_of(classifier, [tmp_path / "broken.png"])
    assert (nothing.shape, rows) == ((0, 3), [])
