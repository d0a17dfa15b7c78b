"""Calibrate scores: temperature scaling, calibration error, and thresholds that reject unknown images.

One temperature divides all logits (Guo et al. 2017, "On calibration of modern neural networks"). It is fitted on
validation images, which the prompt was not trained on and accuracy is not reported on, and moves no image to another
class. A score below the threshold is rejected.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attri.runtime.classifier import Classifier
from attri.runtime.errors import ImageError

__all__ = [
    "auroc",
    "calibration_error",
    "fit_temperature",
    "held_out_error",
    "held_out_gain",
    "logits_of",
    "negative_log_likelihood",
    "probabilities",
    "reliability",
    "summary",
    "threshold_accepting",
    "threshold_rejecting",
]

MIN_TEMPERATURE, MAX_TEMPERATURE = 1 / 20, 20.0  # range of the search (our choice)
STEPS = 60  # bisections of that range in log scale: float64 has no more bits
BINS = 15  # of the expected calibration error (Guo et al.)
FOLDS = 5  # of the cross-validation of a temperature (our choice)
BATCH = 16  # images at once (our choice)
MARGIN = 1e-6  # the runtime's scores are float32: a threshold keeps this far from the score that it was taken from
Array = NDArray[Any]
_LOGGER = logging.getLogger("attri")


def logits_of(classifier: Classifier, images: Sequence[Path | str]) -> tuple[NDArray[np.float64], list[int]]:
    """Compute uncalibrated logits of the images that can be read; the others are named and counted in warnings.

    Args:
        classifier: gives features; its temperature is not applied.
        images: image files.

    Returns:
        Logits [I, C], and the index in `images` of each row.
    """
    manifest = classifier.bundle.manifest
    preprocess = classifier.bundle.preprocess()
    found: list[Array] = [np.zeros((0, len(classifier.labels)))]
    rows: list[int] = []
    for start in range(0, len(images), BATCH):
        pixels = []
        for row, path in enumerate(images[start : start + BATCH], start):
            try:
                pixels.append(preprocess(path))
            except ImageError as error:
                _LOGGER.warning("left out of the scores: %s", error)
                continue
            rows.append(row)
        if pixels:
            found.append(classifier.cosines(*classifier.encode_image(np.stack(pixels))))
    if missing := len(images) - len(rows):
        _LOGGER.warning("%d of %d images for the scores cannot be read", missing, len(images))
    return manifest.logit_scale * np.concatenate(found).astype(np.float64), rows


def probabilities(logits: Array, temperature: float = 1.0) -> NDArray[np.float64]:
    """Softmax of the logits divided by the temperature. [I, C] -> [I, C]."""
    scaled = logits / temperature
    exponent = np.exp(scaled - scaled.max(1, keepdims=True))
    result: NDArray[np.float64] = exponent / exponent.sum(1, keepdims=True)
    return result


def negative_log_likelihood(logits: Array, targets: Array, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood in nats. logits [I, C], targets [I]."""
    scaled = logits / temperature
    top = scaled.max(1)
    log_sum = np.log(np.exp(scaled - top[:, None]).sum(1)) + top
    return float((log_sum - scaled[np.arange(len(targets)), targets]).mean())


def fit_temperature(logits: Array, targets: Array) -> float | None:
    """Find the temperature with the least negative log-likelihood, by bisection. logits [I, C], targets [I].

    The negative log-likelihood is convex in the inverse temperature. Its slope, the mean of the expected logit under
    the softmax minus the logit of the true class, rises monotonically, and has at most one zero.

    Returns:
        The temperature, or None where the slope has no zero between `MIN_TEMPERATURE` and `MAX_TEMPERATURE`: where
        every image is right, ever smaller temperatures are ever better.
    """

    def slope(log_inverse: float) -> float:
        expected = (probabilities(logits, math.exp(-log_inverse)) * logits).sum(1)
        return float((expected - logits[np.arange(len(targets)), targets]).mean())

    low, high = -math.log(MAX_TEMPERATURE), -math.log(MIN_TEMPERATURE)
    if len(targets) == 0 or not slope(low) < 0 < slope(high):
        return None
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def _held_out_temperatures(logits: Array, targets: Array, folds: int) -> NDArray[np.float64]:
    """For each image the temperature of the other folds [I]. Neighbours, which show one class, are apart."""
    fold = np.arange(len(targets)) % folds
    temperatures = np.ones(len(targets))
    for number in range(folds):
        out = fold == number
        temperatures[out] = fit_temperature(logits[~out], targets[~out]) or 1.0
    return temperatures


