"""How far a score can be trusted: a temperature for the probabilities, and a threshold for "none of these".

One temperature divides all logits (Guo et al. 2017, "On calibration of modern neural networks"). It is fitted on
validation pictures, which the prompt was not trained on and accuracy is not reported on, and moves no picture to
another class. A score below the threshold is rejected.
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
from attri.runtime.preprocess import Preprocess

LEAST, MOST = 1 / 20, 20.0  # temperatures that are looked at (our choice)
STEPS = 60  # halvings of their range in log scale: to the last bit and beyond
BINS = 15  # of the expected calibration error (Guo et al.)
FOLDS = 5  # that a temperature is tried on (our choice)
BATCH = 16
MARGIN = 1e-6  # the runtime's scores are float32: a threshold keeps this far from the score that it is made of
Array = NDArray[Any]
logger = logging.getLogger("attri")


def logits_of(classifier: Classifier, pictures: Sequence[Path]) -> tuple[NDArray[np.float64], list[int]]:
    """Uncalibrated logits [I, C] of the pictures that can be read, and which of `pictures` these are.

    The others are named and counted in warnings.
    """
    manifest = classifier.bundle.manifest
    image = manifest.image
    preprocess = Preprocess(image["size"], tuple(image["mean"]), tuple(image["std"]))
    found: list[Array] = [np.zeros((0, len(classifier.labels)))]
    rows: list[int] = []
    for start in range(0, len(pictures), BATCH):
        pixels = []
        for row, path in enumerate(pictures[start : start + BATCH], start):
            try:
                pixels.append(preprocess(path))
            except ImageError as error:
                logger.warning("left out of the scores: %s", error)
                continue
            rows.append(row)
        if pixels:
            features, retrieved = classifier.encode_image(np.stack(pixels))
            sets, inverse = np.unique(retrieved.reshape(len(retrieved), -1), axis=0, return_inverse=True)
            text = classifier.encode_text(sets.reshape(-1, *retrieved.shape[1:]))  # for each set [C, D]
            found.append(np.stack([text[i] @ f for i, f in zip(inverse.ravel(), features, strict=True)]))
    if missing := len(pictures) - len(rows):
        logger.warning("%d of %d pictures for the scores cannot be read", missing, len(pictures))
    return manifest.logit_scale * np.concatenate(found).astype(np.float64), rows


def probabilities(logits: Array, temperature: float = 1.0) -> NDArray[np.float64]:
    """Softmax of logits over the temperature, [I, C]"""
    scaled = logits / temperature
    exponent = np.exp(scaled - scaled.max(1, keepdims=True))
    result: NDArray[np.float64] = exponent / exponent.sum(1, keepdims=True)
    return result


def negative_log_likelihood(logits: Array, targets: Array, temperature: float = 1.0) -> float:
    """Mean over pictures, in nats. logits [I, C], targets [I]"""
    scaled = logits / temperature
    top = scaled.max(1)
    log_sum = np.log(np.exp(scaled - top[:, None]).sum(1)) + top
    return float((log_sum - scaled[np.arange(len(targets)), targets]).mean())


def fit_temperature(logits: Array, targets: Array) -> float | None:
    """The temperature of the least negative log-likelihood. logits [I, C], targets [I]

    In the inverse temperature the likelihood is convex: its slope, the mean of what the softmax expects of the logits
    less those of the truth, rises from end to end, and is halved down to its zero. None where it has no zero between
    LEAST and MOST: where every picture is right, ever smaller temperatures are ever better, and nothing is learned.
    """

    def slope(log_inverse: float) -> float:
        expected = (probabilities(logits, math.exp(-log_inverse)) * logits).sum(1)
        return float((expected - logits[np.arange(len(targets)), targets]).mean())

    low, high = -math.log(MOST), -math.log(LEAST)
    if len(targets) == 0 or not slope(low) < 0 < slope(high):
        return None
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def held_out_error(logits: Array, targets: Array, folds: int = FOLDS) -> float:
    """Calibration error where no picture had a part in its own temperature: the others' folds fitted it.

    logits [I, C], targets [I]; neighbours, which show one class, go to different folds.
    """
    fold = np.arange(len(targets)) % folds
    scores = np.zeros(len(targets))
    for number in range(folds):
        out = fold == number
        scores[out] = probabilities(logits[out], fit_temperature(logits[~out], targets[~out]) or 1.0).max(1)
    return calibration_error(scores, logits.argmax(1) == targets)


@dataclass(frozen=True)
class Bin:
    """Pictures whose score is in one part of 0..1: how many, their mean score, and the share that is right."""

    pictures: int
    score: float
    accuracy: float


def reliability(scores: Array, right: Array, bins: int = BINS) -> list[Bin]:
    """Equal parts of 0..1 that hold a picture, lowest first. scores [I], right [I] of 0 and 1"""
    part = np.clip((scores * bins).astype(int), 0, bins - 1)
    chosen = [part == number for number in range(bins)]
    return [Bin(int(c.sum()), float(scores[c].mean()), float(right[c].mean())) for c in chosen if c.any()]


def calibration_error(scores: Array, right: Array, bins: int = BINS) -> float:
    """Expected calibration error: how far score and accuracy are apart, averaged over pictures by bins."""
    found = reliability(scores, right, bins)
    return sum(b.pictures * abs(b.score - b.accuracy) for b in found) / max(1, len(scores))


def auroc(known: Array, unknown: Array) -> float:
    """How often a known picture's score is above an unknown one's, ties half: the area under the ROC curve.

    By ranks (Mann and Whitney's U), each tie at the mean of its places. known [I], unknown [J]
    """
    both = np.concatenate([known, unknown])
    _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # from 1
    wins = ranks[: len(known)].sum() - len(known) * (len(known) + 1) / 2
    return float(wins / (len(known) * len(unknown)))


def threshold_accepting(unknown: Array, share: float) -> float:
    """The least threshold that lets at most `share` of unknown pictures through (score >= threshold). unknown [J]"""
    highest = np.sort(unknown)[::-1]
    allowed = math.floor(share * len(unknown) + 1e-9)
    return float(highest[allowed] + MARGIN) if allowed < len(unknown) else 0.0


def threshold_rejecting(known: Array, share: float) -> float:
    """The greatest threshold that rejects at most `share` of known pictures (score < threshold). known [I]"""
    allowed = math.floor(share * len(known) + 1e-9)
    return max(0.0, float(np.sort(known)[min(allowed, len(known) - 1)] - MARGIN))


def summary(logits: Array, targets: Array, temperature: float) -> dict[str, Any]:
    """What parity.json keeps of labelled pictures, without the temperature and with it."""
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
    return {"pictures": len(targets), "classes": logits.shape[1], "accuracy": float(right.mean()), **sides}
