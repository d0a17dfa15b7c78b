"""Calibrate independent scores: for each label by itself, whether an image shows it, so that several may hold at once.

    score = sigmoid(scale * cosine + bias)

One scale and one bias for all labels are fitted by logistic regression (Platt 1999), in which images that show a label
and those that do not weigh the same, whatever the number of labels. The threshold is the score with the best F1, the
harmonic mean of precision and recall. A label with enough images of its own gets a threshold of its own, moved by how
much its images score above or below those of others, and drawn towards the common one where images are few.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from attri.runtime.prompt import IndependentScores

__all__ = ["MIN_POSITIVES", "balanced_accuracy", "best_f1", "fit_independent"]

MIN_POSITIVES = 10  # images of a label below which it has no threshold of its own (our choice)
RIDGE = 1e-4  # on the slope for cosines of unit variance: where labels are told apart without error it stays finite
PRIOR = 2.0  # images of a label that weigh as much as the wish for no offset (our choice)
FOLDS = 5  # of the cross-validation of thresholds (our choice)
STEPS = 50  # of Newton's method; it converges in about ten
Array = NDArray[Any]


def fit_independent(
    cosines: Array, targets: Array, labels: list[str], fixed: tuple[float, float] | None = None
) -> tuple[IndependentScores, dict[str, Any]] | None:
    """Fit scale, bias and thresholds.

    Thresholds of their own are kept only where they make the loss of held-out images less by more than one standard
    error.

    Args:
        cosines: Of images and labels [I, C].
        targets: The label that each image shows [I]; others are taken not to be in it.
        labels: Names of the labels.
        fixed: Scale and bias that the model was trained with; None fits them.

    Returns:
        The scores, and figures: how many thresholds of their `own` there are, the balanced accuracy without and, on
        held-out images, with them, and precision and recall. None where labels do not score higher on images that show
        them.
    """
    shown = np.arange(cosines.shape[1]) == targets[:, None]  # [I, C]
    scale, bias = _fit_line(cosines, shown) if fixed is None else fixed
    if scale <= 0:
        return None
    logits = scale * cosines + bias
    enough = np.minimum(shown.sum(0), (~shown).sum(0)) >= MIN_POSITIVES
    held_out, fold = np.zeros_like(logits), np.arange(len(targets)) % FOLDS
    for number in range(FOLDS):
        out = fold == number
        held_out[out] = logits[out] + _offsets(logits[~out], shown[~out], enough)
    gains = _losses(logits, shown) - _losses(held_out, shown)
    kept = gains.mean() > gains.std() / np.sqrt(len(gains))
    offsets = _offsets(logits, shown, enough) if kept else np.zeros(len(labels))
    limit = best_f1(held_out if kept else logits, shown)
    own = {label: float(_sigmoid(limit - offset)) for label, offset in zip(labels, offsets, strict=True) if offset}
    holds = (held_out if kept else logits) >= limit
    figures = {
        "own": len(own),
        "balanced_accuracy": balanced_accuracy(logits, shown),
        "balanced_accuracy_own": balanced_accuracy(held_out, shown),
        "precision": float(shown[holds].mean()),
        "recall": float(holds[shown].mean()),
    }
    return IndependentScores(scale, bias, float(_sigmoid(limit)), own), figures


def best_f1(logits: Array, shown: Array) -> float:
    """The logit from which on labels hold with the best F1 over all images and labels. [I, C] each."""
    order = np.argsort(-logits, axis=None, kind="stable")
    found = np.cumsum(shown.ravel()[order])
    best = int(np.argmax(2 * found / (np.arange(1, len(order) + 1) + shown.sum())))
    ends = logits.ravel()[order[best : best + 2]]  # halfway to the next, so that rounding moves none across
    return float(ends.mean())


def balanced_accuracy(logits: Array, shown: Array) -> float:
    """Mean over labels that some image shows of the shares of positives and negatives that are right. [I, C] each."""
    known = shown.any(0) & ~shown.all(0)
    held, is_shown = logits[:, known] >= 0, shown[:, known]
    right = [(held & is_shown).sum(0) / is_shown.sum(0), (~held & ~is_shown).sum(0) / (~is_shown).sum(0)]
    return float(np.mean(right))


def _fit_line(cosines: Array, shown: Array) -> tuple[float, float]:
    """Scale and bias with the least balanced loss, by Newton's method; it is convex."""
    x, y = cosines.ravel(), shown.ravel()
    centre, spread = float(x.mean()), float(x.std()) or 1.0
    design = np.stack([(x - centre) / spread, np.ones_like(x)], 1)
    weights = np.where(y, 0.5 / max(1, y.sum()), 0.5 / max(1, (~y).sum()))
    ridge = np.array([RIDGE, 0.0])
    line = np.zeros(2)
    for _ in range(STEPS):
        p = _sigmoid(design @ line)
        slope = design.T @ (weights * (p - y)) + ridge * line
        curve = (design * (weights * p * (1 - p))[:, None]).T @ design + np.diag(ridge + 1e-9)
        line -= np.linalg.solve(curve, slope)
    return float(line[0] / spread), float(line[1] - line[0] * centre / spread)


def _offsets(logits: Array, shown: Array, enough: Array) -> Array:
    """What to add to the logits of each label [C]; 0 for those with too few images."""
    result = np.zeros(logits.shape[1])
    for label in np.flatnonzero(enough):
        x, y = logits[:, label], shown[:, label]
        if not y.any():  # in a part of the images
            continue
        weights = np.where(y, 0.5 / y.sum(), 0.5 / (~y).sum())
        low, high = -20.0, 20.0
        for _ in range(60):  # the slope rises with the offset, and has one zero
            middle = (low + high) / 2
            slope = (weights * (_sigmoid(x + middle) - y)).sum() + PRIOR / y.sum() * middle
            low, high = (middle, high) if slope < 0 else (low, middle)
        result[label] = (low + high) / 2
    return result


def _losses(logits: Array, shown: Array) -> Array:
    """Balanced loss of each image [I], whose mean is that of the labels that some image shows. [I, C] each."""
    known = shown.any(0) & ~shown.all(0)
    x, y = logits[:, known], shown[:, known]
    weights = np.where(y, 0.5 / y.sum(0), 0.5 / (~y).sum(0))
    return np.asarray(len(x) * (weights * np.logaddexp(0, np.where(y, -x, x))).mean(1))


def _sigmoid(x: Any) -> Any:
    return 0.5 * (1 + np.tanh(np.asarray(x, np.float64) / 2))
