"""The answer of the classifier for one image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Prediction:
    """The classification of one image.

    Attributes:
        label: The best label, or None where its score is below the rejection threshold.
        score: Probability of the best label, 0..1, whether rejected or not.
        probabilities: float32 [C], in the order of `labels`.
        labels: The C labels that were compared.
        retrieved: Retrieved pool entries, int32 [L, M], each row ascending.
        cache: "hit" where all text features were cached.
        latency_ms: Milliseconds of "preprocess", "vision", "text", and their "total"; vision and text are the image's
            share of its batch. Of several tasks on one vision pass each has its share of preprocess and vision.
        threshold: The rejection threshold that applied; None never rejects.
    """

    label: str | None
    score: float
    probabilities: NDArray[np.float32] = field(repr=False)
    labels: tuple[str, ...] = field(repr=False)
    retrieved: NDArray[np.int32] = field(repr=False)
    cache: Literal["hit", "miss"]
    latency_ms: dict[str, float] = field(repr=False)
    threshold: float | None = field(default=None, repr=False)

    def top(self, count: int) -> list[tuple[str, float]]:
        """The best labels with their probabilities, best first; equal ones in the order of `labels`."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.labels[i], float(self.probabilities[i])) for i in order]

    def to_dict(self, topk: int = 1) -> dict[str, Any]:
        """Plain Python values under the names that `attri-run --json` uses, with the best `topk` labels."""
        return {
            "label": self.label,
            "score": round(self.score, 6),
            "top": [{"label": label, "score": round(score, 6)} for label, score in self.top(topk)],
            "retrieved": self.retrieved.tolist(),
            "cache": self.cache,
            "latency_ms": self.latency_ms,
        }
