"""Pictures in, labels out: preprocess, vision graph, text cache or text graph, and one product with NumPy."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attri.runtime.bundle import Bundle
from attri.runtime.engines.base import Engine
from attri.runtime.engines.select import EngineOptions, open_engines
from attri.runtime.engines.verify import spot_check
from attri.runtime.errors import UsageError
from attri.runtime.preprocess import Preprocess
from attri.runtime.text.cache import TextCache
from attri.runtime.text.encoder import LabelSet, TextEncoder
from attri.runtime.text.hysteresis import RetrievalHysteresis

logger = logging.getLogger("attri")
Picture = str | Path | bytes | Image.Image | NDArray[np.uint8]
OWN: Literal["own"] = "own"  # in the place of a threshold: the bundle's, for the labels that it was chosen for
READERS = 2  # threads that decode and resize; Pillow leaves the others alone meanwhile


@dataclass(frozen=True)
class Prediction:
    """What was seen in one picture.

    label          the best label, or None where its score is below the rejection threshold
    score          probability of the best label, 0..1, whether rejected or not
    probabilities  float32 [C], in the order of `labels`
    retrieved      pool entries, int32 [L, M], each row ascending
    cache          "hit" where the text features were known
    latency_ms     preprocess, vision, text, and their total; of vision and text the picture's share of its batch
    threshold      the rejection threshold that these labels had; None never rejects
    """

    label: str | None
    score: float
    probabilities: NDArray[np.float32] = field(repr=False)
    labels: tuple[str, ...] = field(repr=False)
    retrieved: NDArray[np.int32] = field(repr=False)
    cache: str
    latency_ms: dict[str, float] = field(repr=False)
    threshold: float | None = field(default=None, repr=False)

    def top(self, count: int) -> list[tuple[str, float]]:
        """The best labels with their probabilities, best first; equal ones in the order of `labels`."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.labels[i], float(self.probabilities[i])) for i in order]


