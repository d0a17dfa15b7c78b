"""The answer of the classifier for one image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from attri.runtime.errors import BundleError, UsageError
from attri.runtime.prompt_file.training_images import NOT_KEPT, NearImage, TrainingImages

NEAREST = 3  # training images that are shown


@dataclass(frozen=True)
class RetrievedEntry:
    """A pool entry that an image retrieved for a text block.

    Attributes:
        entry: Its number.
        times: Cluster centres that retrieved it, which is its weight: prompts are never scaled.
        cosine: Of its key and the centre that is nearest to it.
        attracts: Classes of the training that it attracts, the strongest first; empty where there are none, or where
            the prompt does not say.
    """

    entry: int
    times: int
    cosine: float
    attracts: tuple[str, ...]


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
        thresholds: float32 [C], the score from which on each label holds, where labels are independent: then
            `probabilities` are of each label by itself, and `label` is the best of those that hold. None where labels
            compete.
        image_feature: The image's unit feature, float32 [D]; None where nobody computed it.
        prompt: sha256 of the learned prompt that answered, in hexadecimal (`Prompt.digest`); None where nobody said.
        key_cosines: Cosines of cluster centres and keys of pool entries, float32 [L, K, N]; None where entries do not
            depend on the image.
        attracts: `PromptFacts.attracts` of that prompt; None where `key_cosines` is.
        patches: Contributions of the image's patches to its cosine with the best label, float32 [h, w]; None where
            nobody asked for them.
        training_images: Those that the prompt's file keeps features of; None where it keeps none.
    """

    label: str | None
    score: float
    probabilities: NDArray[np.float32] = field(repr=False)
    labels: tuple[str, ...] = field(repr=False)
    retrieved: NDArray[np.int32] = field(repr=False)
    cache: Literal["hit", "miss"]
    latency_ms: dict[str, float] = field(repr=False)
    threshold: float | None = field(default=None, repr=False)
    thresholds: NDArray[np.float32] | None = field(default=None, repr=False)
    image_feature: NDArray[np.float32] | None = field(default=None, repr=False)
    prompt: str | None = field(default=None, repr=False)
    key_cosines: NDArray[np.float32] | None = field(default=None, repr=False)
    attracts: Sequence[Sequence[Sequence[str]]] | None = field(default=None, repr=False)
    patches: NDArray[np.float32] | None = field(default=None, repr=False)
    training_images: TrainingImages | None = field(default=None, repr=False)

    @property
    def entries(self) -> list[list[RetrievedEntry]] | None:
        """Pool entries that the image retrieved for each text block, ascending; None where they do not depend on it."""
        if self.key_cosines is None:
            return None
        return [
            [
                RetrievedEntry(
                    entry, times, float(self.key_cosines[block, :, entry].max()), self.attracted(block, entry)
                )
                for entry, times in Counter(row.tolist()).items()
            ]
            for block, row in enumerate(self.retrieved)
        ]

    def attracted(self, block: int, entry: int) -> tuple[str, ...]:
        """Classes of the training that a pool entry of a text block attracts; empty where the prompt does not say."""
        return () if self.attracts is None else tuple(self.attracts[block][entry])

    def nearest_images(self, count: int = NEAREST) -> list[NearImage]:
        """The training images whose features are nearest to the image's, nearest first.

        The first call for a prompt reads them from its file.

        Raises:
            UsageError: The prompt keeps none, or nobody computed the image's feature.
            BundleError: The file was replaced since the prompt was read from it.
        """
        if self.training_images is None:
            raise UsageError(NOT_KEPT)
        if self.image_feature is None:
            raise UsageError("this prediction has no image feature to compare training images with")
        return self.training_images.nearest(self.image_feature, count)

    def nearest_json(self) -> dict[str, Any]:
        """`nearest_images` as a field of JSON: none where the prompt keeps none, null where its file was replaced."""
        if self.training_images is None:
            return {}
        try:
            near = [asdict(each) | {"cosine": round(each.cosine, 4)} for each in self.nearest_images()]
        except BundleError:
            return {"nearest_images": None}
        return {"nearest_images": near}

    @property
    def held(self) -> tuple[tuple[str, float], ...] | None:
        """Of independent labels those that hold, with their probabilities, best first; None where labels compete."""
        if self.thresholds is None:
            return None
        holds = dict(zip(self.labels, self.probabilities >= self.thresholds, strict=True))
        return tuple(each for each in self.top(len(self.labels)) if holds[each[0]])

    def top(self, count: int) -> list[tuple[str, float]]:
        """The best labels with their probabilities, best first; equal ones in the order of `labels`."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.labels[i], float(self.probabilities[i])) for i in order]

    def to_dict(self, topk: int = 1, why: bool = False) -> dict[str, Any]:
        """Plain Python values under the names that `attri-run --json` uses.

        Args:
            topk: How many of the best labels.
            why: Add what is known of the retrieved entries (`entries`), and the nearest training images.
        """
        return {
            "label": self.label,
            "score": round(self.score, 6),
            **({} if self.held is None else {"labels": labels_json(self.held)}),
            "top": labels_json(self.top(topk)),
            "retrieved": self.retrieved.tolist(),
            **({"why": self._why(), **self.nearest_json()} if why else {}),
            "cache": self.cache,
            "latency_ms": self.latency_ms,
        }

    def _why(self) -> list[list[dict[str, Any]]] | None:
        if self.entries is None:
            return None
        return [[asdict(each) | {"cosine": round(each.cosine, 4)} for each in block] for block in self.entries]


def labels_json(held: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    """Labels with their scores as JSON values."""
    return [{"label": label, "score": round(score, 6)} for label, score in held]
