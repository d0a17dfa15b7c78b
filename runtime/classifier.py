"""Pictures in, labels out: preprocess, vision graph, text cache or text graph, and one product with NumPy."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime.bundle import MERGES, TEXT, VISION, Bundle
from attri.runtime.engine import Engine
from attri.runtime.ort import OrtEngine
from attri.runtime.preprocess import Preprocess
from attri.runtime.prompts import encode_labels
from attri.runtime.textcache import TextCache
from attri.runtime.tokenizer import Tokenizer

Picture = str | Path | Image.Image | NDArray[np.uint8]
TEXT_ROWS = 16384  # own tokens per run of the text graph: bounds its memory (about 1 GB at width 512)


@dataclass(frozen=True)
class Prediction:
    """What was seen in one picture.

    label          the best label, or None where its score is below the rejection threshold
    score          probability of the best label, 0..1, whether rejected or not
    probabilities  float32 [C], in the order of `labels`
    retrieved      pool entries, int32 [L, M], each row ascending
    cache          "hit" where the text features were known
    latency_ms     preprocess, vision, text, total; shares of the batch where several were given at once
    """

    label: str | None
    score: float
    probabilities: NDArray[np.float32] = field(repr=False)
    labels: tuple[str, ...] = field(repr=False)
    retrieved: NDArray[np.int32] = field(repr=False)
    cache: str
    latency_ms: dict[str, float] = field(repr=False)

    def top(self, count: int) -> list[tuple[str, float]]:
        """The best labels with their probabilities, best first; equal ones in the order of `labels`."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.labels[i], float(self.probabilities[i])) for i in order]


@dataclass(frozen=True)
class _LabelSet:
    """All that a set of labels is to the text graph; swapped whole, so that other threads see the old or the new."""

    labels: tuple[str, ...]
    digest: bytes
    stem: NDArray[np.float32]
    own: NDArray[np.float32]
    lengths: NDArray[np.int32]
    starts: NDArray[np.intp]  # [labels] where the prompts of each begin