class Classifier:
    """An open-vocabulary classifier from a bundle. See `load`."""

    def __init__(
        self,
        bundle: Bundle,
        vision: Engine,
        text: Engine,
        labels: Sequence[str] | None,
        cache: TextCache,
        shortlist: int | None = None,
        batch: int = 16,
    ) -> None:
        manifest = bundle.manifest
        self.bundle, self.cache, self.batch = bundle, cache, batch
        self._threshold: float | Literal["own"] | None = OWN
        self._vision, self._text = vision, TextEncoder(bundle, text, cache, shortlist)
        self._preprocess = Preprocess(
            manifest.image["size"], tuple(manifest.image["mean"]), tuple(manifest.image["std"])
        )
        self._scale = np.float32(manifest.logit_scale / manifest.temperature)
        self._changing = threading.Lock()
        self._given = None if labels is None else self._label_set(labels)

    @classmethod
    def load(
        cls,
        path: Path | str = "bundle",
        labels: Sequence[str] | None = None,
        *,
        backend: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        engine_dir: Path | None = None,
        rebuild: bool = False,
        cache_bytes: int = 256 << 20,
        shortlist: int | None = None,
        batch: int = 16,
    ) -> Classifier:
        """Open and verify a bundle and start its graphs.

        Args:
            labels: what to tell apart, in plain words; None takes the classes that the prompt was trained on, and
                encodes them when they are needed.
            backend: "auto", "onnxruntime" or "tensorrt", see `EngineOptions`.
            device: "auto", "cpu", "cuda" or "tensorrt".
            threads: CPU threads; None is one per CPU that this process may use.
            engine_dir: the engine cache; None is engines/ in the bundle.
            rebuild: build TensorRT engines again, whatever is there.
            cache_bytes: bound on cached text features; 0 keeps none.
            shortlist: with more labels than this, prompt only so many, those that plain CLIP finds nearest.
            batch: pictures of a list that go through the graphs together.

        Raises:
            BundleError: The bundle is missing, damaged or too new.
            EngineError: What was asked for cannot run here.
            LabelsError: The labels cannot be used.
            MissingExtra: No engine is installed.
            ParityError: An engine does not agree with the model.
            UsageError: An argument is out of range, or two contradict each other.
        """
        _at_least("batch", batch, 1)
        _at_least("shortlist", shortlist, 1)
        _at_least("threads", threads, 1)
        _at_least("cache_bytes", cache_bytes, 0)
        with Bundle.open(path) as bundle, ExitStack() as undo:
            engines = open_engines(bundle, EngineOptions(backend, device, threads, engine_dir, rebuild))
            for engine in engines:
                undo.callback(engine.close)
            spot_check(bundle, *engines)
            classifier = cls(bundle, *engines, None, TextCache(cache_bytes), shortlist, batch)
            bundle.require_unchanged()
            if labels is not None:
                classifier.set_labels(labels)
            undo.pop_all()
        return classifier

    def close(self) -> None:
        """Give back the engines' device memory and the bundle's files; nothing is classified after it."""
        self._vision.close()
        self._text.close()

    @property
    def labels(self) -> tuple[str, ...]:
        """What is told apart. Assign a new sequence at any time; what is cached for other labels stays valid."""
        given = self._given
        return tuple(self.bundle.manifest.labels) if given is None else given.labels

    @labels.setter
    def labels(self, labels: Sequence[str]) -> None:
        self.set_labels(labels)

    @property
    def threshold(self) -> float | None:
        """Scores below it are none of the labels; None never rejects.

        The bundle's own was chosen from scores of its default labels: with others it says nothing, and is not applied.
        Assign one to reject with whatever labels, or None to reject nothing.
        """
        return self._threshold_of(self._given)

    @threshold.setter
    def threshold(self, threshold: float | None) -> None:
        self._threshold = threshold

    def _threshold_of(self, labels: LabelSet | None) -> float | None:
        """labels: None are the bundle's own, not encoded yet."""
        chosen = self._threshold
        if chosen != OWN:
            return chosen
        return self.bundle.manifest.threshold if labels is None or labels.own else None

    @property
    def leaves_threshold(self) -> bool:
        """Whether the bundle has a threshold that is not applied, since the labels are others than its own."""
        given = self._given
        foreign = given is not None and not given.own
        return self._threshold == OWN and foreign and self.bundle.manifest.threshold is not None

    @property
    def description(self) -> str:
        return self._vision.description

    def set_labels(
        self,
        labels: Sequence[str],
        places: Sequence[str] | None = None,
        prompts: Sequence[Sequence[str]] | None = None,
        template: str | None = None,
    ) -> None:
        """Like assigning `labels`.

        Args:
            places: name them in warnings ("labels.txt line 7").
            prompts: what to look for in the place of each label, one or more; the one that fits best gives its logit
                (our choice: the kinds of a defect stay kinds, where an average would look for something in between).
            template: the sentence around each, with {} in its place; None is the bundle's.
        """
        given = self._label_set(labels, places, prompts, template)
        _warn_of_one(given.labels)
        with self._changing:
            self._given = given

    def _label_set(
        self,
        labels: Sequence[str],
        places: Sequence[str] | None = None,
        prompts: Sequence[Sequence[str]] | None = None,
        template: str | None = None,
    ) -> LabelSet:
        if isinstance(labels, str):
            raise TypeError("labels is one string: give a list of strings")
        own = _same_words(labels, prompts, self.bundle.manifest.labels) and template in (None, self.template)
        return dataclasses.replace(self._text.label_set(labels, places, prompts, template), own=own)

    @property
    def _set(self) -> LabelSet:
        """What was given, or the bundle's own labels, encoded once somebody asks for them."""
        if self._given is None:
            with self._changing:  # or labels that come meanwhile would be replaced by these
                if self._given is None:
                    self._given = self._label_set(self.bundle.manifest.labels)
                    _warn_of_one(self._given.labels)
        return self._given

    @overload
    def __call__(self, pictures: Picture, steady: RetrievalHysteresis | None = None) -> Prediction: ...  # type: ignore[overload-overlap]  # str is a Sequence[str]
    @overload
    def __call__(self, pictures: Sequence[Picture], steady: RetrievalHysteresis | None = None) -> list[Prediction]: ...
    def __call__(
        self, pictures: Picture | Sequence[Picture], steady: RetrievalHysteresis | None = None
    ) -> Prediction | list[Prediction]:
        """Classify a picture, or a list of them, `batch` at a time: each a path, the bytes of a file, a PIL image or
        uint8 [H, W, 3] RGB.

        While a batch is classified, threads read the next.

        Args:
            steady: the memory of the video that the pictures are the next frames of; None is exact retrieval.

        Raises:
            ImageError: a picture cannot be read.
        """
        if isinstance(pictures, (str, Path, bytes, Image.Image, np.ndarray)):
            return self._classify([self._read(pictures)], steady)[0]
        with ThreadPoolExecutor(READERS) as pool:

            def read(start: int) -> list[Future[tuple[NDArray[np.float32], float]]]:
                return [pool.submit(self._read, picture) for picture in pictures[start : start + self.batch]]

            result: list[Prediction] = []
            ahead = read(0)
            for start in range(0, len(pictures), self.batch):
                current, ahead = ahead, read(start + self.batch)
                result += self._classify([each.result() for each in current], steady)
        return result

    @property
    def template(self) -> str:
        return self._text.template

    def encode_image(self, pixels: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """The vision graph alone. pixels [B, 3, S, S] -> unit features [B, D], retrieved entries [B, L, M]"""
        features, retrieved, _ = self._see(pixels)
        return features, retrieved

    def encode_text(self, retrieved: NDArray[np.int32]) -> list[NDArray[np.float32]]:
        """The text graph alone, without the cache. retrieved [B, L, M] -> B times unit features [C, D]"""
        labels = self._set
        return [features[labels.prompt] for features in self._text.run(labels.tokens, retrieved)]

    def _see(self, pixels: NDArray[np.float32]) -> list[NDArray[Any]]:
        """The vision graph's outputs, in as many runs as its engine asks for. pixels [B, 3, S, S]"""
        most = self._vision.limits.get("B", len(pixels))
        parts = [self._vision.run({"pixels": pixels[first : first + most]}) for first in range(0, len(pixels), most)]
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    def _read(self, picture: Picture) -> tuple[NDArray[np.float32], float]:
        """Pixels [3, S, S], and the seconds that they took."""
        started = time.perf_counter()
        return self._preprocess(picture), time.perf_counter() - started

    def _classify(
        self, pictures: Sequence[tuple[NDArray[np.float32], float]], steady: RetrievalHysteresis | None
    ) -> list[Prediction]:
        labels = self._set
        threshold = self._threshold_of(labels)  # of these labels, also where others come meanwhile
        started = time.perf_counter()
        pixels = np.stack([pixels for pixels, _ in pictures])  # [B, 3, S, S]
        features, retrieved, scores = self._see(pixels)
        if steady is not None:
            retrieved = np.stack([steady(of_image) for of_image in scores])
        seen = time.perf_counter()
        cosines, known = self._text.cosines(labels, features, retrieved)
        results = [_softmax(self._scale * np.maximum.reduceat(cosine, labels.starts)) for cosine in cosines]
        vision, text = (1000 * t / len(pictures) for t in (seen - started, time.perf_counter() - seen))
        predictions = []
        for result, entries, hit, (_, reading) in zip(results, retrieved, known, pictures, strict=True):
            parts = {"preprocess": 1000 * reading, "vision": vision, "text": text}
            latency = {name: round(t, 3) for name, t in (parts | {"total": sum(parts.values())}).items()}
            predictions.append(_prediction(labels.labels, threshold, result, entries, hit, latency))
        return predictions


def _prediction(
    labels: tuple[str, ...],
    threshold: float | None,
    probabilities: NDArray[np.float32],
    retrieved: NDArray[np.int32],
    hit: bool,
    latency: dict[str, float],
) -> Prediction:
    best = int(probabilities.argmax())
    score = float(probabilities[best])
    label = None if threshold is not None and score < threshold else labels[best]
    cache = "hit" if hit else "miss"
    return Prediction(label, score, probabilities, labels, retrieved, cache, latency, threshold)


def _warn_of_one(labels: Sequence[str]) -> None:
    if len(labels) == 1:
        logger.warning(
            'one label ("%s") always scores 100%%, whatever the threshold, since nothing is compared with it: add a'
            ' second for what else is seen, such as "background"',
            labels[0],
        )


def _same_words(labels: Sequence[str], prompts: Sequence[Sequence[str]] | None, own: Sequence[str]) -> bool:
    """In any order: the best score does not depend on it."""
    plain = prompts is None or all(list(group) == [label] for group, label in zip(prompts, labels, strict=True))
    return plain and sorted(labels) == sorted(own)


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise UsageError(f"{name} is {value}: give {least} or more")


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    exponent: NDArray[Any] = np.exp(logits - logits.max())
    result: NDArray[np.float32] = (exponent / exponent.sum()).astype(np.float32)
    return result