def held_out_error(logits: Array, targets: Array, folds: int = FOLDS) -> float:
    """Cross-validated calibration error: each fold is scored with the temperature of the other folds.

    logits [I, C], targets [I]
    """
    temperatures = _held_out_temperatures(logits, targets, folds)
    scores = probabilities(logits / temperatures[:, None]).max(1)
    return calibration_error(scores, logits.argmax(1) == targets)


def held_out_gain(logits: Array, targets: Array, folds: int = FOLDS) -> tuple[float, float]:
    """Cross-validated gain in log-likelihood of a temperature, in nats an image: its mean and standard error.

    Unlike the calibration error it has no bins, so that few images tell whether a temperature does any good.
    logits [I, C], targets [I], two images or more.
    """
    temperatures = _held_out_temperatures(logits, targets, folds)
    rows = np.arange(len(targets))
    likely, before = (np.log(probabilities(each)[rows, targets]) for each in (logits / temperatures[:, None], logits))
    gains = likely - before
    return float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(len(gains)))


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability diagram."""

    images: int  # whose score is in the bin
    score: float  # their mean score
    accuracy: float  # share of them that is right


def reliability(scores: Array, right: Array, bins: int = BINS) -> list[Bin]:
    """Reliability diagram: the non-empty ones of equal bins of 0..1, lowest first. scores [I], right [I] of 0 and 1."""
    part = np.clip((scores * bins).astype(int), 0, bins - 1)
    chosen = [part == number for number in range(bins)]
    return [Bin(int(c.sum()), float(scores[c].mean()), float(right[c].mean())) for c in chosen if c.any()]


def calibration_error(scores: Array, right: Array, bins: int = BINS) -> float:
    """Expected calibration error: |score - accuracy| of each bin, weighted by its images. scores [I], right [I]."""
    found = reliability(scores, right, bins)
    return sum(b.images * abs(b.score - b.accuracy) for b in found) / max(1, len(scores))


def auroc(known: Array, unknown: Array) -> float:
    """Area under the ROC curve: how often a known image scores above an unknown one, ties counted half.

    By ranks (Mann and Whitney's U); ties share the mean of their ranks. known [I], unknown [J]
    """
    both = np.concatenate([known, unknown])
    _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # from 1
    wins = ranks[: len(known)].sum() - len(known) * (len(known) + 1) / 2
    return float(wins / (len(known) * len(unknown)))


def threshold_accepting(unknown: Array, share: float) -> float:
    """The least threshold that accepts at most `share` of unknown images (score >= threshold). unknown [J]."""
    highest = np.sort(unknown)[::-1]
    allowed = math.floor(share * len(unknown) + 1e-9)
    return float(highest[allowed] + MARGIN) if allowed < len(unknown) else 0.0


def threshold_rejecting(known: Array, share: float) -> float:
    """The greatest threshold that rejects at most `share` of known images (score < threshold). known [I]."""
    allowed = math.floor(share * len(known) + 1e-9)
    return max(0.0, float(np.sort(known)[min(allowed, len(known) - 1)] - MARGIN))


def summary(logits: Array, targets: Array, temperature: float) -> dict[str, Any]:
    """Figures of labelled images for parity.json, without the temperature ("before") and with it ("after")."""
    right = logits.argmax(1) == targets
    sides = {}
    for name, t in (("before", 1.0), ("after", temperature)):
        scores = probabilities(logits, t).max(1)
        sides[name] = {
            "nll": negative_log_likelihood(logits, targets, t),
            "ece": calibration_error(scores, right),
            "score": float(scores.mean()),
            "bins": [asdict(b) for b in reliability(scores, right)],
        }
    return {"images": len(targets), "classes": logits.shape[1], "accuracy": float(right.mean()), **sides}