class Classifier:
    """An open-vocabulary classifier from a bundle. See `load`."""

    def __init__(self, bundle: Bundle, vision: Engine, text: Engine, labels: Sequence[str], cache: TextCache) -> None:
        manifest = bundle.manifest
        self.bundle, self.cache = bundle, cache
        self.template: str = manifest.text["template"]
        self.threshold = manifest.threshold
        self._vision, self._text = vision, text
        self._preprocess = Preprocess(
            manifest.image["size"], tuple(manifest.image["mean"]), tuple(manifest.image["std"])
        )
        self._tokenizer = Tokenizer(bundle.file(MERGES))
        self._embedding = bundle.token_embedding()
        self._scale = np.float32(manifest.logit_scale / manifest.temperature)
        self._set = self._encode(labels)

    @classmethod
    def load(
        cls,
        path: Path | str = "bundle",
        labels: Sequence[str] | None = None,
        *,
        device: str = "auto",
        threads: int | None = None,
        cache_bytes: int = 256 << 20,
    ) -> Classifier:
        """Open and verify a bundle and start its graphs.

        Args:
            labels: what to tell apart, in plain words; None takes the classes that the prompt was trained on.
            device: "auto", "cpu" or "cuda".
            threads: on the CPU; None is one per core.
            cache_bytes: bound on cached text features.

        Raises:
            BundleError, EngineError, LabelsError, MissingExtra, UsageError
        """
        bundle = Bundle.open(path)
        words = bundle.manifest.labels if labels is None else labels
        engines = [OrtEngine(bundle.graph(name), device, threads) for name in (VISION, TEXT)]
        return cls(bundle, engines[0], engines[1], words, TextCache(cache_bytes))

    @property
    def labels(self) -> tuple[str, ...]:
        """What is told apart. Assign a new sequence at any time; what is cached for other labels stays valid."""
        return self._set.labels

    @labels.setter
    def labels(self, labels: Sequence[str]) -> None:
        self.set_labels(labels)

    @property
    def description(self) -> str:
        return self._vision.description

    def set_labels(
        self,
        labels: Sequence[str],
        places: Sequence[str] | None = None,
        prompts: Sequence[Sequence[str]] | None = None,
    ) -> None:
        """Like assigning `labels`.

        Args:
            places: name them in warnings ("labels.txt line 7").
            prompts: what to look for in the place of each label, one or more; the one that fits best gives its logit
                (our choice: the kinds of a defect stay kinds, where an average would look for something in between).
        """
        self._set = self._encode(labels, places, prompts)

    @overload
    def __call__(self, pictures: Picture) -> Prediction: ...  # type: ignore[overload-overlap]  # str is a Sequence[str]
    @overload
    def __call__(self, pictures: Sequence[Picture]) -> list[Prediction]: ...
    def __call__(self, pictures: Picture | Sequence[Picture]) -> Prediction | list[Prediction]:
        """Classify a picture (path, PIL image or uint8 [H, W, 3] RGB), or a list of them in one batch.

        Raises:
            ImageError: a picture cannot be read; none of its batch is classified.
        """
        if isinstance(pictures, (str, Path, Image.Image, np.ndarray)):
            return self._classify([pictures])[0]
        return self._classify(pictures) if pictures else []

    def encode_image(self, pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """The vision graph alone. pixels [B, 3, S, S] -> unit features [B, D], retrieved entries [B, L, M]"""
        features, retrieved = self._vision.run({"pixels": pixels})
        return features, retrieved

    def encode_text(self, retrieved: NDArray[np.int32]) -> list[NDArray[np.float32]]:
        """The text graph alone, without the cache. retrieved [B, L, M] -> B times unit features [C, D]"""
        return self._run_text(self._set, retrieved)

    def _classify(self, pictures: Sequence[Picture]) -> list[Prediction]:
        labels = self._set
        started = time.perf_counter()
        pixels = np.stack([self._preprocess(picture) for picture in pictures])  # [B, 3, S, S]
        prepared = time.perf_counter()
        features, retrieved = self.encode_image(pixels)
        seen = time.perf_counter()
        texts, known = self._text_features(labels, retrieved)
        logits = [self._scale * (text @ feature) for text, feature in zip(texts, features, strict=True)]  # B times [C]
        results = [_softmax(np.maximum.reduceat(each, labels.starts)) for each in logits]
        done = time.perf_counter()
        parts = {"preprocess": prepared - started, "vision": seen - prepared, "text": done - seen}
        latency = {name: round(1000 * t / len(pictures), 3) for name, t in (parts | {"total": done - started}).items()}
        return [
            self._prediction(labels, result, entries, hit, latency)
            for result, entries, hit in zip(results, retrieved, known, strict=True)
        ]

    def _prediction(
        self,
        labels: _LabelSet,
        probabilities: NDArray[np.float32],
        retrieved: NDArray[np.int32],
        hit: bool,
        latency: dict[str, float],
    ) -> Prediction:
        best = int(probabilities.argmax())
        score = float(probabilities[best])
        rejected = self.threshold is not None and score < self.threshold
        label = None if rejected else labels.labels[best]
        return Prediction(label, score, probabilities, labels.labels, retrieved, "hit" if hit else "miss", latency)

    def _text_features(
        self, labels: _LabelSet, retrieved: NDArray[np.int32]
    ) -> tuple[list[NDArray[np.float32]], list[bool]]:
        """Text features [C, D] of each image, and whether they were cached; equal entries are computed once."""
        keys = [(labels.digest, entries.tobytes()) for entries in retrieved]
        found = {key: self.cache.get(key) for key in dict.fromkeys(keys)}
        missing = [key for key, value in found.items() if value is None]
        known = [found[key] is not None for key in keys]
        if missing:
            rows = np.stack([retrieved[keys.index(key)] for key in missing])
            for key, value in zip(missing, self._run_text(labels, rows), strict=True):
                found[key] = value
                self.cache.put(key, value)
        return [found[key] for key in keys], known  # type: ignore[misc]  # every None was filled above

    def _run_text(self, labels: _LabelSet, retrieved: NDArray[np.int32]) -> list[NDArray[np.float32]]:
        """Run the text graph, as often as bounded memory wants. retrieved [B, L, M] -> B times [C, D]"""
        classes, tokens = labels.own.shape[:2]
        chunk = max(1, TEXT_ROWS // tokens)  # classes at a time
        images = max(1, TEXT_ROWS // (tokens * min(classes, chunk)))
        result = []
        for first in range(0, len(retrieved), images):
            parts = [
                self._text.run(
                    {
                        "retrieved": retrieved[first : first + images],
                        "stem": labels.stem,
                        "own": labels.own[start : start + chunk],
                        "lengths": labels.lengths[start : start + chunk],
                    }
                )[0]
                for start in range(0, classes, chunk)
            ]
            # Copies, because a view in the cache would keep its whole batch alive.
            result += [image.copy() for image in np.concatenate(parts, 1)]
        return result

    def _encode(
        self,
        labels: Sequence[str],
        places: Sequence[str] | None = None,
        prompts: Sequence[Sequence[str]] | None = None,
    ) -> _LabelSet:
        if isinstance(labels, str):
            raise TypeError("labels is one string: give a list of strings")
        labels = tuple(labels)
        text = self.bundle.manifest.text
        groups = [(label,) for label in labels] if prompts is None else prompts
        sizes = [len(group) for group in groups]
        if len(sizes) != len(labels) or 0 in sizes:
            raise ValueError("every label needs its own prompts, one or more")
        words = [prompt for group in groups for prompt in group]
        named = places and [place for place, size in zip(places, sizes, strict=True) for _ in range(size)]
        ids = encode_labels(self._tokenizer, words, self.template, text["context_length"], named)
        digest = hashlib.sha256(b"".join(part.tobytes() for part in (ids.stem, ids.tokens, ids.lengths))).digest()
        stem, own = (np.asarray(self._embedding[part], np.float32) for part in (ids.stem, ids.tokens))
        return _LabelSet(labels, digest, stem, own, ids.lengths, np.cumsum([0, *sizes[:-1]]))


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    exponent: NDArray[Any] = np.exp(logits - logits.max())
    result: NDArray[np.float32] = (exponent / exponent.sum()).astype(np.float32)
    return result
